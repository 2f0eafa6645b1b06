#!/bin/sh
# Builds a program as a release has it, for the system that GOOS and GOARCH name.
# FLAGs go to go build. FILE is relative to the repository.
#
#   scripts/build.sh c4a-daemon FILE [FLAG…]
#   scripts/build.sh c4a-daemon-scheduler FILE [FLAG…]
#
# `go build .` and `go build -tags scheduler .` make programs that do the same and
# are larger. Neither program speaks HTTP/2, which nethttpomithttp2 leaves out.
# Functions begin at any byte, where instructions may, and packages that take little time of a
# request are compiled without inlining: what takes the time in crypto is assembly,
# a TLS handshake costs a tenth more. The loops over the content of files are built
# from functions of encoding/binary, unicode/utf8 and the WebSocket library: without
# their inlining, a file of 1 MiB costs a third more. So are the reads and writes of
# a small call, from io, context and internal/poll.
set -eu
cd -- "$(dirname -- "$0")/.."
name=$1 file=$2
shift 2
tags=nethttpomithttp2
case $name in
c4a-daemon) ;;
c4a-daemon-scheduler) tags=$tags,scheduler ;;
*)
	printf 'build.sh: there is no program %s: c4a-daemon or c4a-daemon-scheduler\n' "$name" >&2
	exit 2
	;;
esac
cold="compress/... crypto/... encoding/asn1 encoding/base64 encoding/hex encoding/json encoding/pem flag fmt iter log/... math/big mime/...
	net/netip reflect sort unicode vendor/..."
if [ "$name" = c4a-daemon-scheduler ]; then # it has more to hold
	cold="$cold bufio bytes errors internal/filepathlite internal/fmtsort internal/godebug internal/oserror internal/reflectlite internal/syscall/...
		io/fs net net/http os/... path path/filepath strconv strings sync time"
fi
align=4
case ${GOARCH:-$(go env GOARCH)} in
386 | amd64) align=1 ;;
esac
for package in $cold; do
	set -- "$@" -gcflags "$package=-l"
done
CGO_ENABLED=0 exec go build -trimpath -ldflags "-s -w -funcalign=$align" -tags "$tags" "$@" -o "$file" .
