#!/usr/bin/env bash
# Runs three schedulers behind a real nginx with deploy/nginx-cluster.conf, and
# behind a real HAProxy with deploy/haproxy.cfg: which scheduler gets what, that
# nothing is sent twice, and that callers of 300 libraries and 200 machines notice
# neither a scheduler that is killed nor a rolling restart (hub_nodes_load_test.go).
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

go build -o "$tmp/bin/c4a-daemon" .
go build -tags scheduler -o "$tmp/bin/c4a-daemon-scheduler" .
go test -count=1 -v -run 'TestProxyRoutes|TestProxySends|TestProxyStreams|TestProxyPools|TestThreeNodes' -cluster "$(IFS=,; printf '%s' "${proxies[*]}")" -cluster-program "$tmp/bin/c4a-daemon-scheduler" . >"$tmp/out" 2>&1 ||
	die "$(grep -v '^=== ' "$tmp/out")"
grep -E '^ +hub_nodes|^--- |^ +--- |^ok' "$tmp/out"

# The commands of docs/cluster.md, with other ports.
if [[ ${proxies[*]} != *haproxy* ]]; then
	printf 'skipped: docs/cluster.md, which needs HAProxy\n'
	exit 0
fi
need curl:curl openssl:openssl python3:python3
mkdir "$tmp/doc"
cp deploy/haproxy.cfg "$tmp/doc"
ports=$(free_port)
ports=${ports%?} # and a digit
{
	printf 'set -euo pipefail\nend() { for file in *.pid; do kill "$(cat "$file")" || true; done; wait; }\ntrap end EXIT\n'
	awk '/^```sh/ { inside = 1; next } /^```/ { inside = 0 } inside' docs/cluster.md
} | sed "s/\<511\([1-3\\$]\)/$ports\1/g; s/\<5443\>/${ports}4/g" >"$tmp/doc/steps.sh"
(cd "$tmp/doc" && PATH=$tmp/bin:$PATH bash steps.sh) >"$tmp/doc/out" 2>&1 || die "docs/cluster.md: $(tail -n 20 "$tmp/doc/out" "$tmp"/doc/*.log)"
answers=$(grep -c '"machine_id": *"Ann' "$tmp/doc/out")
((answers >= 5)) || die "docs/cluster.md: $answers answers of the machine, want 5: $(cat "$tmp/doc/out")"
printf 'docs/cluster.md: its commands work\n'
