#!/usr/bin/env bash
# Runs three schedulers behind a real nginx with deploy/nginx-cluster.conf, and
# behind a real HAProxy with deploy/haproxy.cfg: which node gets what, and
# that nothing is sent twice (hub_nodes_test.go).
#
#   scripts/test-cluster.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git

proxies=()
# use NAME PACKAGE… adds a proxy that runs here, and puts it on the PATH.
use() {
	local path
	path=$(program "$@")
	LD_LIBRARY_PATH=$(printf '%s:' "$tmp/package-$1"/usr/lib/*-linux-gnu)${LD_LIBRARY_PATH-}
	export LD_LIBRARY_PATH
	if [[ -n $path ]] && "$path" -v >/dev/null 2>&1; then
		export PATH=${path%/*}:$PATH
		proxies+=("$1")
	else
		printf 'skipped: %s cannot be had\n' "$1"
	fi
}
use nginx nginx
use haproxy haproxy liblua5.3-0 libopentracing1 libopentracing-c-wrapper0 libpcre2-8-0
((${#proxies[@]})) || skip 'neither nginx nor HAProxy can be had'

go test -count=1 -v -run 'TestProxyRoutes|TestProxySends' -cluster "$(IFS=,; printf '%s' "${proxies[*]}")" . >"$tmp/out" 2>&1 ||
	die "$(grep -v '^=== ' "$tmp/out")"
grep -E '^ +hub_nodes|^--- |^ +--- |^ok' "$tmp/out"
