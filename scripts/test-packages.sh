#!/usr/bin/env bash
# Installs the packages in a Debian chroot and removes them again: what remains
# is data and nothing else.
#
#   scripts/test-packages.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang git:git rpm:rpm
root=$tmp/root
debian_root "$root"

git clone --quiet --no-tags . "$tmp/source"
git -C "$tmp/source" tag v0.9.1-rc.1
arch=$(go env GOARCH)
C4A_TARGETS=linux/$arch "$tmp/source/scripts/release.sh" "$tmp/out" >/dev/null
make_packages "$tmp/source/scripts/packages.sh" "$tmp/out"
tree=$tmp/out/0.9.1-rc.1
cp "$tree/SHA256SUMS" "$tmp/first"
make_packages "$tmp/source/scripts/packages.sh" "$tmp/out"
# An rpm holds the time and the host of its build.
diff <(grep -v '\.rpm$' "$tmp/first") <(grep -v '\.rpm$' "$tree/SHA256SUMS") || die 'two runs make different packages'
(cd "$tree" && sha256sum --quiet -c SHA256SUMS)
[[ $(grep -c 'deb$\|rpm$\|apk$' "$tree/SHA256SUMS") == 6 ]] || die "SHA256SUMS lists not six packages: $(cat "$tree/SHA256SUMS")"

mkdir -p "$root/packages"
cp "$tree"/*.deb "$tree"/*.rpm "$root/packages"

# What a package manager remembers of its own work is not counted.
state() {
	(cd "$root" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./packages -o -path ./var/lib/rpm -o -path ./usr/lib/sysimage -o -path ./root/.rpmdb -o -path ./usr/lib/sysusers.d -o -path ./tmp \) -prune -o -print |
		grep -v '^\./etc/.*-$\|\.lock$' | sort)
	cat "$root/etc/passwd" "$root/etc/group"
}
# check_installed WHAT
check_installed() {
	[[ $(in_root "$root" c4a-daemon --version) == 'c4a-daemon 0.9.1-rc.1 '* ]] || die "$1: c4a-daemon does not run"
	[[ $(in_root "$root" c4a-daemon-scheduler --version) == 'c4a-daemon-scheduler 0.9.1-rc.1 '* ]] || die "$1: c4a-daemon-scheduler does not run"
	in_root "$root" getent passwd c4a >/dev/null || die "$1: there is no user c4a"
	[[ $(in_root "$root" stat -c '%U %a' /var/lib/c4a) == 'c4a 700' ]] || die "$1: /var/lib/c4a is of $(in_root "$root" stat -c '%U %a' /var/lib/c4a)"
	[[ $(in_root "$root" stat -c '%U %a' /etc/default/c4a-daemon-scheduler) == 'root 600' ]] || die "$1: the configuration can be read by others"
	local unit
	for unit in system/c4a-daemon-scheduler user/c4a-daemon; do
		grep -q "^ExecStart=/usr/bin/${unit#*/}\$" "$root/usr/lib/systemd/$unit.service" || die "$1: $unit.service starts another program"
	done
	in_root "$root" setpriv --reuid c4a --regid c4a --clear-groups env HOME=/var/lib/c4a c4a-daemon-scheduler call --workspace /var/lib/c4a --allow /repo \
		demo vcs/clone url=/repo >"$tmp/clone" 2>&1 || die "$1: no clone as c4a: $(cat "$tmp/clone")"
}
git init -q "$root/repo"
git -C "$root/repo" -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first
chown -R 12345 "$root/repo"
state >"$tmp/before"

in_root "$root" dpkg -i /packages/c4a-daemon_0.9.1-rc.1_linux_"$arch".deb /packages/c4a-daemon-scheduler_0.9.1-rc.1_linux_"$arch".deb >"$tmp/log" 2>&1 || die "dpkg -i: $(cat "$tmp/log")"
check_installed deb
# An upgrade keeps a changed configuration.
printf 'C4A_PORT=5111\n' >>"$root/etc/default/c4a-daemon-scheduler"
in_root "$root" dpkg -i /packages/c4a-daemon-scheduler_0.9.1-rc.1_linux_"$arch".deb >"$tmp/log" 2>&1 || die "dpkg -i again: $(cat "$tmp/log")"
grep -q 5111 "$root/etc/default/c4a-daemon-scheduler" || die 'an upgrade replaced the configuration'

in_root "$root" dpkg --purge c4a-daemon c4a-daemon-scheduler >"$tmp/log" 2>&1 || die "dpkg --purge: $(cat "$tmp/log")"
state >"$tmp/after"
diff "$tmp/before" "$tmp/after" >"$tmp/diff" || true
if grep '^[<>]' "$tmp/diff" | grep -qv '^> ./var/lib/c4a\(/.*\)\?$\|^> c4a:x:'; then die "after the removal with data: $(cat "$tmp/diff")"; fi
grep -q '^> ./var/lib/c4a/demo' "$tmp/diff" || die "the removal took the data: $(cat "$tmp/diff")"

# Without data nothing remains.
in_root "$root" dpkg -i /packages/c4a-daemon-scheduler_0.9.1-rc.1_linux_"$arch".deb >"$tmp/log" 2>&1
rm -rf "$root/var/lib/c4a/demo"
in_root "$root" dpkg --purge c4a-daemon-scheduler >"$tmp/log" 2>&1 || die "dpkg --purge: $(cat "$tmp/log")"
state >"$tmp/after"
diff "$tmp/before" "$tmp/after" || die 'after the removal something remains'

# The rpm's scripts get other arguments. Its dependencies are dpkg's here.
rpm --root "$root" -i --nodeps --noplugins "$tree"/*.rpm >"$tmp/log" 2>&1 || die "rpm -i: $(cat "$tmp/log")"
check_installed rpm
rm -rf "$root/var/lib/c4a/demo"
rpm --root "$root" -e --nodeps --noplugins c4a-daemon c4a-daemon-scheduler >"$tmp/log" 2>&1 || die "rpm -e: $(cat "$tmp/log")"
state >"$tmp/after"
diff "$tmp/before" "$tmp/after" || die 'after the removal of the rpm something remains'

for file in "$tree"/*.apk; do
	tar --ignore-zeros -tzf "$file" >"$tmp/list" 2>/dev/null || true
	grep -q "^usr/bin/c4a-daemon" "$tmp/list" || die "$file holds no program"
done
printf 'packages: installed, run and removed\n'
