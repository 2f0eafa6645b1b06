#!/usr/bin/env bash
# Runs the Windows builds under Wine: all tests that need neither git nor what Wine
# lacks, and c4a-daemon.exe, which connects to a scheduler on Linux and answers.
#
#   scripts/test-windows.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
PATH=$PATH:/usr/lib/wine
need go:golang curl:curl python3:python3 wine64:wine64 x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64-win32
export WINEPREFIX=$tmp/prefix WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=' GOFLAGS=${GOFLAGS-}
unset DISPLAY
if ! command -v wineserver >/dev/null; then skip 'wineserver is missing (package wine)'; fi
at_end+=('wineserver -k')
wine64 wineboot -i >"$tmp/wineboot" 2>&1 || skip "Wine does not start: $(tail -n 1 "$tmp/wineboot")"
system=$WINEPREFIX/drive_c/windows/system32

# Go reads random numbers from a DLL that Wine before 9 lacks.
if [[ ! -e $system/bcryptprimitives.dll ]]; then
	cat >"$tmp/random.c" <<-'C'
		#include <windows.h>
		BOOLEAN NTAPI SystemFunction036(PVOID to, ULONG length); /* RtlGenRandom */
		__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE to, SIZE_T length) { return SystemFunction036(to, (ULONG)length); }
	C
	x86_64-w64-mingw32-gcc -shared -o "$system/bcryptprimitives.dll" "$tmp/random.c" -ladvapi32
fi

# Wine before 9 has one way of deleting a file less, and os.Root tries the other
# only for the errors of Windows. The overlay adds Wine's; it is in the test binary
# and in no program.
deleting=$(go env GOROOT)/src/internal/syscall/windows/at_windows.go
sed 's/^\tcase STATUS_INVALID_INFO_CLASS,/\tcase NTStatus(0xC0000002), STATUS_INVALID_INFO_CLASS,/' "$deleting" >"$tmp/at_windows.go"
printf '{"Replace":{"%s":"%s"}}\n' "$deleting" "$tmp/at_windows.go" >"$tmp/overlay.json"
export CGO_ENABLED=0
GOOS=windows GOARCH=amd64 go test -c -overlay "$tmp/overlay.json" -o "$tmp/c4a-tests.exe" .
GOOS=windows GOARCH=amd64 go build -o "$tmp/c4a-daemon.exe" .
go build -tags scheduler -o "$tmp/c4a-daemon-scheduler" .

# They make thousands of directories, or send thousands of packets of one byte, for
# which Wine needs minutes.
readonly slow='^(TestGlobCancelled|TestRepoScanCancelled|TestLinkInSlices)$'
# run_tests ARGUMENTS… runs the test binary.
run_tests() { timeout -k 10 300 wine64 "$tmp/c4a-tests.exe" -test.v -test.skip "$slow" "$@" 2>&1 | tr -d '\r' >"$tmp/tests"; }
start=$SECONDS status=0
run_tests || status=$?
failed=$(sed -n 's/^--- FAIL: \([A-Za-z0-9_]*\) .*/\1/p' "$tmp/tests" | sort -u | paste -sd '|' -)
printf 'tests under %s: %s passed, %s skipped, in %d s; skipped because:\n' "$(wine64 --version)" \
	"$(grep -c '^--- PASS' "$tmp/tests")" "$(grep -c '^--- SKIP' "$tmp/tests")" $((SECONDS - start))
printf '%7d take Wine minutes: %s\n' 3 "$slow"
sed -n 's/^ *[a-z0-9_]*_test\.go:[0-9]*: \(needs [^:]*\).*/\1/p' "$tmp/tests" | sort | uniq -c | sort -rn
if ((status != 0)); then
	[[ -n $failed ]] || die "the tests ended with $status: $(tail -n 40 "$tmp/tests")"
	# As in .ci/run: a busy machine may exceed a limit once.
	printf 'failed once, run again: %s\n%s\n' "$failed" "$(grep -A 5 '_test\.go:.*\(got\|want\)' "$tmp/tests" | head -n 40)"
	run_tests -test.run "^($failed)\$" || die "the tests failed again: $(tail -n 60 "$tmp/tests")"
fi

