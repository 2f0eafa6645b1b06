#!/usr/bin/env bash
# Runs deploy/nginx.conf and deploy/Caddyfile with a real nginx and a real Caddy
# in front of a scheduler: TLS, both tokens, the WebSocket, event streams, the
# page's own Origin, a body that is too large.
#
#   scripts/test-proxy.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git python3:python3 curl:curl openssl:openssl
chmod 755 "$tmp"

nginx=$(program nginx nginx-light)
if [[ -z $nginx ]] || ! "$nginx" -v 2>/dev/null; then nginx=$(program nginx nginx); fi
caddy=$(program caddy caddy)

go build -o "$tmp/c4a-daemon" .
go build -tags scheduler -o "$tmp/c4a-daemon-scheduler" .
printf 'api-token\n' >"$tmp/api-token"
printf 'daemon-token\n' >"$tmp/daemon-token"
port=$(free_port)
"$tmp/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/workspace" --allow-host c4a.example.com \
	--api-token-file "$tmp/api-token" --daemon-token-file "$tmp/daemon-token" >"$tmp/scheduler.log" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=c4a.example.com -addext 'subjectAltName=DNS:c4a.example.com,DNS:localhost' \
	-keyout "$tmp/key.pem" -out "$tmp/fullchain.pem" 2>/dev/null
mkdir "$tmp/files"

# check NAME PORT runs the checks through a proxy at that port.
check() {
	local name=$1 at=$2 ask got
	ask=(curl -s --cacert "$tmp/fullchain.pem" --resolve "c4a.example.com:$at:127.0.0.1" -m 20)
	local url=https://c4a.example.com:$at authorized=(-H 'Authorization: Bearer api-token')
	wait_for "$name" "${ask[@]}" -f "$url/livez"
	want() { # WHAT WANT GOT
		[[ $3 == "$2" ]] || die "$name: $1: $3, want $2; $(tail -n 3 "$tmp/scheduler.log")"
	}
	status=(-o /dev/null -w '%{http_code}')
	want 'without a token' 401 "$("${ask[@]}" "${status[@]}" "$url/daemons")"
	want 'with the API token' 200 "$("${ask[@]}" "${status[@]}" "${authorized[@]}" "$url/daemons")"
	want "the page's own Origin" 200 "$("${ask[@]}" "${status[@]}" "${authorized[@]}" -H "Origin: $url" "$url/daemons")"
	want 'a foreign Origin' 403 "$("${ask[@]}" "${status[@]}" "${authorized[@]}" -H 'Origin: https://evil.example' "$url/daemons")"
	head -c 2000000 /dev/zero >"$tmp/large"
	want 'a body that is too large' 'application/problem+json 413' \
		"$("${ask[@]}" -o /dev/null -w '%{content_type} %{http_code}' "${authorized[@]}" "$url/daemons" --data-binary "@$tmp/large")"
	got=$("${ask[@]}" "$url/install.sh")
	[[ $got == *"default_base_url='$url/bin'"* ]] || die "$name: install.sh has another address"

	# The link of a user's daemon, with its own token, and a call to it.
	"$tmp/c4a-daemon" --server "wss://localhost:$at" --ca-file "$tmp/fullchain.pem" --allow "$tmp/files" --machine-id "user-$name" \
		--token-file "$tmp/daemon-token" >"$tmp/daemon.log" 2>&1 &
	local daemon=$!
	at_end_kill "$daemon"
	call=("${ask[@]}" "${authorized[@]}" "$url/machines/user-$name/rpc" -d '{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{"path":"'"$tmp/files"'"}}')
	called() { "${call[@]}" | grep -q '"result"'; }
	wait_for "$name: a call over the WebSocket" called

	# An event arrives while the stream is open.
	"${ask[@]}" -N -m 60 -D "$tmp/head-$name" "${authorized[@]}" "$url/events" >"$tmp/events-$name" &
	at_end_kill $!
	wait_for "$name: the event stream" test -s "$tmp/head-$name"
	kill "$daemon"
	wait_for "$name: an event" grep -q "user-$name" "$tmp/events-$name"
	got=0
	"$tmp/c4a-daemon" --server "wss://localhost:$at" --ca-file "$tmp/fullchain.pem" --allow "$tmp/files" --token-file "$tmp/api-token" >"$tmp/out" 2>&1 || got=$?
	want 'a daemon with a wrong token' 4 "$got"
	printf '%s: TLS, tokens, WebSocket, events, Origin, limits\n' "$name"
}

if [[ -n $nginx ]] && "$nginx" -v 2>/dev/null; then
	at=$(free_port)
	mkdir "$tmp/nginx"
	{
		printf 'daemon off;\npid %s/nginx/pid;\nerror_log stderr warn;\nevents {}\nhttp {\naccess_log off;\n' "$tmp"
		for path in client_body proxy fastcgi uwsgi scgi; do printf '%s_temp_path %s/nginx/%s;\n' "$path" "$tmp" "$path"; done
		sed "s|127.0.0.1:5110|127.0.0.1:$port|; s|listen 443 ssl|listen 127.0.0.1:$at ssl|; /listen \[::\]/d; s|/etc/ssl/c4a|$tmp|" deploy/nginx.conf
		printf '}\n'
	} >"$tmp/nginx.conf"
	"$nginx" -p "$tmp/nginx" -c "$tmp/nginx.conf" >"$tmp/nginx.log" 2>&1 &
	at_end_kill $!
	check nginx "$at"
else
	printf 'skipped: nginx cannot be had\n'
fi
if [[ -n $caddy ]]; then
	at=$(free_port)
	{
		printf '{\n\tadmin off\n\tauto_https disable_redirects\n}\n'
		sed "s|^c4a.example.com {|https://c4a.example.com:$at, https://localhost:$at {\n\ttls $tmp/fullchain.pem $tmp/key.pem\n\tbind 127.0.0.1|; s|127.0.0.1:5110|127.0.0.1:$port|" deploy/Caddyfile
	} >"$tmp/Caddyfile"
	HOME=$tmp XDG_DATA_HOME=$tmp/caddy XDG_CONFIG_HOME=$tmp/caddy "$caddy" run --adapter caddyfile --config "$tmp/Caddyfile" >"$tmp/caddy.log" 2>&1 &
	at_end_kill $!
	check caddy "$at"
else
	printf 'skipped: Caddy cannot be had\n'
fi
