# Sourced by scripts/test-*.sh: a temporary folder that goes away at the end,
# tools that are installed or the test is skipped.
# shellcheck shell=bash

export LC_ALL=C
tmp=$(mktemp -d)
readonly tmp
at_end=()
ended() {
	local status=$? command
	for command in "${at_end[@]}"; do eval "$command" || true; done
	rm -rf "$tmp"
	exit "$status"
}
trap ended EXIT

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# skip REASON ends the script with success.
skip() {
	printf 'skipped: %s: %s\n' "${0##*/}" "$*"
	exit 0
}

# need PROGRAM:PACKAGE… installs what is missing, or skips the test.
need() {
	local pair missing=()
	for pair; do
		if ! command -v "${pair%%:*}" >/dev/null 2>&1; then missing+=("${pair#*:}"); fi
	done
	if ((${#missing[@]} == 0)); then return; fi
	if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$tmp/apt.log" 2>&1 || true
	fi
	for pair; do
		command -v "${pair%%:*}" >/dev/null 2>&1 || skip "${pair%%:*} is missing and cannot be installed (package ${pair#*:})"
	done
}

# program NAME PACKAGE… prints its path; out of the packages, of which all but the
# first are libraries, where it is not installed, because the service of a package
# that is installed would be started.
program() {
	local name=$1 path dir=$tmp/package-$1
	shift
	path=$(PATH=$PATH:/usr/sbin command -v "$name" || true)
	if [[ -z $path && -n $(command -v apt-get) ]]; then
		mkdir -p "$dir"
		(cd "$dir" && { apt-get download "$@" || { apt-get update -q && apt-get download "$@"; }; } && for file in *.deb; do dpkg -x "$file" .; done) >/dev/null 2>&1 || true
		path=$(find "$dir/usr" -name "$name" -type f -perm -1 2>/dev/null | head -n 1)
	fi
	printf '%s' "$path"
}

# at_end_kill PID ends a process of this script, and what it started, at the end.
at_end_kill() { at_end+=("end_process $1"); }
end_process() {
	local children i
	children=$(cat "/proc/$1/task/$1/children" 2>/dev/null) || return
	# shellcheck disable=SC2086 # several pids
	kill "$1" $children 2>/dev/null || true
	for ((i = 0; i < 50; i++)); do
		if ! jobs -rp | grep -qx "$1"; then return; fi
		sleep 0.1
	done
	# shellcheck disable=SC2086
	kill -KILL "$1" $children 2>/dev/null || true
	wait "$1" || true
}

# free_port prints a TCP port of loopback that nothing listens on. It is below
# those that the system gives to connections, so it is still free a moment later.
free_port() {
	python3 -c '
import random, socket
while True:
    port = random.randrange(20000, 30000)
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
    except OSError:
        continue
    print(port)
    break'
}

# wait_for WHAT COMMAND… waits until the command succeeds.
wait_for() {
	local what=$1 i
	shift
	for ((i = 0; i < 600; i++)); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.1
	done
	die "$what: nothing within 60 s"
}

# make_packages PROGRAM OUTDIR runs a packages.sh, or skips the test where its tool
# cannot be installed.
make_packages() {
	local status=0
	"$1" "$2" >"$tmp/packages.log" 2>&1 || status=$?
	if ((status == 3)); then skip "$(tail -n 1 "$tmp/packages.log")"; fi
	((status == 0)) || die "packages.sh failed: $(cat "$tmp/packages.log")"
}

# debian_root DIR makes DIR a minimal Debian 12 with git, certificates and
# ssh, from a copy that is kept for a week.
debian_root() {
	local kept=${XDG_CACHE_HOME:-$HOME/.cache}/c4a-ci/bookworm-v2.tar
	need debootstrap:debootstrap
	[[ $EUID == 0 ]] || skip 'debootstrap needs root'
	if [[ -z $(find "$kept" -mtime -7 2>/dev/null) ]]; then
		mkdir -p "${kept%/*}"
		debootstrap --variant=minbase --include=git,openssh-client,libnss-wrapper,busybox,curl,ca-certificates bookworm \
			"$tmp/debootstrap" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$tmp/debootstrap.log" 2>&1 ||
			skip "debootstrap failed: $(tail -n 1 "$tmp/debootstrap.log")"
		rm -rf "$tmp"/debootstrap/var/cache/apt/archives/*.deb
		# What lets apt-get reach its servers from this machine.
		cp -a /etc/apt/apt.conf.d/. "$tmp/debootstrap/etc/apt/apt.conf.d/"
		rm -f "$tmp/debootstrap/etc/apt/apt.conf.d/"*docker* "$tmp/debootstrap/etc/apt/apt.conf.d/"*packagekit* "$tmp/debootstrap/etc/apt/apt.conf.d/"*appstream*
		tar -C "$tmp/debootstrap" -cf "$kept.$$" .
		mv "$kept.$$" "$kept"
		rm -rf "$tmp/debootstrap"
	fi
	mkdir -p "$1"
	tar -C "$1" -xf "$kept"
	cp -L /etc/resolv.conf "$1/etc/resolv.conf"
	unshare -m true 2>/dev/null || skip 'mounts are not allowed here'
	mknod -m 666 "$1/dev/null" c 1 3 2>/dev/null || true
	mknod -m 666 "$1/dev/urandom" c 1 9 2>/dev/null || true
}

# in_root DIR COMMAND… runs it in a root of debian_root, with a /proc and process
# ids of its own: what it leaves running ends with it.
in_root() { (in_root_exec "$@"); }
# in_root_exec is for the background: $! is its process.
in_root_exec() {
	exec unshare -mpf --kill-child sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$1" \
		env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "${@:2}"
}
