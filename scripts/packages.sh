#!/usr/bin/env bash
# Makes deb, rpm and apk packages of the Linux programs of a release tree, and
# adds them to its SHA256SUMS. Run it after scripts/release.sh, on its OUTDIR.
#
#   scripts/packages.sh OUTDIR
#
# Exit status 3: nfpm cannot be installed.
set -euo pipefail
out=${1:?usage: scripts/packages.sh OUTDIR}
out=$(cd -- "$out" && pwd)
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
readonly nfpm_version=v2.45.2

nfpm=${XDG_CACHE_HOME:-$HOME/.cache}/c4a-ci/$nfpm_version/nfpm
if [[ ! -x $nfpm ]]; then
	GOBIN=$(dirname -- "$nfpm") GOFLAGS='' go install "github.com/goreleaser/nfpm/v2/cmd/nfpm@$nfpm_version" || {
		printf 'packages.sh: nfpm %s cannot be installed with go install\n' "$nfpm_version" >&2
		exit 3
	}
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
version=$(cat "$out/latest")
tree=$out/$version
# The date of the commit: packages of one commit are the same to the byte too.
date=$(TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd)
for unit in deploy/systemd/*.service; do
	sed '/^# Bare names/,/^ExecSearchPath=/d; s|^ExecStart=|&/usr/bin/|' "$unit" >"$tmp/${unit##*/}"
done
for file in "$tree"/c4a-daemon_linux_*; do
	arch=${file##*_}
	for name in c4a-daemon c4a-daemon-scheduler; do
		sed "s|\${ARCH}|$arch|; s|\${VERSION}|$version|; s|\${DATE}|$date|; s|\${TREE}|$tree|; s|\${UNITS}|$tmp|" "deploy/packages/$name.yaml" >"$tmp/$name.yaml"
		for kind in deb rpm apk; do
			TZ=UTC0 "$nfpm" package --config "$tmp/$name.yaml" --packager "$kind" --target "$tree/${name}_${version}_linux_$arch.$kind" >"$tmp/log" 2>&1 || {
				cat "$tmp/log" >&2
				exit 1
			}
		done
	done
done
cd "$tree"
rm -f SHA256SUMS
sha256sum -- * >"$tmp/SHA256SUMS"
chmod 644 "$tmp/SHA256SUMS"
mv "$tmp/SHA256SUMS" SHA256SUMS
