#!/usr/bin/env bash
# Runs install.sh in dash, bash and busybox sh, with curl, GNU wget and busybox
# wget, against release trees that are good, tampered with, truncated and
# missing, served on loopback.
#
#   scripts/test-install.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need python3:python3 dash:dash busybox:busybox curl:curl wget:wget setpriv:util-linux

(need shellcheck:shellcheck && shellcheck --shell=sh install.sh && shellcheck -x scripts/*.sh)

chmod 755 "$tmp" # another user has to reach it
# A release tree of two small programs. The long one is there to be cut.
readonly version=1.2.3
tree=$tmp/tree
mkdir -p "$tree/$version"
case $(uname -m) in
x86_64) arch=amd64 ;;
*) arch=arm64 ;;
esac
for name in c4a-daemon c4a-daemon-scheduler; do
	{
		printf '#!/bin/sh\necho "%s 1.2.3"\nexit\n' "$name"
		head -c 100000 /dev/zero | tr '\0' '#'
	} >"$tree/$version/${name}_linux_$arch"
done
sums() { (cd "$1" && sha256sum c4a-* >SHA256SUMS); }
sums "$tree/$version"
printf '%s\n' "$version" >"$tree/latest"

# Trees with one fault each.
variant() { cp -r "$tree" "$tmp/tree-$1" && dir=$tmp/tree-$1/$version; }
variant tampered
sed -i 's/1\.2\.3/6.6.6/' "$dir/c4a-daemon_linux_$arch"
variant missing
rm "$dir/c4a-daemon_linux_$arch"
variant broken
printf 'not a program\n' | tee "$dir/c4a-daemon_linux_$arch" >"$dir/c4a-daemon-scheduler_linux_$arch"
sums "$dir"
variant one # as a scheduler serves it
cp "$dir/c4a-daemon-scheduler_linux_$arch" "$dir/c4a-daemon_linux_$arch"
sums "$dir"
variant other
sed -i "s/_$arch\$/_s390x/" "$dir/SHA256SUMS"
mkdir "$tmp/trees"
for dir in "$tmp"/tree-*; do mv "$dir" "$tmp/trees/${dir##*/tree-}"; done
mv "$tree" "$tmp/trees/fine"
tree=$tmp/trees/fine

serve() { # serves $tmp/trees; sets url
	exec {server_stdin}> >(exec python3 scripts/faultserver.py "$tmp/trees" "$tmp/port")
	wait_for 'the server' test -s "$tmp/port"
	url=http://127.0.0.1:$(cat "$tmp/port")
}
serve

# A PATH with one downloader and what else install.sh uses.
tools() {
	local dir=$tmp/tools-$1 tool
	mkdir -p "$dir"
	for tool in uname mkdir rm mv ln chmod cat grep head tail sha256sum sleep sh git; do
		ln -s "$(command -v "$tool")" "$dir/$tool" 2>/dev/null || true
	done
	printf '%s' "$dir"
}
curl_path=$(tools curl)
ln -s "$(command -v curl)" "$curl_path/curl"
wget_path=$(tools wget)
ln -s "$(command -v wget)" "$wget_path/wget"
busybox_path=$(tools busybox)
ln -s "$(command -v busybox)" "$busybox_path/busybox"
none_path=$(tools none)

count=0
# run SHELL TOOLS WANT [VAR=VALUE…] runs the script from standard input, as a
# pipe from curl does, and checks its exit status. Anything but 0 must come with one
# sentence and leave nothing behind.
run() {
	local shell=$1 path=$2 want=$3 got=0
	shift 3
	rm -rf "$tmp/bin"
	# shellcheck disable=SC2086 # a shell may be two words
	env -i HOME="$tmp/home" PATH="$path" C4A_BIN_DIR="$tmp/bin" "$@" $shell <"${script:-install.sh}" >"$tmp/out" 2>"$tmp/err" || got=$?
	check "$shell ${path##*/} $*" "$want" "$got"
}
check() {
	count=$((count + 1))
	if [[ $3 != "$2" ]]; then
		cat "$tmp/out" "$tmp/err" >&2
		die "$1: exit status $3, want $2"
	fi
	if [[ $2 != 0 ]]; then
		[[ $(wc -l <"$tmp/err") == 1 ]] || die "$1: want one sentence, got: $(cat "$tmp/err")"
		[[ -z $(ls -A "$tmp/bin" 2>/dev/null) ]] || die "$1: left behind: $(ls -A "$tmp/bin")"
	fi
}
installed() {
	[[ $("$tmp/bin/c4a-daemon" --version) == 'c4a-daemon'*" $version" && $("$tmp/bin/c4a-daemon-scheduler" --version) == "c4a-daemon-scheduler $version" ]] ||
		die 'the programs do not run'
	[[ $(ls -A "$tmp/bin") == $'c4a-daemon\nc4a-daemon-scheduler' ]] || die "left behind: $(ls -A "$tmp/bin")"
}

