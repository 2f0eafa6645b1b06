#!/bin/sh
# After the removal (deb: purge, rpm: 0, apk: no argument): the user goes unless
# data of it is left in /var/lib/c4a.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
case ${1-} in
purge | 0 | '' | [0-9]*.*) ;;
*) exit 0 ;;
esac
if [ -d /var/lib/c4a ]; then
	# What a scheduler makes for itself is no data.
	rm -f /var/lib/c4a/.scheduler.lock
	rmdir /var/lib/c4a 2>/dev/null || exit 0
fi
if getent passwd c4a >/dev/null 2>&1; then
	if command -v userdel >/dev/null; then
		userdel c4a
	else # busybox
		deluser c4a
	fi
fi
if getent group c4a >/dev/null 2>&1; then
	if command -v groupdel >/dev/null; then
		groupdel c4a
	else
		delgroup c4a
	fi
fi
