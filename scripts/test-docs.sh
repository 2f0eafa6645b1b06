#!/usr/bin/env bash
# Runs the sh blocks of docs/install.md, in their order, as root in a Debian
# chroot. The releases are a release tree of this commit on loopback; systemctl,
# loginctl, docker and kubectl only record their calls.
#
#   scripts/test-docs.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git python3:python3 curl:curl
root=$tmp/root
debian_root "$root"
if curl -s -o /dev/null -m 2 http://127.0.0.1:5110/; then skip 'port 5110, which the page uses, is taken'; fi

git clone --quiet --no-tags . "$tmp/source"
git -C "$tmp/source" tag v0.1.7
C4A_TARGETS=linux/$(go env GOARCH) "$tmp/source/scripts/release.sh" "$tmp/release" >/dev/null
make_packages "$tmp/source/scripts/packages.sh" "$tmp/release"
port=$(free_port)
python3 -m http.server --bind 127.0.0.1 --directory "$tmp/release" "$port" >/dev/null 2>&1 &
at_end_kill $!
wait_for 'the release tree' curl -sf "http://127.0.0.1:$port/latest"

cp -r deploy "$root/root/deploy"
for program in systemctl loginctl docker kubectl; do
	printf '#!/bin/sh\nprintf "%%s\\n" "%s $*" >>/root/calls\n' "$program" >"$root/usr/local/bin/$program"
	chmod +x "$root/usr/local/bin/$program"
done
# The page, with this tree in place of the releases.
base=http://127.0.0.1:$port
{
	printf 'set -euo pipefail\nset -m\ncd\nexport C4A_BASE_URL=%s\n' "$base"
	sed -n '/^```sh$/,/^```$/p' docs/install.md | sed '/^```/d'
} | sed "s|https://github.com/context4ai/c4a-daemon/releases/latest/download|$base/0.1.7|g; s|https://github.com/context4ai/c4a-daemon/releases/download/v0.1.0|$base/0.1.7|g; s|0\\.1\\.0|0.1.7|g; s|linux_amd64|linux_$(go env GOARCH)|g" >"$root/root/page"
# A scheduler's own installer is asked for its own build.
sed -i 's#^\(curl -fsSL http://127.0.0.1:5110/install.sh\) | sh#\1 | env -u C4A_BASE_URL sh#' "$root/root/page"
commands=$(grep -c . "$root/root/page")
in_root "$root" bash -x /root/page >"$tmp/out" 2>&1 || die "a command of docs/install.md failed: $(tail -n 15 "$tmp/out")"
for call in 'systemctl enable --now c4a-daemon-scheduler' 'systemctl --user enable --now c4a-daemon' 'loginctl enable-linger' 'docker run -d' 'kubectl apply'; do
	grep -q "^$call" "$root/root/calls" || die "docs/install.md does not call: $call"
done
in_root "$root" test -x /root/bin/c4a-daemon || die 'C4A_BIN_DIR of the page was not used'

# What the page names is there.
python3 - <<-'END'
	import pathlib, re, sys
	page = pathlib.Path("docs/install.md")
	missing = [target for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()) if not (page.parent / target).exists()]
	statuses = set(re.findall(r"\bfail (\d+)\b", pathlib.Path("install.sh").read_text()))
	rows = set(re.findall(r"^\| (\d+) \|", page.read_text(), re.M))
	if missing or statuses - rows:
	    sys.exit(f"docs/install.md: missing files {missing}, missing exit statuses {statuses - rows}")
END
printf 'docs/install.md: %d lines of commands run\n' "$((commands - 4))"
