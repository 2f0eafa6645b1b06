#!/usr/bin/env bash
# The first hour of somebody who has a machine without Go: "curl … | sh" from a
# release tree makes a server, "curl … | sh" from that server makes a user's
# machine, which connects and clones. Both within a minute.
#
#   scripts/test-first-use.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git python3:python3 curl:curl
server=$tmp/server laptop=$tmp/laptop
debian_root "$server"
debian_root "$laptop"

git clone --quiet --no-tags . "$tmp/source"
C4A_TARGETS=linux/$(go env GOARCH) "$tmp/source/scripts/release.sh" "$tmp/release" >/dev/null
version=$(cat "$tmp/release/latest")
files=$(free_port) port=$(free_port)
python3 -m http.server --bind 127.0.0.1 --directory "$tmp/release" "$files" >/dev/null 2>&1 &
at_end_kill $!
wait_for 'the release tree' curl -sf "http://127.0.0.1:$files/latest"
git init -q "$laptop/home/project"
git -C "$laptop/home/project" -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first

start=$SECONDS
in_root "$server" sh -c "curl -fsSL http://127.0.0.1:$files/$version/install.sh | C4A_BASE_URL=http://127.0.0.1:$files sh" >"$tmp/out" 2>&1 ||
	die "install.sh from a release tree: $(cat "$tmp/out")"
in_root_exec "$server" c4a-daemon-scheduler --port "$port" --workspace /var/lib/c4a >"$tmp/scheduler" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"

in_root "$laptop" sh -c "curl -fsSL http://127.0.0.1:$port/install.sh | sh" >"$tmp/out" 2>&1 || die "install.sh from a scheduler: $(cat "$tmp/out")"
grep -q "c4a-daemon --server ws://127.0.0.1:$port " "$tmp/out" || die "install.sh does not say how to connect: $(cat "$tmp/out")"
[[ $(in_root "$laptop" c4a-daemon --version) == "c4a-daemon $version "* ]] || die 'the daemon has another version than its scheduler'
in_root_exec "$laptop" c4a-daemon --server "ws://127.0.0.1:$port" --allow /home/project --work-dir /home/work --machine-id laptop >"$tmp/daemon" 2>&1 &
at_end_kill $!
call() {
	curl -s "http://127.0.0.1:$port/machines/laptop/rpc" -d '{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"/home/project"}}'
}
connected() { call | grep -q '"action"'; }
wait_for 'a clone on the laptop' connected
took=$((SECONDS - start))
call >"$tmp/out"
grep -q '"action":"unchanged"\|"action":"updated"\|"action":"up' "$tmp/out" || die "a second clone: $(cat "$tmp/out")"
((took < 60)) || die "from nothing to a clone: $took s, want less than 60"
printf 'from nothing to a clone through two installations: %d s\n' "$took"
