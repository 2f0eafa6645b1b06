#!/bin/sh
# Measures the daemon and the hub beside a node agent, a small node hub, Bun where
# it is installed, a bare echo and a bare hub on the same libraries, and bare git and
# find:
#
#	scripts/bench.sh [ROUNDS [TIME [REPOS]]]
#
# It needs Go, git, node and npm, and takes some minutes. All programs run at the
# same time and are measured in turns, so that a noisy machine disturbs all of them;
# the tables show medians. CPU is the user and system time for each request of the
# agent, of hub and agent, or of the daemon and its git; it is the steadiest figure.
# The repositories that git is measured on are made in the directory REPOS, and
# used again by the next run with it; the largest has 13,000 files. To measure git
# and find alone:
#
#	scripts/bench.sh git [ROUNDS [REPOS]]
#
# Clones are written below TMPDIR. On a disk they measure the file system, and on ext4
# without a journal what was removed in the minutes before: it passes over the inode of
# each file that was just removed, one by one. Set TMPDIR to a directory in memory.
set -eu
only=
if [ "${1:-}" = git ]; then
	only=git
	set -- "${2:-9}" '' "${3:-}"
fi
rounds=${1:-5}
time=${2:-1s}
repos=${3:-}
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
pids=
cleanup() {
	for pid in $pids; do
		kill "$pid" 2>/dev/null || true
	done
	wait
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

scripts/build.sh c4a-daemon "$dir/c4a-daemon"
(cd testdata/bench && go build -o "$dir/bench" .)
machine="$(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(uname -sr), $(go version | cut -d ' ' -f 3)"
if [ "$only" = git ]; then
	printf '%s, %s\n\n' "$machine" "$(git --version)"
	mkdir -p "${repos:=$dir/repos}"
	"$dir/bench" -repos "$repos" -rounds "$rounds" "$dir/c4a-daemon"
	exit
fi
scripts/build.sh c4a-daemon-scheduler "$dir/c4a-daemon-scheduler"
cp testdata/bench/agent.js testdata/bench/hub.js "$dir"
(cd "$dir" && npm install --silent --no-audit --no-fund ws@8.23.0 >/dev/null)

# Source-like text: one character in twenty needs an escape.
mkdir -p "$dir/files/1/2/3/4"
awk 'BEGIN { for (i = 0; i < 12000; i++) printf "\tif err := s.store.Put(ctx, \"key/%06d\", value); err != nil { return }\n", i }' >"$dir/text"
head -c 65536 "$dir/text" >"$dir/files/64k.txt"
head -c 1048576 "$dir/text" >"$dir/files/1m.txt"
cp "$dir/files/64k.txt" "$dir/files/1/2/3/4/64k.txt"

echo "$machine, $(git --version), node $(node --version)"
echo
echo "An agent that dials in ($rounds rounds of $time):"
echo
set -- "node=node $dir/agent.js {url}" "c4a-daemon=$dir/c4a-daemon --server {url} --allow $dir/files --machine-id bench --log-level error" "echo=$dir/bench echo {url}"
if command -v bun >/dev/null; then
	set -- "$@" "bun=bun $dir/agent.js {url}"
fi
"$dir/bench" -rounds "$rounds" -time "$time" -files "$dir/files" "$@"

ours=$("$dir/bench" port)
theirs=$("$dir/bench" port)
bare=$("$dir/bench" port)
"$dir/c4a-daemon-scheduler" --port "$ours" --workspace "$dir/workspace" --log-level error &
pids="$pids $!" our_hub=$!
node "$dir/hub.js" "$theirs" &
pids="$pids $!" their_hub=$!
"$dir/bench" hub "$bare" &
pids="$pids $!" bare_hub=$!
"$dir/bench" await "127.0.0.1:$ours" "127.0.0.1:$theirs" "127.0.0.1:$bare"
"$dir/c4a-daemon" --server "127.0.0.1:$bare" --allow "$dir/files" --machine-id bench --log-level error &
pids="$pids $!" bare_agent=$!
"$dir/c4a-daemon" --server "127.0.0.1:$ours" --allow "$dir/files" --machine-id bench --log-level error &
pids="$pids $!" our_agent=$!
node "$dir/agent.js" "ws://127.0.0.1:$theirs/" &
pids="$pids $!" their_agent=$!
sleep 1 # the agents are connected
echo
echo "A call through a hub, over HTTP with keep-alive:"
echo
"$dir/bench" -hubs -rounds "$rounds" -time "$time" -files "$dir/files" \
	"node hub=http://127.0.0.1:$theirs/=$their_hub,$their_agent" \
	"c4a hub=http://127.0.0.1:$ours/machines/bench/rpc=$our_hub,$our_agent" \
	"bare hub=http://127.0.0.1:$bare/=$bare_hub,$bare_agent"

echo
echo "Git and files, against the bare commands:"
echo
mkdir -p "${repos:=$dir/repos}"
"$dir/bench" -repos "$repos" -rounds "$rounds" "$dir/c4a-daemon"
