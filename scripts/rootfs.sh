#!/bin/sh
# Copies everything that the image needs besides the two programs into a
# directory: git with https and ssh, a shell for git's credential helper,
# certificates, and the libraries of all these. Runs on Debian with git,
# openssh-client, libnss-wrapper, ca-certificates and dash installed, and with
# deploy/image/ssh beside it.
#
#   scripts/rootfs.sh DIR
set -eu
root=${1:?usage: scripts/rootfs.sh DIR}
core=$(git --exec-path)

# copy FILE copies a file, with symbolic links resolved, to the same path below
# DIR, and the libraries that it needs.
copy() {
	if [ -e "$root$1" ]; then
		return 0
	fi
	mkdir -p "$root$(dirname "$1")"
	cp -L "$1" "$root$1"
	for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*' || true); do
		copy "$library"
	done
}

mkdir -p "$root/tmp" "$root/etc" "$root/usr/share/git-core/templates" "$root/var/lib/c4a"
chmod 1777 "$root/tmp"

copy /usr/bin/git
copy "$core/git-remote-http"
ln -sf git-remote-http "$root$core/git-remote-https"
# git starts its own programs by these names.
ln -sf /usr/bin/git "$root$core/git"
ln -sf git "$root/usr/bin/git-upload-pack"
copy /usr/bin/ssh
copy "$(dpkg -L libnss-wrapper | grep '/libnss_wrapper\.so$')"
mkdir -p "$root/usr/local/bin"
cp "$(dirname "$0")/ssh" "$root/usr/local/bin/ssh"
copy /bin/dash
mkdir -p "$root/bin"
if [ ! -e "$root/bin/sh" ]; then
	ln -s dash "$root/bin/sh"
fi
# pthread_exit loads this library at run time, so ldd does not list it. Without
# it a failed fetch aborts.
copy "$(ldconfig -p | grep -o '/[^ ]*libgcc_s\.so\.1' | head -n 1)"
copy /etc/ssl/certs/ca-certificates.crt

# ssh fails if its user has no name.
printf 'root:x:0:0:root:/root:/bin/sh\nc4a:x:65532:65532:c4a:/var/lib/c4a:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nc4a:x:65532:\n' >"$root/etc/group"
chown -R 65532:0 "$root/var/lib/c4a"
# A volume that is made from this folder can be written by any uid of group 0,
# which is what OpenShift gives.
chmod 2770 "$root/var/lib/c4a"
