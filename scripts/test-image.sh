#!/usr/bin/env bash
# Builds the Dockerfile with buildah, on a base that debootstrap makes, and runs
# the image as a container runtime does: as process 1, read-only, without
# capabilities, as uid 65532 and as one that no passwd knows. Its network is
# this machine's loopback.
#
#   scripts/test-image.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git python3:python3 curl:curl openssl:openssl buildah:buildah setpriv:util-linux
[[ -x /usr/sbin/sshd ]] || need sshd:openssh-server
base=$tmp/base
debian_root "$base"

# Everything that buildah keeps is in the temporary folder.
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/storage-run"\n' "$tmp" "$tmp" >"$tmp/storage.conf"
export CONTAINERS_STORAGE_CONF=$tmp/storage.conf STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot TMPDIR=$tmp
printf '{"default":[{"type":"insecureAcceptAnything"}]}\n' >"$tmp/policy.json"

# image NAME DIR makes an image of a folder.
container=$(buildah from scratch)
buildah copy --quiet "$container" "$base" / >/dev/null
buildah commit --quiet --signature-policy "$tmp/policy.json" "$container" localhost/debian:bookworm-slim >/dev/null
buildah copy --quiet "$container" "$(go env GOROOT)" /usr/local/go >/dev/null
# The modules that this machine has: the build needs no network for them.
go mod download
cp -r "$(go env GOMODCACHE)/cache/download" "$tmp/modules"
buildah copy --quiet "$container" "$tmp/modules" /modules >/dev/null
buildah config --env PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin --env GOTOOLCHAIN=local --env GOFLAGS= \
	--env GOPROXY=file:///modules --env GOSUMDB=off "$container"
buildah commit --quiet --signature-policy "$tmp/policy.json" "$container" localhost/golang:1.26-bookworm >/dev/null
buildah rm "$container" >/dev/null
rm -rf "$tmp/modules" "$base"

git clone --quiet . "$tmp/context"
began=$SECONDS
buildah bud --quiet --network host --signature-policy "$tmp/policy.json" --format docker \
	--build-arg GO_IMAGE=localhost/golang:1.26-bookworm --build-arg DEBIAN_IMAGE=localhost/debian:bookworm-slim \
	-t localhost/c4a "$tmp/context" >"$tmp/bud.log" 2>&1 || die "the build failed: $(tail -n 20 "$tmp/bud.log")"
printf 'built in %d s\n' $((SECONDS - began))
container=$(buildah from localhost/c4a)
root=$(buildah mount "$container")
size=$(du -sb --apparent-size "$root" | cut -f 1)
printf 'size: %d bytes, %d files\n' "$size" "$(find "$root" -type f | wc -l)"
((size <= 40000000)) || die "the image has $size bytes, want at most 40 MB"
config=$(buildah inspect --type image localhost/c4a | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["Docker"]["config"]))')
field() { python3 -c 'import json, sys; v = json.loads(sys.argv[1]).get(sys.argv[2]); print("\n".join(v) if isinstance(v, list) else v)' "$config" "$1"; }
[[ $(field User) == 65532:65532 ]] || die "it runs as $(field User)"
[[ $(field Healthcheck) == *--healthcheck* ]] || die "it has no health check: $(field Healthcheck)"
mapfile -t environment < <(field Env)

# What it clones.
mkdir "$tmp/git"
git init -q "$tmp/seed"
printf 'hello\n' >"$tmp/seed/file"
git -C "$tmp/seed" add file
git -C "$tmp/seed" -c user.name=t -c user.email=t@example.com commit -q -m first
git clone -q --bare "$tmp/seed" "$tmp/git/project.git"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout "$tmp/ca.key" -out "$tmp/ca.pem" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$tmp/tls.key" -out "$tmp/tls.csr" 2>/dev/null
openssl x509 -req -in "$tmp/tls.csr" -CA "$tmp/ca.pem" -CAkey "$tmp/ca.key" -days 2 -out "$tmp/tls.pem" \
	-extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1') 2>/dev/null
serve() { # NAME ARGUMENT…
	python3 scripts/gitserver.py "$tmp/git" "$tmp/port-$1" "${@:2}" &
	at_end_kill $!
	wait_for "the $1 server" test -s "$tmp/port-$1"
}
serve http
serve https --cert "$tmp/tls.pem" --key "$tmp/tls.key"
serve private --cert "$tmp/tls.pem" --key "$tmp/tls.key" --token s3cret-token
port_of() { cat "$tmp/port-$1"; }
ssh-keygen -q -t ed25519 -N '' -f "$tmp/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$tmp/user_key"
ssh_port=$(free_port)
if mkdir /run/sshd 2>/dev/null; then at_end+=('rmdir /run/sshd'); fi
cp "$tmp/user_key.pub" "$tmp/authorized_keys"
/usr/sbin/sshd -D -e -f /dev/null -p "$ssh_port" -o ListenAddress=127.0.0.1 -h "$tmp/host_key" -o AuthorizedKeysFile="$tmp/authorized_keys" \
	-o StrictModes=no -o UsePAM=no -o PermitRootLogin=prohibit-password -o PidFile=none -o SetEnv='GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*' >"$tmp/sshd.log" 2>&1 &
