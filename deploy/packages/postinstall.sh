#!/bin/sh
# After the installation or an upgrade (deb: configure, rpm: 1 or more): the user
# and its state directory. The service is not started, and after an upgrade not
# restarted: a running scheduler goes on with its own version.
set -e
if ! getent passwd c4a >/dev/null 2>&1; then
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers c4a.conf
	elif command -v useradd >/dev/null; then
		useradd --system --user-group --no-create-home --home-dir /var/lib/c4a --shell /usr/sbin/nologin c4a
	else # busybox
		addgroup -S c4a
		adduser -S -D -H -h /var/lib/c4a -s /sbin/nologin -G c4a c4a
	fi
fi
if [ ! -e /var/lib/c4a ]; then
	mkdir -m 700 /var/lib/c4a
	chown c4a:c4a /var/lib/c4a
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
	if systemctl is-active --quiet c4a-daemon-scheduler; then
		echo "c4a-daemon-scheduler runs its old version until: systemctl restart c4a-daemon-scheduler"
	else
		echo "start it with: systemctl enable --now c4a-daemon-scheduler"
	fi
fi
