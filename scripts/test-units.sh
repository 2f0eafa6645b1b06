#!/usr/bin/env bash
# Checks the systemd units and the launchd plist, and that the scheduler runs
# behind what its unit hides: the system's part of /proc.
#
#   scripts/test-units.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need systemd-analyze:systemd python3:python3 go:golang curl:curl

mkdir "$tmp/bin" "$tmp/units" "$tmp/run"
go build -o "$tmp/bin/c4a-daemon" .
go build -tags scheduler -o "$tmp/bin/c4a-daemon-scheduler" .

# The programs lie elsewhere than in the units, everything else is as it stands there.
for unit in c4a-daemon-scheduler c4a-daemon; do
	sed "s|^ExecStart=|&$tmp/bin/|; /^ExecSearchPath=/d" "deploy/systemd/$unit.service" >"$tmp/units/$unit.service"
done
systemd-analyze verify --man=no "$tmp/units/c4a-daemon-scheduler.service" >"$tmp/out" 2>&1 || die "systemd-analyze verify: $(cat "$tmp/out")"
[[ ! -s $tmp/out ]] || die "systemd-analyze verify: $(cat "$tmp/out")"
XDG_RUNTIME_DIR=$tmp/run systemd-analyze verify --user --man=no "$tmp/units/c4a-daemon.service" >"$tmp/out" 2>&1 || die "systemd-analyze verify --user: $(cat "$tmp/out")"
[[ ! -s $tmp/out ]] || die "systemd-analyze verify --user: $(cat "$tmp/out")"
systemd-analyze security --no-pager --offline=true --threshold=15 "$tmp/units/c4a-daemon-scheduler.service" >"$tmp/out" ||
	die "its exposure is over 1.5: $(tail -n 1 "$tmp/out")"
printf "%s\n" "$(tail -n 1 "$tmp/out")"
systemd-sysusers --dry-run "$PWD/deploy/systemd/c4a.sysusers" >/dev/null 2>&1 || die 'systemd-sysusers does not read c4a.sysusers'

python3 - deploy/launchd/*.plist <<-'END'
	import plistlib, sys
	for path in sys.argv[1:]:
	    with open(path, "rb") as file:
	        job = plistlib.load(file)
	    assert path.endswith("/" + job["Label"] + ".plist"), path
	    assert job["ProgramArguments"][0] == "/usr/local/bin/c4a-daemon", job
END

# The scheduler and a daemon of it with ProcSubset=pid and ProtectProc=invisible,
# which systemd makes by mounting /proc anew.
if ! unshare -mpf --mount-proc sh -c 'mount -t proc -o subset=pid,hidepid=invisible proc /proc' 2>/dev/null; then
	printf 'skipped: /proc with subset=pid (mounts are not allowed here)\n'
	exit 0
fi
cat >"$tmp/inside" <<-'END'
	set -e
	mount -t proc -o subset=pid,hidepid=invisible proc /proc
	if [ -e /proc/sys ]; then echo '/proc/sys is still there' >&2; exit 1; fi
	ip link set lo up 2>/dev/null || :
	"$1/bin/c4a-daemon-scheduler" --host "unix:$1/run/api" --workspace "$1/workspace" 2>"$1/log" &
	scheduler=$!
	i=0
	until curl -sf --unix-socket "$1/run/api" http://localhost/readyz >/dev/null || [ $i = 100 ]; do sleep 0.1; i=$((i + 1)); done
	curl -s --unix-socket "$1/run/api" http://localhost/daemons -d '{"lib_id":"demo"}'
	kill "$scheduler"
	wait "$scheduler"
END
unshare -mpf --mount-proc sh "$tmp/inside" "$tmp" >"$tmp/out" 2>"$tmp/err" || die "with ProcSubset=pid: $(cat "$tmp/out" "$tmp/err" "$tmp/log")"
grep -q '"status":"ready"' "$tmp/out" || die "with ProcSubset=pid no daemon starts: $(cat "$tmp/out" "$tmp/log")"
printf 'with ProcSubset=pid a daemon starts\n'
