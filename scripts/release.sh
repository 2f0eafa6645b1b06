#!/usr/bin/env bash
# Builds both programs of the commit that is checked out, for every system, as
# a release tree: what install.sh downloads, and what a release publishes.
#
#   scripts/release.sh OUTDIR
#   C4A_TARGETS='linux/amd64 darwin/arm64' scripts/release.sh OUTDIR
#
#   OUTDIR/latest                       the version, and nothing else
#   OUTDIR/VERSION/NAME_OS_ARCH[.exe]   the programs
#   OUTDIR/VERSION/SHA256SUMS
#   OUTDIR/VERSION/install.sh, latest   for a release of the same commit on GitHub
#
# The version is the commit's tag without its v, otherwise Go's pseudo-version
# of the commit and its date. Two builds of one commit are the same to the byte:
# it is built from a clone of the commit, so that nothing that is not committed,
# and no path of this machine, goes in.
set -euo pipefail
out=${1:?usage: scripts/release.sh OUTDIR}
mkdir -p "$out"
out=$(cd -- "$out" && pwd)
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
read -ra targets <<<"${C4A_TARGETS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64}"
for target in "${targets[@]}"; do
	case $target in
	linux/amd64 | linux/arm64 | darwin/amd64 | darwin/arm64 | windows/amd64 | windows/arm64) ;;
	*)
		printf 'release.sh: C4A_TARGETS: there is no build for %s\n' "$target" >&2
		exit 2
		;;
	esac
done

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
git clone --quiet --no-checkout . "$tmp/source"
git -C "$tmp/source" checkout --quiet --detach "$(git rev-parse HEAD)"
cd "$tmp/source"

# build OS ARCH NAME
build() {
	local os=$1 arch=$2 name=$3 file
	file=$tmp/out/${name}_${os}_$arch
	if [[ $os == windows ]]; then file+=.exe; fi
	# GOFLAGS of the machine may turn off what a release needs.
	GOFLAGS='' GOOS=$os GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 GOEXPERIMENT='' \
		scripts/build.sh "$name" "$file" -buildvcs=true
}
for target in "${targets[@]}"; do
	os=${target%/*} arch=${target#*/}
	build "$os" "$arch" c4a-daemon
	if [[ $os != windows ]]; then
		build "$os" "$arch" c4a-daemon-scheduler
	fi
done

# The largest programs of linux/amd64, in bytes: they are copied to many machines,
# and each daemon of a pool is one of them.
largest() {
	local file=$tmp/out/$1_linux_amd64 size
	if [[ ! -e $file ]]; then return; fi
	size=$(wc -c <"$file")
	if ((size > $2)); then
		printf 'release.sh: %s has %d bytes, and may have %d: see what was added with go tool nm -size -sort size\n' "$1" "$size" "$2" >&2
		exit 1
	fi
}
largest c4a-daemon $((8 << 20))
largest c4a-daemon-scheduler $((9 << 20))

files=("$tmp"/out/*)
version=$(go version -m "${files[0]}" | awk '$1 == "mod" { print $3 }')
version=${version#v}
case $version in
[0-9]*) ;;
*)
	printf 'release.sh: the go command stamped no version into the programs\n' >&2
	exit 1
	;;
esac
if [[ $version == *+dirty ]]; then
	printf 'release.sh: the clone of the commit is not clean\n' >&2
	exit 1
fi
cp install.sh "$tmp/out/install.sh"
printf '%s' "$version" >"$tmp/out/latest"
(cd "$tmp/out" && sha256sum -- * >SHA256SUMS)
# A tree is replaced as a whole, and latest names it only then.
rm -rf "${out:?}/$version"
mv "$tmp/out" "$out/$version"
chmod 755 "$out/$version"
printf '%s' "$version" >"$out/latest.new"
mv "$out/latest.new" "$out/latest"
printf '%s\n' "$out/$version"
