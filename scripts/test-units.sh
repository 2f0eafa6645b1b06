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

# A scheduler, a daemon of it and a clone.
git init -q "$tmp/repo"
git -C "$tmp/repo" -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first
cat >"$tmp/clone" <<-'END'
	set -e
	rm -rf "$1/workspace" "$1/run/api"
	"$1/bin/c4a-daemon-scheduler" --host "unix:$1/run/api" --workspace "$1/workspace" --allow "$1/repo" 2>"$1/log" &
	scheduler=$!
	i=0
	until curl -sf --unix-socket "$1/run/api" http://localhost/readyz >/dev/null || [ $i = 100 ]; do sleep 0.1; i=$((i + 1)); done
	curl -s --unix-socket "$1/run/api" http://localhost/libraries/demo/rpc \
		-d '{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"'"$1/repo"'"}}'
	kill "$scheduler"
	wait "$scheduler"
END
# clones WHAT COMMAND… runs it behind the command and wants a clone.
clones() {
	local what=$1
	shift
	"$@" >"$tmp/out" 2>"$tmp/err" || die "$what: $(cat "$tmp/out" "$tmp/err" "$tmp/log")"
	grep -q '"action":"cloned"' "$tmp/out" || die "$what: $(cat "$tmp/out" "$tmp/log")"
	printf '%s: a clone succeeds\n' "$what"
}

if [[ $EUID == 0 ]] && ! /usr/bin/python3 -c 'import seccomp' 2>/dev/null; then
	{ apt-get update -q && apt-get install -y -q --no-install-recommends python3-seccomp; } >/dev/null 2>&1 || true
fi
if /usr/bin/python3 -c 'import seccomp' 2>/dev/null; then
	filtered=(/usr/bin/python3 scripts/unitfilter.py deploy/systemd/c4a-daemon-scheduler.service)
	if "${filtered[@]}" unshare -m true 2>/dev/null; then die 'the filter of system calls is not in force'; fi
	clones "the unit's filter of system calls" "${filtered[@]}" sh "$tmp/clone" "$tmp"
else
	printf 'skipped: the filter of system calls (python3-seccomp is missing)\n'
fi

# ProcSubset=pid and ProtectProc=invisible, which systemd makes by mounting /proc anew.
proc='mount -t proc -o subset=pid,hidepid=invisible proc /proc && test ! -e /proc/sys'
if unshare -mpf --mount-proc sh -c "$proc" 2>/dev/null; then
	clones 'ProcSubset=pid' unshare -mpf --mount-proc sh -c "$proc && exec sh $tmp/clone $tmp"
else
	printf 'skipped: /proc with subset=pid (mounts are not allowed here)\n'
fi
