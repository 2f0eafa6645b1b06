#!/usr/bin/env bash
# Runs the sh blocks of docs/tutorial.md and docs/recipes.md, each page in its
# order in one shell, with a scheduler on port 5110 and a git server that wants a
# token and has a certificate of its own. It also checks the links of all pages.
#
#   scripts/test-pages.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git python3:python3 curl:curl openssl:openssl

python3 - <<-'END'
	import pathlib, re, sys
	pages = [*pathlib.Path(".").glob("*.md"), *pathlib.Path("docs").glob("*.md"), *pathlib.Path("examples").glob("*.md")]
	missing = [f"{page}: {target}" for page in pages for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
	           if not (page.parent / target).exists()]
	if missing:
	    sys.exit("links to nothing: " + ", ".join(missing))
END
if curl -s -o /dev/null -m 2 http://127.0.0.1:5110/; then skip 'port 5110, which the pages use, is taken'; fi
go build -o "$tmp/bin/c4a-daemon" .
go build -tags scheduler -o "$tmp/bin/c4a-daemon-scheduler" .
PATH=$tmp/bin:$PATH

# page NAME DIR runs the blocks in DIR and leaves what they print in DIR.out.
page() {
	{
		printf 'set -euo pipefail\nset -m\n'
		printf 'trap '\''{ kill $(jobs -p); wait; } 2>/dev/null || true'\'' EXIT\n'
		sed -n '/^```sh$/,/^```$/p' "docs/$1" | sed '/^```/d'
	} >"$2.sh"
	(cd "$2" && timeout 120 bash "$2.sh") >"$2.out" 2>&1 || die "docs/$1: $(tail -n 20 "$2.out")"
}
shows() { grep -q -- "$2" "$1.out" || die "${1##*/}: got $(cat "$1.out"), want $2"; }

mkdir "$tmp/tutorial"
cp examples/index.py "$tmp/tutorial/index.py"
page tutorial.md "$tmp/tutorial"
for want in '"cloned"' '"unchanged"' '"updated"' 'unchanged: 0 changes, 0 files read' 'updated: 1 changes, 1 files read' '^main.go:3: func main'; do
	shows "$tmp/tutorial" "$want"
done

# Recipes: a private repository over HTTPS, and one that may be cloned by its path.
mkdir "$tmp/recipes" "$tmp/served"
git init -q "$tmp/project"
git -C "$tmp/project" -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first
git clone -q --bare "$tmp/project" "$tmp/served/private.git"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
	-keyout "$tmp/key.pem" -out "$tmp/recipes/ca.pem" 2>/dev/null
printf 'git-token\n' >"$tmp/recipes/token.txt"
python3 scripts/gitserver.py "$tmp/served" "$tmp/git.port" --cert "$tmp/recipes/ca.pem" --key "$tmp/key.pem" --token git-token >/dev/null 2>&1 &
at_end_kill $!
wait_for 'the git server' test -s "$tmp/git.port"
SSL_CERT_FILE=$tmp/recipes/ca.pem c4a-daemon-scheduler --workspace "$tmp/workspace" --allow "$tmp/project" >"$tmp/scheduler.log" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf http://127.0.0.1:5110/readyz
GIT_HOST=localhost:$(cat "$tmp/git.port") REPOSITORY=$tmp/project page recipes.md "$tmp/recipes"
for want in '"stored":true' '"stored":false' '"cloned"' '"machine_id": *"laptop"' '"result":{"words":2}' '"machine_id": *"desk"' 'requires a client certificate' '^event: progress' '^event: result' 'proxy'; do
	shows "$tmp/recipes" "$want"
done
if grep -rq git-token "$tmp/recipes.out" "$tmp/scheduler.log" "$tmp/workspace"; then die 'the token of a recipe is in an answer, a log or a file'; fi
printf 'docs/tutorial.md and docs/recipes.md: %d lines of commands run\n' "$(cat "$tmp/tutorial.sh" "$tmp/recipes.sh" | grep -c .)"