at_end_kill $!
wait_for "the ssh server" grep 'Server listening' "$tmp/sshd.log"
chmod 755 "$tmp"

# The runtime: namespaces of its own, a read-only root, no capability left.
cat >"$tmp/runtime" <<-'END'
	set -e
	root=$1 volume=$2 tmpfs=$3 user=$4 mounted=$5
	shift 5
	mount --bind "$root" "$root"
	mount --bind "$volume" "$root/var/lib/c4a"
	mount -t proc proc "$root/proc"
	mount -t tmpfs -o mode=755,size=64k tmpfs "$root/dev"
	for device in null zero random urandom; do
		: >"$root/dev/$device"
		mount --bind "/dev/$device" "$root/dev/$device"
	done
	mount --bind "$mounted" "$root/mnt"
	if [ "$tmpfs" = tmpfs ]; then mount -t tmpfs -o mode=1777,size=16m tmpfs "$root/tmp"; fi
	mount -o remount,bind,ro "$root"
	exec /usr/bin/setpriv --bounding-set=-all,+sys_chroot,+setuid,+setgid --no-new-privs \
		/usr/sbin/chroot --userspec="$user" --groups= "$root" "$@"
END
mkdir -p "$root/proc" "$root/dev" "$root/mnt" "$tmp/mounted"
cp "$tmp/ca.pem" "$tmp/mounted/"
cp -r "$tmp/git/project.git" "$tmp/mounted/"
image() { # USER VOLUME TMPFS [VAR=VALUE…] -- COMMAND…: runs a command as process 1 of the image
	local user=$1 volume=$2 tmpfs=$3 variables=()
	shift 3
	while [[ $1 != -- ]]; do
		variables+=("$1")
		shift
	done
	exec env -i "${environment[@]}" "${variables[@]}" \
		/usr/bin/unshare -mpf --kill-child /bin/sh "$tmp/runtime" "$root" "$volume" "$tmpfs" "$user" "$tmp/mounted" "${@:2}"
}
volume() { # USER makes an empty volume and prints it
	local dir
	dir=$(mktemp -d -p "$tmp" volume.XXXX)
	mkdir -m 700 "$dir/.ssh"
	cp "$tmp/user_key" "$dir/.ssh/id_ed25519"
	printf '[127.0.0.1]:%s %s\n' "$ssh_port" "$(cat "$tmp/host_key.pub")" >"$dir/.ssh/known_hosts"
	chown -R "$1" "$dir"
	printf '%s\n' "$dir"
}
start() { # USER VOLUME TMPFS: starts the image's own command; sets port and scheduler
	port=$(free_port)
	local began=${EPOCHREALTIME/./} i
	image "$@" C4A_PORT="$port" C4A_API_TOKEN=api-token C4A_ALLOW=/mnt SSL_CERT_FILE=/mnt/ca.pem -- c4a-daemon-scheduler >"$tmp/scheduler.log" 2>&1 &
	scheduler=$!
	at_end_kill "$scheduler"
	for ((i = 0; i < 3000; i++)); do
		if curl -sf "http://127.0.0.1:$port/health" >/dev/null; then break; fi
		kill -0 "$scheduler" 2>/dev/null || die "the scheduler ended: $(cat "$tmp/scheduler.log")"
		sleep 0.01
	done
	printf '%s: healthy after %d ms\n' "$*" $(((${EPOCHREALTIME/./} - began) / 1000))
}
process_1() { # prints the pid of the image's process 1, unshare's only child
	local child
	read -r child _ <"/proc/$scheduler/task/$scheduler/children" || true
	printf '%s' "$child"
}
stop() {
	kill "$(process_1)"
	local status=0
	wait "$scheduler" || status=$?
	[[ $status == 0 ]] || die "SIGTERM: exit status $status: $(cat "$tmp/scheduler.log")"
}
rpc() { # LIBRARY METHOD PARAMS
	curl -s -H 'Authorization: Bearer api-token' "http://127.0.0.1:$port/libraries/$1/rpc" -d "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$2\",\"params\":$3}"
}
clones() { # WHAT LIBRARY URL
	rpc "$2" vcs/clone "{\"url\":\"$3\",\"name\":\"$1\"}" >"$tmp/answer"
	grep -q '"action":"cloned"' "$tmp/answer" || die "$case_: a clone over $1: $(cat "$tmp/answer") $(cat "$tmp/scheduler.log")"
}

