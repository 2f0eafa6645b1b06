#!/bin/sh
# Before the removal, not before an upgrade (deb: upgrade, rpm: 1).
set -e
case ${1-} in
upgrade | failed-upgrade | deconfigure | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now c4a-daemon-scheduler || :
fi
