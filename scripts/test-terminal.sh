#!/usr/bin/env bash
# The command line in a real terminal (tmux), 80 and 40 columns wide: the progress
# bar of call, which fits and follows a resize, status --watch, and --check of a
# broken set-up. No line may be wider than the terminal.
#
#   scripts/test-terminal.sh [DIRECTORY]    also writes what the screen shows to files
set -euo pipefail
keep=${1:+$(mkdir -p -- "$1" && cd -- "$1" && pwd)}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git tmux:tmux curl:curl
CGO_ENABLED=0 go build -tags scheduler -o "$tmp/c4a-daemon-scheduler" .
CGO_ENABLED=0 go build -o "$tmp/c4a-daemon" .

# A handler that reports progress until it is told to stop.
cat >"$tmp/slow" <<'HANDLER'
#!/bin/sh
cat >/dev/null
for percent in 5 20 40 60 80 95; do
	printf '{"percent":%s,"message":"work"}\n' "$percent" >&3
	sleep 1
done
echo '{"done":true}'
HANDLER
chmod +x "$tmp/slow"
port=$(free_port)
"$tmp/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/workspace" >"$tmp/scheduler.log" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"
"$tmp/c4a-daemon" --server "127.0.0.1:$port" --allow "$tmp" --machine-id laptop --handler "my/slow=$tmp/slow" >"$tmp/daemon.log" 2>&1 &
at_end_kill $!
wait_for 'the machine' sh -c "curl -sf http://127.0.0.1:$port/machines/laptop | grep -q online"
"$tmp/c4a-daemon-scheduler" bind demo laptop --port "$port"

export TMUX_TMPDIR=$tmp
at_end+=("tmux kill-server 2>/dev/null")
screen() { tmux capture-pane -p -t "$1"; }
# shows WINDOW PATTERN waits until the screen has a line like it.
shows() {
	local i
	for ((i = 0; i < 150; i++)); do
		if screen "$1" | grep -q -- "$2"; then return; fi
		sleep 0.1
	done
	die "$1: want '$2' on the screen: $(screen "$1")"
}
keep() { if [[ -n $keep ]]; then screen "$1" >"$keep/$1.txt"; fi; }
# run WINDOW COLUMNS COMMAND... starts a terminal of that width.
run() {
	local window=$1 columns=$2
	shift 2
	tmux new-session -d -s "$window" -x "$columns" -y 24 "$*; printf 'exit %s\n' \$?; cat"
}

for columns in 80 40; do
	run "call-$columns" "$columns" "$tmp/c4a-daemon-scheduler call --port $port demo my/slow"
	shows "call-$columns" '\(20\|40\|60\)% '
	keep "call-$columns"
	[[ $(screen "call-$columns" | grep -c '%') == 1 ]] || die "call, $columns columns: want the bar on one line: $(screen "call-$columns")"
	if ((columns == 80)); then
		tmux resize-window -t "call-$columns" -x 30 -y 24
		shows "call-$columns" '\(60\|80\|95\)% '
		[[ $(screen "call-$columns" | grep -c '%') == 1 ]] || die "call after a resize: want the bar on one line: $(screen "call-$columns")"
	fi
	shows "call-$columns" 'exit 0'
	if screen "call-$columns" | grep -q '%'; then die "call: want no bar at the end: $(screen "call-$columns")"; fi

	run "watch-$columns" "$columns" "$tmp/c4a-daemon-scheduler status --watch --port $port"
	shows "watch-$columns" '^MACHINE'
	[[ $(screen "watch-$columns" | grep -c '^scheduler') == 1 ]] || die "status --watch: want one status on the screen: $(screen "watch-$columns")"
	keep "watch-$columns"
	tmux send-keys -t "watch-$columns" C-c
	shows "watch-$columns" 'exit 0'

	run "cancel-$columns" "$columns" "$tmp/c4a-daemon-scheduler call --port $port demo my/slow"
	shows "cancel-$columns" '20% '
	tmux send-keys -t "cancel-$columns" C-c
	shows "cancel-$columns" 'exit 130'
	screen "cancel-$columns" | tr -d '\n' | grep -q 'was cancelled' || die "Ctrl-C: want a line that says so: $(screen "cancel-$columns")"
	keep "cancel-$columns"

	run "check-$columns" "$columns" "PATH=/none $tmp/c4a-daemon-scheduler --check --port $port --workspace /proc/none --server 127.0.0.1:1"
	shows "check-$columns" 'exit 1'
	screen "check-$columns" | grep -q '^FAIL git: git was not found' || die "--check: want what is missing: $(screen "check-$columns")"
	keep "check-$columns"
done
printf 'ok: call, status --watch, Ctrl-C and --check at 80 and 40 columns\n'