dash=$(command -v dash) bash=$(command -v bash) busybox=$(command -v busybox)
for shell in "$dash" "$bash" "$bash --posix" "$busybox sh"; do
	for path in "$curl_path" "$wget_path" "$busybox_path"; do
		base() { printf 'C4A_BASE_URL=%s/%s/%s' "$url" "$1" "${2:-fine}"; }
		run "$shell" "$path" 0 "$(base good)"
		installed
		grep -q "not in your PATH" "$tmp/out" || die 'no hint about PATH'
		run "$shell" "$path" 0 "$(base good)" C4A_VERSION=v$version
		run "$shell" "$path" 0 "$(base good one)"
		installed
		[[ $(readlink "$tmp/bin/c4a-daemon") == c4a-daemon-scheduler ]] || die 'one file is not installed as a link'
		run "$shell" "$path" 7 "$(base good tampered)"
		run "$shell" "$path" 5 "$(base good missing)"
		run "$shell" "$path" 5 "$(base good nowhere)"
		run "$shell" "$path" 5 "$(base good)" C4A_VERSION=9.9.9
		run "$shell" "$path" 2 "$(base good)" C4A_VERSION=../../etc
		run "$shell" "$path" 4 "$(base good broken)"
		run "$shell" "$path" 4 "$(base good other)"
		run "$shell" "$path" 6 "$(base html)"
		run "$shell" "$path" 6 "$(base html)" C4A_VERSION=$version
		run "$shell" "$path" 6 "$(base status-403)"
		run "$shell" "$path" 6 C4A_BASE_URL=http://127.0.0.1:1/gone
		# A cut that the downloader notices, and one that it does not.
		run "$shell" "$path" 6 "$(base cut-50)"
		run "$shell" "$path" 7 "$(base short-5000)"
	done
	# SHA256SUMS is cut within its line, or before it.
	for size in 7 64 70 100 $(($(stat -c %s "$tree/$version/SHA256SUMS") - 1)); do
		run "$shell" "$curl_path" 6 "$(base short-$size)" C4A_VERSION=$version
	done
	run "$shell" "$none_path" 3 "$(base good)"
	mkdir -p "$tmp/nosum"
	cp -P "$curl_path"/* "$tmp/nosum"
	rm -f "$tmp/nosum/sha256sum"
	run "$shell" "$tmp/nosum" 10 "$(base good)"
	mkdir -p "$tmp/sparc"
	cp -P "$curl_path"/* "$tmp/sparc"
	rm -f "$tmp/sparc/uname"
	printf '#!/bin/sh\ncase $1 in -m) echo sparc64;; *) echo Linux;; esac\n' >"$tmp/sparc/uname"
	chmod +x "$tmp/sparc/uname"
	run "$shell" "$tmp/sparc" 4 "$(base good)"

	# No permission, also as root, where the mode of a directory is no obstacle.
	rm -rf "$tmp/bin" "$tmp/locked"
	mkdir -m 755 "$tmp/locked"
	chmod 555 "$tmp/locked"
	as=()
	if [[ $EUID == 0 ]]; then as=("$(command -v setpriv)" --reuid 65534 --regid 65534 --clear-groups); fi
	for dir in "$tmp/locked" "$tmp/locked/new/folder" /proc/c4a; do
		got=0
		# shellcheck disable=SC2086
		env -i PATH="$curl_path" "$(base good)" C4A_BIN_DIR="$dir" "${as[@]}" $shell <install.sh >"$tmp/out" 2>"$tmp/err" || got=$?
		check "$shell, $dir" 8 "$got"
	done

	# A running program is replaced, and a failed update leaves the old one.
	mkdir "$tmp/bin"
	cp "$(command -v sleep)" "$tmp/bin/c4a-daemon"
	"$tmp/bin/c4a-daemon" 60 &
	sleeper=$!
	got=0
	# shellcheck disable=SC2086
	env -i PATH="$curl_path" "$(base good tampered)" C4A_BIN_DIR="$tmp/bin" $shell <install.sh >"$tmp/out" 2>"$tmp/err" || got=$?
	[[ $got == 7 ]] && cmp -s "$tmp/bin/c4a-daemon" "$(command -v sleep)" || die "a failed update replaced the program (exit status $got)"
	# shellcheck disable=SC2086
	env -i PATH="$curl_path" "$(base good)" C4A_BIN_DIR="$tmp/bin" $shell <install.sh >"$tmp/out"
	installed
	kill "$sleeper"

	# Interrupted while it waits for the server.
	for signal in INT:130 TERM:143 HUP:129; do
		rm -rf "$tmp/bin"
		# shellcheck disable=SC2086
		env -i --default-signal=HUP,INT,TERM PATH="$curl_path" "$(base only-hang-scheduler)" C4A_BIN_DIR="$tmp/bin" $shell <install.sh >"$tmp/out" 2>"$tmp/err" &
		process=$!
		wait_for 'half of a program' eval 'test -s "$tmp"/bin/.c4a-install.*/c4a-daemon-scheduler'
		kill -"${signal%:*}" "$process"
		got=0
		wait "$process" || got=$?
		check "$shell, SIG${signal%:*}" "${signal#*:}" "$got"
	done

	# The script itself is cut, at every line and in the middle of many words.
	size=$(stat -c %s install.sh)
	rm -rf "$tmp/bin" "$tmp/home"
	for ((cut = 1; cut < size - 1; cut += 61)); do cuts+=("$cut"); done
	for ((cut = size - 60; cut < size - 6; cut++)); do cuts+=("$cut"); done
	for cut in "${cuts[@]}"; do
		# shellcheck disable=SC2086
		head -c "$cut" install.sh | env -i HOME="$tmp/home" PATH="$curl_path" "$(base good)" C4A_BIN_DIR="$tmp/bin" $shell >/dev/null 2>&1 || true
		[[ ! -e $tmp/bin && ! -e $tmp/home ]] || die "$shell: the script cut at byte $cut of $size did something"
		count=$((count + 1))
	done
	cuts=()