# The program itself, on the drive that is the Linux file system and on its own.
printf 'a first line\r\n' >"$tmp/first"
mkdir -p "$tmp/files/Sub" "$WINEPREFIX/drive_c/work"
cp "$tmp/first" "$tmp/files/Sub/File.txt"
printf 'secret-of-the-link\r\n' >"$tmp/token"
port=$(free_port)
"$tmp/c4a-daemon-scheduler" --port "$port" --workspace "$tmp/workspace" --daemon-token-file "$tmp/token" >"$tmp/scheduler" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf "http://127.0.0.1:$port/readyz"
[[ $(wine64 "$tmp/c4a-daemon.exe" --version) == 'c4a-daemon '* ]] || die '--version of the Windows build'
status=0
wine64 "$tmp/c4a-daemon.exe" --no-such-flag >"$tmp/out" 2>&1 || status=$?
((status == 2)) || die "an unknown flag: exit status $status, want 2: $(cat "$tmp/out")"
windows_path() { printf 'Z:%s' "${1//\//\\}"; }
wine64 "$tmp/c4a-daemon.exe" --server "127.0.0.1:$port" --allow "$(windows_path "$tmp/files")" --work-dir 'C:\work' \
	--token-file "$(windows_path "$tmp/token")" --machine-id windows --handler 'test/echo=cmd /c echo 7' >"$tmp/daemon" 2>&1 &
daemon=$!
at_end_kill "$daemon"

# call METHOD PARAMS prints the answer; a backslash is written as in JSON.
call() {
	curl -s -m 60 "http://127.0.0.1:$port/machines/windows/rpc" -H 'Content-Type: application/json' \
		-d '{"jsonrpc":"2.0","id":1,"method":"'"$1"'","params":'"$2"'}'
}
# answers TEXT METHOD PARAMS fails unless the answer contains TEXT.
answers() {
	local text=$1 got
	shift
	got=$(call "$@")
	[[ $got == *"$text"* ]] || die "$*: want $text in $got; $(tail -n 3 "$tmp/daemon")"
}
connected() { call config/get '{}' | grep -q '"result"'; }
wait_for 'the Windows daemon' connected
json=$(windows_path "$tmp/files")
json=${json//\\/\\\\}
for file in "$json\\\\Sub\\\\File.txt" "Z:$tmp/files/Sub/File.txt" "z:$tmp/files/sub/FILE.TXT" "\\\\\\\\?\\\\$json\\\\Sub\\\\File.txt"; do
	answers '"content":"a first line\r\n"' fs/readFile "{\"path\":\"$file\"}"
done
answers '"name":"Sub"' fs/listDir "{\"path\":\"$json\"}"
answers '"size":0' fs/stat "{\"path\":\"$json\"}"
answers 'File.txt' fs/glob "{\"path\":\"$json\",\"include\":[\"**/*.txt\"]}"
for file in 'C:\\windows\\win.ini' 'Z:\\etc\\passwd' "$tmp/files/Sub/File.txt" "Z:File.txt" '\\\\.\\pipe\\x' '\\\\server\\share\\f' "$json\\\\..\\\\token"; do
	answers SOURCE_ACCESS_DENIED fs/readFile "{\"path\":\"$file\"}"
done
for file in "$json\\\\NUL" "$json\\\\Sub\\\\File.txt:stream" "$json\\\\Sub\\\\File.txt."; do
	answers '"param":"path"' fs/readFile "{\"path\":\"$file\"}"
done
for token in first second; do # the second one replaces a file
	answers '"stored":true' config/setAuth "{\"host\":\"git.example.com\",\"token\":\"$token-token\"}"
done
answers '"host":"git.example.com"' config/get '{}'
answers SOURCE_ACCESS_DENIED fs/readFile '{"path":"C:\\work\\.git-daemon.credentials"}'
answers '"result":7' test/echo '{}' # cmd ends its line with CR and LF
answers 'git was not found' vcs/clone '{"url":"https://git.example.com/lib.git"}'
end_process "$daemon"
offline() { call config/get '{}' | grep -q DAEMON_OFFLINE; }
wait_for 'the end of the link' offline
printf 'c4a-daemon.exe: connected to a scheduler on Linux, files, paths, tokens, a handler\n'
