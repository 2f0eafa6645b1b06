#!/usr/bin/env bash
# Runs every program of examples/ against a real scheduler or a real daemon. Those
# in a language that is not installed are passed over with one line.
#
#   scripts/test-examples.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git python3:python3 curl:curl

readonly ws=ws@8.18.3
go build -o "$tmp/bin/c4a-daemon" .
go build -tags scheduler -o "$tmp/bin/c4a-daemon-scheduler" .
cp -r examples "$tmp/examples"
PATH=$tmp/bin:$PATH
repo=$tmp/project
git init -q "$repo"
printf 'hello\n' >"$repo/greeting.txt"
git -C "$repo" add .
git -C "$repo" -c user.name=t -c user.email=t@example.com commit -q -m first
blob=$(git -C "$repo" rev-parse HEAD:greeting.txt)
ran=()

has() { # LANGUAGE
	command -v "$1" >/dev/null || { printf 'passed over: %s is not installed\n' "$1" && return 1; }
}
# run COMMAND… leaves its output in $tmp/out.
run() { "$@" >"$tmp/out" 2>"$tmp/err" || die "$*: $(cat "$tmp/out" "$tmp/err")"; }
says() { grep -q -- "$1" "$tmp/out" || die "$2: got $(cat "$tmp/out"), want $1"; }

# The clients, with a token.
port=$(free_port)
printf 'api-token\n' >"$tmp/token"
c4a-daemon-scheduler --port "$port" --workspace "$tmp/workspace" --allow "$repo" --api-token-file "$tmp/token" >"$tmp/scheduler.log" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"
export C4A_URL=http://127.0.0.1:$port C4A_API_TOKEN=api-token
run sh examples/client.sh "$repo"
says '"action":"cloned"' client.sh
says "$blob" client.sh
run python3 examples/client.py "$repo"
says "$blob greeting.txt" client.py
ran+=(client.sh client.py)
if C4A_API_TOKEN=wrong python3 examples/client.py "$repo" >"$tmp/out" 2>&1; then die 'client.py: exit 0 with a wrong token'; fi
says 'RuntimeError: .*token' 'client.py with a wrong token'
if has node; then
	run node examples/client.mjs "$repo"
	says "$blob greeting.txt" client.mjs
	grep -q '^100 % done' "$tmp/err" || die "client.mjs: got $(cat "$tmp/err"), want its progress"
	ran+=(client.mjs)
fi
unset C4A_URL C4A_API_TOKEN

# server NAME COMMAND… starts a server and lets a daemon dial it.
server() {
	local name=$1 port
	port=$(free_port)
	shift
	"$@" "$port" >"$tmp/$name.out" 2>&1 &
	at_end_kill $!
	wait_for "$name" grep -q 'daemons may dial' "$tmp/$name.out"
	c4a-daemon --server "127.0.0.1:$port" --allow "$repo" --machine-id example >"$tmp/$name.daemon" 2>&1 &
	at_end_kill $!
	wait_for "$name lists the directory" grep -q "^$repo: .*greeting.txt" "$tmp/$name.out"
	wait_for "$name hears a heartbeat" grep -q '^example is alive' "$tmp/$name.out"
	ran+=("$name")
}
server server.py python3 examples/server.py
if has node; then
	if has npm && (cd "$tmp/examples" && npm install --no-save --no-audit --no-fund "$ws") >"$tmp/npm.log" 2>&1; then
		server server.mjs node "$tmp/examples/server.mjs"
		port=$(free_port)
		c4a-daemon-scheduler --port "$port" --workspace "$tmp/nodes" >"$tmp/nodes.log" 2>&1 &
		at_end_kill $!
		wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"
		node "$tmp/examples/daemon.mjs" "ws://127.0.0.1:$port/ws/daemon" toolbox >"$tmp/daemon.mjs.out" 2>&1 &
		at_end_kill $!
		wait_for 'the machine in node' curl -sf "http://127.0.0.1:$port/machines/toolbox"
		run curl -sf "http://127.0.0.1:$port/machines/toolbox/rpc" -d '{"jsonrpc":"2.0","id":1,"method":"demo/echo","params":{"a":1}}'
		says '"result":{"a":1}' daemon.mjs
		ran+=(daemon.mjs)
	else
		printf 'passed over: server.mjs: npm cannot install %s\n' "$ws"
	fi

	port=$(free_port)
	node examples/embed.mjs "$port" "$tmp/embedded" --allow "$repo" >"$tmp/embed.log" 2>&1 &
	embed=$!
	at_end_kill $embed
	wait_for 'the embedded scheduler' curl -sf "http://127.0.0.1:$port/c4a/readyz"
	run curl -sf "http://127.0.0.1:$port/c4a/libraries/demo/rpc" -d '{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"'"$repo"'"}}'
	says '"action":"cloned"' embed.mjs
	run curl -sf "http://127.0.0.1:$port/other"
	says 'an application of your own' embed.mjs
	kill $embed
	wait $embed || die "embed.mjs: exit $?, want 0: $(cat "$tmp/embed.log")"
	ran+=(embed.mjs)
fi

# The handlers.
handlers=(--handler "text/count=$PWD/examples/handlers/count.sh" --handler "text/words=$PWD/examples/handlers/words.py")
if has node; then handlers+=(--handler "text/upper=$PWD/examples/handlers/upper.mjs"); fi
port=$(free_port)
c4a-daemon-scheduler --port "$port" --workspace "$tmp/handled" >"$tmp/scheduler2.log" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"
c4a-daemon --server "127.0.0.1:$port" --allow "$repo" --machine-id handled "${handlers[@]}" >"$tmp/handled.log" 2>&1 &
at_end_kill $!
wait_for 'the machine' curl -sf "http://127.0.0.1:$port/machines/handled"
method() { # NAME PARAMS WANT
	run curl -s "http://127.0.0.1:$port/machines/handled/rpc" -d '{"jsonrpc":"2.0","id":1,"method":"'"$1"'","params":'"$2"'}'
	says "$3" "$1"
}
method text/count '{"text":"a b"}' '"result":{"bytes":[1-9]'
method text/words '{"text":"a b"}' '"result":{"words":2}'
method text/words '{}' '"message":".*text must be a string'
ran+=(handlers/count.sh handlers/words.py)
if has node; then
	method text/upper '{"text":"a b"}' '"result":{"text":"A B"}'
	ran+=(handlers/upper.mjs)
fi

# What the page names is what there is.
for file in $(cd examples && find . -type f ! -name README.md | sed 's|^\./||'); do
	grep -q "${file%%/*}" examples/README.md || die "examples/README.md does not name $file"
done
printf 'examples: %s\n' "${ran[*]}"
