#!/usr/bin/env bash
# Holds release.sh to its word: two builds of one commit in two folders are the
# same, what is not committed does not count, --version shows what was built,
# and install.sh installs it.
#
#   scripts/test-release.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need git:git go:golang curl:curl python3:python3

host=linux/$(go env GOARCH)
# Two clones in different folders, at a tag and beyond it.
clone() {
	git clone --quiet --no-tags . "$1"
	git -C "$1" -c user.name=t -c user.email=t@example.com tag "${@:2}"
}
clone "$tmp/first" v0.7.8-rc.1
clone "$tmp/a longer path/second" v0.7.8-rc.1
printf 'package main\n' >"$tmp/a longer path/second/uncommitted.go"
C4A_TARGETS="$host darwin/arm64 windows/amd64" "$tmp/first/scripts/release.sh" "$tmp/one" >/dev/null
C4A_TARGETS="$host darwin/arm64 windows/amd64" GOFLAGS=-buildvcs=false "$tmp/a longer path/second/scripts/release.sh" "$tmp/two" >/dev/null
diff -r "$tmp/one" "$tmp/two" || die 'two builds of one commit differ'

arch=$(go env GOARCH)
want="SHA256SUMS c4a-daemon-scheduler_darwin_arm64 c4a-daemon-scheduler_linux_$arch c4a-daemon_darwin_arm64 c4a-daemon_linux_$arch c4a-daemon_windows_amd64.exe install.sh latest"
got=$(cd "$tmp/one/0.7.8-rc.1" && printf "%s " *)
[[ $got == "$want " ]] || die "the tree holds $got, want $want"
[[ $(od -An -c "$tmp/one/latest" | tr -d ' ') == 0.7.8-rc.1 ]] || die "latest holds $(cat "$tmp/one/latest")"
(cd "$tmp/one/0.7.8-rc.1" && sha256sum --quiet -c SHA256SUMS)

commit=$(git rev-parse HEAD)
for name in c4a-daemon c4a-daemon-scheduler; do
	shown=$("$tmp/one/0.7.8-rc.1/${name}_linux_$arch" --version)
	[[ $shown == "$name 0.7.8-rc.1 (commit ${commit:0:12} of 20"*"Z) $host go"* ]] || die "--version shows: $shown"
done

# Without a tag the version is the commit's and its date's.
git clone --quiet --no-tags . "$tmp/untagged"
C4A_TARGETS=$host "$tmp/untagged/scripts/release.sh" "$tmp/three" >/dev/null
date=$(TZ=UTC0 git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd)
[[ $(cat "$tmp/three/latest") == 0.0.0-$date-${commit:0:12} ]] || die "without a tag, latest holds $(cat "$tmp/three/latest")"

got=0
C4A_TARGETS=plan9/amd64 scripts/release.sh "$tmp/four" 2>/dev/null || got=$?
[[ $got == 2 ]] || die "an unknown target: exit status $got, want 2"

C4A_BASE_URL=file://$tmp/three C4A_BIN_DIR=$tmp/bin sh install.sh >/dev/null
[[ $("$tmp/bin/c4a-daemon" --version) == "c4a-daemon $(cat "$tmp/three/latest") "* ]] || die 'install.sh installed something else'
printf 'release.sh: identical builds; %s\n' "$("$tmp/bin/c4a-daemon" --version)"
