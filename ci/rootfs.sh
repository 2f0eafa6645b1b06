#!/bin/sh
# Gathers what the image needs beside our own programs into a directory: git
# with https and ssh, a shell for git's credential helper, certificates, and the
# libraries of all these. Runs on Debian with git, openssh-client,
# ca-certificates and dash installed.
#
#   ci/rootfs.sh DIR
set -eu
root=${1:?usage: ci/rootfs.sh DIR}
core=$(git --exec-path)

# take FILE copies a file to the same place, what it links to included, and the
# libraries that it needs.
take() {
	if [ -e "$root$1" ]; then
		return 0
	fi
	mkdir -p "$root$(dirname "$1")"
	cp -L "$1" "$root$1"
	for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*' || true); do
		take "$library"
	done
}

mkdir -p "$root/tmp" "$root/etc" "$root/usr/share/git-core/templates" "$root/var/lib/c4a"
chmod 1777 "$root/tmp"

take /usr/bin/git
take "$core/git-remote-http"
ln -sf git-remote-http "$root$core/git-remote-https"
# git starts its own parts by these names.
ln -sf /usr/bin/git "$root$core/git"
ln -sf git "$root/usr/bin/git-upload-pack"
take /usr/bin/ssh
take /bin/dash
mkdir -p "$root/bin"
if [ ! -e "$root/bin/sh" ]; then
	ln -s dash "$root/bin/sh"
fi
# pthread_exit loads it by itself, so that ldd does not list it; without it a
# fetch that fails aborts.
take "$(ldconfig -p | grep -o '/[^ ]*libgcc_s\.so\.1' | head -n 1)"
take /etc/ssl/certs/ca-certificates.crt

# ssh wants a name for its user.
printf 'root:x:0:0:root:/root:/bin/sh\nc4a:x:65532:65532:c4a:/var/lib/c4a:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nc4a:x:65532:\n' >"$root/etc/group"
chown -R 65532:65532 "$root/var/lib/c4a"