done

# A disk that is full, before the first file and amid the transfer.
if unshare -m true 2>/dev/null; then
	for size in 4k 24k 128k; do
		for path in "$curl_path" "$wget_path" "$busybox_path"; do
			mkdir -p "$tmp/small"
			got=0
			unshare -m bash -c '
				mount -t tmpfs -o size=$1 tmpfs "$2"
				env -i PATH="$3" "$4" C4A_BIN_DIR="$2" "$5" <install.sh
				status=$?; [[ -z $(ls -A "$2") ]] || exit 99; exit $status' - \
				"$size" "$tmp/small" "$path" "$(base good)" "$dash" >"$tmp/out" 2>"$tmp/err" || got=$?
			check "${path##*/}, a disk of $size" 9 "$got"
		done
	done
else
	printf 'skipped: a full disk (mounts are not allowed here)\n'
fi

# The default folder, for a user who may not write /usr/local/bin.
if [[ $EUID != 0 && ! -w /usr/local/bin ]]; then
	env -i HOME="$tmp/home" PATH="$curl_path" "$(base good)" "$dash" <install.sh >"$tmp/out"
	[[ -x $tmp/home/.local/bin/c4a-daemon ]] || die 'not installed in ~/.local/bin'
elif [[ $EUID == 0 ]]; then
	mkdir -p "$tmp/home" && chown 65534 "$tmp/home"
	setpriv --reuid 65534 --regid 65534 --clear-groups env -i HOME="$tmp/home" PATH="$curl_path" "$(base good)" "$dash" <install.sh >"$tmp/out"
	[[ -x $tmp/home/.local/bin/c4a-daemon ]] || die 'not installed in ~/.local/bin'
fi
# An argument is a usage error.
got=0
sh install.sh --help >"$tmp/out" 2>"$tmp/err" || got=$?
check 'an argument' 2 "$got"
exec {server_stdin}>&-
printf 'install.sh: %d runs as wanted\n' "$count"
