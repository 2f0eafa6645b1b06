#!/usr/bin/env bash
# Machines that lack something: each is found by --check of both programs, in one
# sentence that says what to do, in a Debian chroot. On an old kernel both
# programs work.
#
#   scripts/test-check.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git python3:python3 curl:curl openssl:openssl setpriv:util-linux
root=$tmp/root
debian_root "$root"
CGO_ENABLED=0 go build -o "$root/usr/local/bin/c4a-daemon" .
CGO_ENABLED=0 go build -tags scheduler -o "$root/usr/local/bin/c4a-daemon-scheduler" .
git init -q "$root/srv/repo"
git -C "$root/srv/repo" -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first
port=$(free_port)
"$root/usr/local/bin/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/workspace" >"$tmp/scheduler.log" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"

as=()
# finds STATUS TEXT checks the daemon, and then the scheduler, in the chroot.
finds() {
	local program status
	for program in "c4a-daemon --server ${server:-127.0.0.1:$port} --ca-file /srv/ca.pem --allow /srv" "c4a-daemon-scheduler --port 0 --workspace /var/lib/c4a"; do
		if [[ -n ${server-} && $program != c4a-daemon\ * ]]; then continue; fi
		status=0
		# shellcheck disable=SC2086 # several words
		in_root "$root" ${as[@]+"${as[@]}"} $program --check >"$tmp/out" 2>&1 || status=$?
		[[ $status == "$1" ]] || die "$program: exit status $status, want $1: $(cat "$tmp/out")"
		[[ -z $2 || $(grep -c -- "$2" "$tmp/out") == 1 ]] || die "$program: want one line with '$2': $(cat "$tmp/out")"
	done
	if [[ -n $2 ]]; then grep -- "$2" "$tmp/out"; fi
}
# without PATH STATUS TEXT is finds while the root has no such file.
without() {
	mv "$root$1" "$tmp/moved"
	finds "$2" "$3"
	mv "$tmp/moved" "$root$1"
}

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout "$tmp/key.pem" -out "$root/srv/ca.pem" 2>/dev/null
finds 0 ''
without /usr/bin/git 1 'FAIL git: .*install git 2.31 or newer'
without /usr/bin/ssh 0 'note .*install an ssh client'
without /etc/ssl/certs 0 'note .*install ca-certificates'
server=127.0.0.1:$port without /tmp 1 'FAIL .*set TMPDIR'
printf '#!/bin/sh\necho git version 2.30.2\n' >"$root/usr/local/bin/git"
chmod +x "$root/usr/local/bin/git"
finds 1 'FAIL git: git 2.30.2 is too old: install git 2.31 or newer'
rm "$root/usr/local/bin/git"
as=(setpriv --reuid 54321 --regid 54321 --clear-groups) # a uid without a name
mkdir -m 777 "$root/var/lib/c4a"
finds 0 ''
chmod 755 "$root/var/lib/c4a"
status=0
in_root "$root" "${as[@]}" c4a-daemon-scheduler --port 0 --workspace /var/lib/c4a --check >"$tmp/out" 2>&1 || status=$?
[[ $status == 1 ]] && grep 'FAIL workspace: .*uid 0 .*uid 54321.*chown -R 54321 /var/lib/c4a' "$tmp/out" || die "a volume of another uid: exit status $status: $(cat "$tmp/out")"
as=()
status=0
in_root "$root" c4a-daemon-scheduler --port "$port" --workspace /var/lib/c4a --check >"$tmp/out" 2>&1 || status=$?
[[ $status == 0 ]] && grep 'ok   address: .*a scheduler is running there' "$tmp/out" || die "a port with a scheduler: exit status $status: $(cat "$tmp/out")"

# Something else answers, and a certificate that is not valid at this time.
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$tmp/key.pem" -out "$tmp/request" 2>/dev/null
openssl x509 -req -in "$tmp/request" -signkey "$tmp/key.pem" -days -1 -extfile <(printf 'subjectAltName=IP:127.0.0.1') -out "$root/srv/ca.pem" 2>/dev/null
python3 - "$tmp/ports" "$root/srv/ca.pem" "$tmp/key.pem" <<-'END' &
	import http.server, os, ssl, sys, threading

	class Page(http.server.BaseHTTPRequestHandler):
	    def do_GET(self):
	        self.send_response(200)
	        self.send_header("Content-Type", "text/html")
	        self.end_headers()
	        self.wfile.write(b"<!DOCTYPE html><title>Sign in</title>\n")
	    def log_message(self, *_):
	        pass

	class Server(http.server.ThreadingHTTPServer):
	    def handle_error(self, *_):
	        pass

	plain, tls = (Server(("127.0.0.1", 0), Page) for _ in range(2))
	context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
	context.load_cert_chain(sys.argv[2], sys.argv[3])
	tls.socket = context.wrap_socket(tls.socket, server_side=True)
	with open(sys.argv[1] + ".new", "w") as file:
	    print(plain.server_port, tls.server_port, file=file)
	os.rename(sys.argv[1] + ".new", sys.argv[1])
	threading.Thread(target=plain.serve_forever, daemon=True).start()
	tls.serve_forever()
END
at_end_kill $!
wait_for 'the other servers' test -s "$tmp/ports"
read -r plain tls <"$tmp/ports"
status=0
in_root "$root" c4a-daemon-scheduler --port "$plain" --workspace /var/lib/c4a --check >"$tmp/out" 2>&1 || status=$?
[[ $status == 1 ]] && grep 'FAIL address: .*choose another --port' "$tmp/out" || die "a port with another program: exit status $status: $(cat "$tmp/out")"
server=127.0.0.1:$plain finds 1 'FAIL server: .*a web page was returned .*check --server, its path, and HTTPS_PROXY'
server=wss://127.0.0.1:$tls finds 1 'FAIL server: .*the clock of this machine shows .*set the clock'
server=wss://127.0.0.1:$plain finds 1 'FAIL server: .*does not speak TLS'

# An old kernel: a clone, and a start after a crash.
if [[ $EUID == 0 ]] && ! /usr/bin/python3 -c 'import seccomp' 2>/dev/null; then
	{ apt-get update -q && apt-get install -y -q --no-install-recommends python3-seccomp; } >/dev/null 2>&1 || true
fi
if /usr/bin/python3 -c 'import seccomp' 2>/dev/null; then
	for start in first second; do
		port=$(free_port)
		/usr/bin/python3 scripts/oldkernel.py "$root/usr/local/bin/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/old" --allow "$root/srv" >"$tmp/old.log" 2>&1 &
		scheduler=$!
		at_end_kill "$scheduler"
		wait_for "a scheduler on an old kernel, $start start" curl -sf "http://127.0.0.1:$port/readyz"
		curl -s "http://127.0.0.1:$port/libraries/demo/rpc" -d '{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"'"$root/srv/repo"'"}}' >"$tmp/out"
		grep -q '"action"' "$tmp/out" || die "a clone on an old kernel, $start start: $(cat "$tmp/out" "$tmp/old.log")"
		if [[ $start == first ]]; then
			kill -KILL "$scheduler"
		else
			kill "$scheduler"
		fi
		wait "$scheduler" 2>/dev/null || true
	done
	printf 'an old kernel: clones, also after a crash\n'
else
	printf 'skipped: an old kernel (python3-seccomp is missing)\n'
fi
