#!/usr/bin/env bash
# Replaces, then removes, the file of a running scheduler: it goes on starting
# daemons of its own version, and /health and the log say that a restart is due.
# A restart runs the new version on the old workspace, and back.
#
#   scripts/test-upgrade.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git curl:curl python3:python3

host=linux/$(go env GOARCH)
[[ $(uname -s) == Linux ]] || host=$(go env GOOS)/$(go env GOARCH)
for version in 0.1.1 0.1.2; do
	git clone --quiet --no-tags . "$tmp/source-$version"
	git -C "$tmp/source-$version" tag "v$version"
	C4A_TARGETS=$host "$tmp/source-$version/scripts/release.sh" "$tmp/release" >/dev/null
done
install() { C4A_BASE_URL=file://$tmp/release C4A_VERSION=$1 C4A_BIN_DIR=$tmp/bin sh install.sh >"$tmp/out" 2>&1 || die "install.sh: $(cat "$tmp/out")"; }
git init -q "$tmp/repo"
git -C "$tmp/repo" -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first

port=$(free_port)
start() {
	"$tmp/bin/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/workspace" --allow "$tmp/repo" >"$tmp/log" 2>&1 &
	scheduler=$!
	at_end_kill "$scheduler"
	wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"
}
stop() {
	kill "$scheduler"
	wait "$scheduler" || die "the scheduler's end: $(cat "$tmp/log")"
}
health() { curl -s "http://127.0.0.1:$port/health"; }
daemon_version() { # LIBRARY: of its daemon's handshake
	curl -s "http://127.0.0.1:$port/libraries/$1/rpc" -d '{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"'"$tmp/repo"'"}}' >"$tmp/answer"
	grep -q '"action":"'"$2"'"' "$tmp/answer" || die "a clone in $1: $(cat "$tmp/answer")"
	curl -s "http://127.0.0.1:$port/machines/cloud_$1" | grep -o '"version":"[^"]*"' | head -n 1
}
want() { [[ $3 == "$2" ]] || die "$1: $3, want $2; the log: $(cat "$tmp/log")"; }

install 0.1.1
start
[[ $(health) == *'"restart_due":false'* ]] || die "a restart is due at once: $(health)"
want 'a daemon before the upgrade' '"version":"0.1.1"' "$(daemon_version before cloned)"
install 0.1.2
[[ $(health) == *'"version":"0.1.1"'*'"restart_due":true'* ]] || die "no restart is due after the upgrade: $(health)"
grep -q 'a restart' "$tmp/log" || die "the log says nothing of a restart: $(cat "$tmp/log")"
want 'a daemon after the upgrade' '"version":"0.1.1"' "$(daemon_version replaced cloned)"
rm "$tmp/bin/c4a-daemon-scheduler"
want 'a daemon after the removal' '"version":"0.1.1"' "$(daemon_version removed cloned)"
want 'the build that it serves' 0.1.1 "$(curl -s "http://127.0.0.1:$port/bin/latest")"
stop
install 0.1.2
start
want 'a daemon after the restart' '"version":"0.1.2"' "$(daemon_version before unchanged)"
stop
# And back.
install 0.1.1
start
want 'a daemon after going back' '"version":"0.1.1"' "$(daemon_version before unchanged)"
stop
printf 'upgrade: own version until the restart, the workspace is kept, and back\n'