for case_ in '65532:65532 tmpfs' '65532:65532 none' '1000770000:0 tmpfs' '1000770000:0 none'; do
	read -r user tmpfs <<<"$case_"
	start "$user" "$(volume "$user")" "$tmpfs"
	env -i "${environment[@]}" C4A_PORT="$port" /usr/sbin/chroot --userspec="$user" "$root" c4a-daemon-scheduler --healthcheck || die "$case_: the health check fails"
	clones http demo "http://127.0.0.1:$(port_of http)/project.git"
	clones https demo "https://localhost:$(port_of https)/project.git"
	clones file demo file:///mnt/project.git
	rpc demo vcs/clone "{\"url\":\"https://localhost:$(port_of private)/project.git\",\"name\":\"private\"}" | grep -q '"code":-32[0-9]*,.*auth' || die "$case_: a private repository without a token"
	rpc demo config/setAuth "{\"host\":\"localhost:$(port_of private)\",\"token\":\"s3cret-token\"}" | grep -q "\"result\"" || die "$case_: config/setAuth"
	clones private demo "https://localhost:$(port_of private)/project.git"
	clones ssh demo "ssh://root@127.0.0.1:$ssh_port$tmp/git/project.git"
	clones ssh-again other "ssh://root@127.0.0.1:$ssh_port$tmp/git/project.git"
	stop
	printf '%s: clones over http, https with its own CA, file, with a token, ssh\n' "$case_"
done

# A volume that belongs to somebody else.
other=$(volume 1234:1234)
status=0
(image 65532:65532 "$other" none C4A_API_TOKEN=t -- c4a-daemon-scheduler) >"$tmp/out" 2>&1 || status=$?
[[ $status == 1 && $(wc -l <"$tmp/out") == 1 && $(cat "$tmp/out") == *'uid 1234'*'uid 65532'*'chown -R 65532 /var/lib/c4a'* ]] ||
	die "a volume of another uid: exit status $status: $(cat "$tmp/out")"
cat "$tmp/out"

# Process 1: a hundred clones while their gits are killed at random.
case_='process 1'
start 65532:65532 "$(volume 65532:65532)" none
namespace=$(readlink "/proc/$(process_1)/ns/pid")
inside() { # prints the pids of the image's processes
	local process
	for process in /proc/[0-9]*; do
		if [[ $(readlink "$process/ns/pid" 2>/dev/null) == "$namespace" ]]; then printf '%s\n' "${process#/proc/}"; fi
	done
}
clone_all() {
	local i
	for ((i = 0; i < 25; i++)); do rpc "lib$1" vcs/clone "{\"url\":\"http://127.0.0.1:$(port_of http)/project.git\",\"name\":\"r$i\"}"; printf '\n'; done
}
for worker in 1 2 3 4; do
	clone_all "$worker" >"$tmp/clones-$worker" &
	workers+=($!)
done
python3 - "$namespace" >"$tmp/killed" <<-'END' &
	import os, random, signal, sys
	# Each git is met once: most live, so that clones get done too.
	met, count = set(), 0
	def end(*_):
	    print(count, flush=True)
	    os._exit(0)
	signal.signal(signal.SIGTERM, end)
	while True:
	    for pid in filter(str.isdigit, os.listdir("/proc")):
	        try:
	            if pid in met:
	                continue
	            with open(f"/proc/{pid}/comm") as file:
	                if not file.read().startswith("git") or os.readlink(f"/proc/{pid}/ns/pid") != sys.argv[1]:
	                    continue
	            met.add(pid)
	            if random.random() < 0.1:
	                os.kill(int(pid), signal.SIGKILL)
	                count += 1
	        except OSError:
	            pass
END
killer=$!
at_end_kill "$killer"
wait "${workers[@]}"
kill "$killer"
wait "$killer" || true
killed=$(cat "$tmp/killed")
cat "$tmp"/clones-? >"$tmp/answers"
answers=$(grep -c . "$tmp/answers" || true)
[[ $answers == 100 ]] || die "$answers answers to 100 clones"
cloned=$(grep -c '"action"' "$tmp/answers" || true)
((killed >= 10 && cloned >= 10)) || die "$killed gits were killed and $cloned clones done, want 10 of both"
no_zombie() {
	local process
	for process in $(inside); do
		if grep -q '^State:.Z' "/proc/$process/status" 2>/dev/null; then return 1; fi
	done
}
wait_for 'the end of all zombies' no_zombie
clones after demo "http://127.0.0.1:$(port_of http)/project.git"
stop
printf 'process 1: 100 clones, %d gits killed, %d clones done, no zombie\n' "$killed" "$cloned"
