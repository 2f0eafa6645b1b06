#!/bin/sh
# Installs c4a-daemon and c4a-daemon-scheduler on Linux or macOS.
#
#   curl -fsSL https://github.com/context4ai/c4a-daemon/releases/latest/download/install.sh | sh
#   curl -fsSL http://scheduler:5110/install.sh | sh
#   curl -fsSL … | C4A_VERSION=0.1.0 C4A_BIN_DIR=$HOME/bin sh
#
# Variables:
#   C4A_BASE_URL  folder that holds a release tree: latest, VERSION/SHA256SUMS,
#                 VERSION/NAME_OS_ARCH (default: the releases on GitHub)
#   C4A_VERSION   version to install (default: the newest)
#   C4A_BIN_DIR   folder to install into, created when missing (default:
#                 /usr/local/bin when it is writable, else ~/.local/bin)
#
# Exit status: 0 installed, 2 usage error, 3 no downloader, 4 no build for this
# system, 5 no such version, 6 transfer failed, 7 wrong checksum, 8 no
# permission, 9 no space, 10 no program to compute a checksum, 129, 130 or 143
# interrupted by SIGHUP, SIGINT or SIGTERM. Both files are verified before
# either is installed.
#
# Everything is inside one function that the last line calls, so that a shell
# that reads only a part of this file runs nothing.
c4a_install() {
	set -eu
	umask 022
	releases='https://github.com/context4ai/c4a-daemon/releases'
	# A scheduler that serves this file writes its own address here.
	default_base_url=''

	# fail STATUS SENTENCE
	fail() {
		printf 'install.sh: %s\n' "$2" >&2
		exit "$1"
	}

	have() { command -v "$1" >/dev/null 2>&1; }

	clean_up() {
		if [ -n "$child" ]; then
			kill "$child" 2>/dev/null || :
		fi
		if [ -n "$temporary" ]; then
			rm -rf "$temporary"
		fi
	}

	# interrupted STATUS ends the program; clean_up runs on the way out.
	interrupted() {
		fail "$1" "interrupted: nothing was installed"
	}

	find_downloader() {
		if have curl; then
			downloader=curl
		elif have wget; then
			downloader=wget
			case $(wget --version 2>&1 || :) in
			*GNU*) downloader=gnu_wget ;;
			esac
		elif have busybox && busybox wget --help >/dev/null 2>&1; then
			downloader='busybox wget'
		else
			fail 3 "neither curl nor wget was found: install one of them, for example with 'apt-get install curl'"
		fi
	}

	find_checksum() {
		if have sha256sum; then
			checksum='sha256sum'
		elif have shasum; then
			checksum='shasum -a 256'
		elif have openssl; then
			checksum='openssl dgst -r -sha256'
		else
			fail 10 "no program to compute SHA-256 was found: install sha256sum (coreutils) or openssl"
		fi
	}

	find_system() {
		kernel=$(uname -s)
		machine=$(uname -m)
		case $kernel in
		Linux) os=linux ;;
		Darwin) os=darwin ;;
		MINGW* | MSYS* | CYGWIN* | Windows_NT) fail 4 "this script is for Linux and macOS; for Windows see $releases/latest and docs/install.md" ;;
		*) fail 4 "there is no build for $kernel, only for Linux and macOS" ;;
		esac
		case $machine in
		x86_64 | amd64) arch=amd64 ;;
		aarch64 | arm64) arch=arm64 ;;
		*) fail 4 "there is no build for $kernel on $machine, only for amd64 and arm64: build it with Go, see README.md" ;;
		esac
	}

	find_bin_dir() {
		bin_dir=${C4A_BIN_DIR:-}
		if [ -z "$bin_dir" ]; then
			if [ -w /usr/local/bin ] || { [ ! -e /usr/local/bin ] && [ -w /usr/local ]; }; then
				bin_dir=/usr/local/bin
			elif [ -n "${HOME:-}" ]; then
				bin_dir=$HOME/.local/bin
			else
				fail 8 "/usr/local/bin is not writable and HOME is not set: set C4A_BIN_DIR to a folder that you may write"
			fi
		fi
		case $bin_dir in
		/*) ;;
		*) bin_dir=$PWD/$bin_dir ;;
		esac
		cause=$(mkdir -p "$bin_dir" 2>&1) || cannot_write "$cause"
		# In the same folder as the programs: a rename within a file system is
		# atomic and can replace a program that is running.
		temporary=$bin_dir/.c4a-install.$$
		cause=$(mkdir -m 700 "$temporary" 2>&1) || {
			temporary=
			cannot_write "$cause"
		}
		for name in c4a-daemon c4a-daemon-scheduler; do
			if [ -d "$bin_dir/$name" ]; then
				fail 8 "$bin_dir/$name is a directory: remove it or set C4A_BIN_DIR to another folder"
			fi
		done
	}

	# cannot_write CAUSE
	cannot_write() {
		case $1 in
		*'o space left'* | *'uota exceeded'*) no_space ;;
		esac
		fail 8 "cannot write to $bin_dir (${1##*: }): run this as root or set C4A_BIN_DIR to a folder that you may write"
	}

	no_space() {
		fail 9 "no space is left for $bin_dir: free some 30 MB or set C4A_BIN_DIR to a folder on another disk"
	}

	# fetch URL FILE returns 0, or 44 when the server has no such file. The
	# downloader runs in the background, so that a signal is handled at once.
	fetch() {
		case $downloader in
		curl)
			curl -fsSL --retry 2 --connect-timeout 20 --speed-limit 1 --speed-time 30 -w '%{http_code}' -o "$2" "$1" \
				>"$temporary/code" 2>"$temporary/error" &
			;;
		gnu_wget) wget -nv -t 3 -T 30 -O "$2" "$1" >/dev/null 2>"$temporary/error" & ;;
		# Not every busybox has -T.
		*) $downloader -O "$2" "$1" >/dev/null 2>"$temporary/error" & ;;
		esac
		child=$!
		status=0
		wait "$child" || status=$?
		child=
		if [ "$status" -eq 0 ]; then
			return 0
		fi
		cause=$(grep -v '^$' "$temporary/error" | tail -n 1 || :)
		case $downloader:$status:$(cat "$temporary/code" 2>/dev/null || :) in
		curl:22:404 | curl:22:410) return 44 ;;
		curl:23:* | gnu_wget:3:*) no_space ;;
		esac
		case $(cat "$temporary/error") in
		*'o space left'* | *'uota exceeded'* | *'short write'*) no_space ;;
		*'ERROR 404'* | *' 404 '* | *'ERROR 410'* | *' 410 '*) return 44 ;;
		esac
		fail 6 "the transfer of $1 failed (${cause:-$downloader ended with status $status}): check the network and try again"
	}

	find_version() {
		base_url=${C4A_BASE_URL:-$default_base_url}
		base_url=${base_url%/}
		version=${C4A_VERSION:-}
		version=${version#v}
		newest=$base_url/latest
		prefix=
		if [ -z "$base_url" ]; then
			base_url=$releases/download
			newest=$releases/latest/download/latest
			prefix=v # a release's tag
		fi
		if [ -z "$version" ]; then
			fetch "$newest" "$temporary/latest" ||
				fail 5 "there is no $newest: check C4A_BASE_URL, it has to name a folder with a release tree"
			version=$(head -c 200 "$temporary/latest")
			is_version "$version" ||
				fail 6 "$newest does not hold a version: does a proxy or a login page answer in its place?"
		fi
		is_version "$version" ||
			fail 2 "C4A_VERSION is '$version', which is not a version: use one such as 0.1.0"
		url=$base_url/$prefix$version
		fetch "$url/SHA256SUMS" "$temporary/SHA256SUMS" ||
			fail 5 "there is no version $version at $base_url: unset C4A_VERSION to get the newest one"
	}

	# is_version TEXT reports whether the text can be a version and a folder.
	is_version() {
		case $1 in
		'' | .* | -* | *[!A-Za-z0-9.+_-]*) return 1 ;;
		*[0-9]*) return 0 ;;
		esac
		return 1
	}

	# expected FILE prints the checksum that SHA256SUMS has for it.
	expected() {
		while read -r sum file; do
			if [ "${file#\*}" = "$1" ]; then
				printf '%s\n' "$sum"
				return
			fi
		done <"$temporary/SHA256SUMS"
	}

	is_sha256() {
		case $1 in
		*[!0-9a-f]*) return 1 ;;
		esac
		[ ${#1} -eq 64 ]
	}

	check_sums() {
		if ! grep -Eq '^[0-9a-f]{64} [ *]' "$temporary/SHA256SUMS"; then
			fail 6 "$url/SHA256SUMS holds no checksums: does a proxy or a login page answer in its place?"
		fi
		if [ -n "$(tail -c 1 "$temporary/SHA256SUMS")" ]; then
			fail 6 "the transfer of $url/SHA256SUMS was cut: try again"
		fi
		daemon_sum=$(expected "c4a-daemon_${os}_$arch")
		scheduler_sum=$(expected "c4a-daemon-scheduler_${os}_$arch")
		if ! is_sha256 "$daemon_sum" || ! is_sha256 "$scheduler_sum"; then
			fail 4 "$url/SHA256SUMS lists no build for $os on $arch: other builds are at $releases"
		fi
	}

	# get NAME SUM downloads a program into the temporary folder and verifies it.
	get() {
		fetch "$url/$1_${os}_$arch" "$temporary/$1" ||
			fail 5 "version $version has no file $1_${os}_$arch at $base_url: the release is not complete, choose another C4A_VERSION"
		sum=$($checksum "$temporary/$1") || fail 6 "the checksum of $1 cannot be computed: try again"
		sum=${sum%% *}
		if [ "${sum#\\}" != "$2" ]; then
			fail 7 "the checksum of $1_${os}_$arch is wrong: the file was cut or changed on its way, nothing was installed; try again, then report it"
		fi
		chmod 755 "$temporary/$1"
		if ! shown=$("$temporary/$1" --version 2>&1 </dev/null); then
			fail 4 "$1 does not run on this $kernel $(uname -r) on $machine: ${shown:-no output} (a kernel that is too old, or a folder mounted noexec?)"
		fi
	}

	install_both() {
		get c4a-daemon-scheduler "$scheduler_sum"
		if [ "$daemon_sum" = "$scheduler_sum" ]; then
			# One file that is both programs, which a scheduler serves: it acts as
			# the daemon when it is called through a link of that name.
			ln -s c4a-daemon-scheduler "$temporary/c4a-daemon"
		else
			get c4a-daemon "$daemon_sum"
		fi
		# Both or neither.
		trap '' HUP INT TERM
		for name in c4a-daemon-scheduler c4a-daemon; do
			cause=$(mv -f "$temporary/$name" "$bin_dir/$name" 2>&1) || cannot_write "$cause"
		done
	}

	say_next() {
		printf 'Installed c4a-daemon and c4a-daemon-scheduler %s in %s.\n' "$version" "$bin_dir"
		case :$PATH: in
		*:"$bin_dir":*)
			found=$(command -v c4a-daemon || :)
			if [ "$found" != "$bin_dir/c4a-daemon" ]; then
				printf 'Note: c4a-daemon in your PATH is still %s.\n' "$found"
			fi
			;;
		*)
			# Written so that it can be copied into a profile.
			# shellcheck disable=SC2016
			printf 'Note: %s is not in your PATH. Run this, and add it to ~/.profile:\n  export PATH="%s:$PATH"\n' "$bin_dir" "$bin_dir"
			;;
		esac
		if ! have git; then
			printf 'Note: git was not found; without it only files can be read. Install git 2.31 or newer.\n'
		fi
		server=HOST:5110
		case $base_url in
		http://*/bin) server=ws://${base_url#http://} ;;
		https://*/bin) server=wss://${base_url#https://} ;;
		esac
		printf 'Next, to let a server read a folder of this machine:\n  c4a-daemon --server %s --allow DIR --check\n' "${server%/bin}"
		printf 'or, to run a server:\n  c4a-daemon-scheduler --workspace DIR\n'
		printf 'Programs that are running keep their version until they are restarted.\n'
	}

	if [ $# -gt 0 ]; then
		fail 2 "this script has no arguments: set C4A_BASE_URL, C4A_VERSION or C4A_BIN_DIR"
	fi
	temporary=
	child=
	trap clean_up EXIT
	trap 'interrupted 129' HUP
	trap 'interrupted 130' INT
	trap 'interrupted 143' TERM
	find_system
	find_downloader
	find_checksum
	find_bin_dir
	find_version
	check_sums
	printf 'Downloading version %s for %s on %s from %s\n' "$version" "$os" "$arch" "$base_url"
	install_both
	say_next
}
c4a_install "$@"
