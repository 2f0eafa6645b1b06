//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script returns a handler that runs an sh script. The script is an argument of
// sh and not a file of its own: a concurrent fork in another test could hold a
// new file open for writing, and it could not be executed.
func script(t *testing.T, name, text string) handlerSpec {
	t.Helper()
	path := filepath.Join(t.TempDir(), "handler.sh")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, err := parseHandler(name + "=sh '" + path + "'")
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func handlerBench(t *testing.T, specs ...handlerSpec) *daemonBench {
	t.Helper()
	return newDaemonBench(t, &daemonConfig{allow: []string{t.TempDir()}, handlers: specs})
}

func (b *daemonBench) call(method, params string) string {
	b.t.Helper()
	return b.ask(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`, nil)
}

func TestHandlerAnswers(t *testing.T) {
	const failed = `{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"my/tool: `
	for _, test := range []struct{ name, script, want string }{
		{"echo", `cat`, `{"jsonrpc":"2.0","id":1,"result":{"a":[1,"é"]}}`},
		{"a line", `read -r line && printf '%s' "$line"`, `{"jsonrpc":"2.0","id":1,"result":{"a":[1,"é"]}}`},
		{"space around", `printf '\n  null \n\n'`, `{"jsonrpc":"2.0","id":1,"result":null}`},
		{"input not read", `echo '"x"'`, `{"jsonrpc":"2.0","id":1,"result":"x"}`},
		{"nothing", `:`, failed + `the program wrote nothing: it must write one JSON value to its standard output"}}`},
		{"no JSON", `echo hello`, failed + `the program did not write one JSON value to its standard output"}}`},
		{"two values", `echo 1 2`, failed + `the program did not write one JSON value to its standard output"}}`},
		{"not UTF-8", `printf '"\377"'`, failed + `the program did not write one JSON value to its standard output"}}`},
		{"exit status", `echo '"x"'; exit 3`, failed + `exit status 3","data":{"exit_code":3}}}`},
		{"last line of stderr", `echo first >&2; printf 'a \033[31mred\007 one\n\n' >&2; exit 1`, failed + `exit status 1: a [31mred one","data":{"exit_code":1}}}`},
		{"secret in stderr", `echo 'cannot read https://me:s3cret@example.org/x' >&2; exit 1`, failed + `exit status 1: cannot read https://example.org/x","data":{"exit_code":1}}}`},
		{"killed by itself", `kill -KILL $$`, failed + `signal: killed","data":{"exit_code":-1}}}`},
		{"descriptor 3 closed", `exec 3>&-; echo 1`, `{"jsonrpc":"2.0","id":1,"result":1}`},
		{"no variables of the daemon", `env | grep -c -i '^c4a_'; :`, `{"jsonrpc":"2.0","id":1,"result":0}`},
		{"other variables", `printf '"%s"' "$HANDLER_TEST"`, `{"jsonrpc":"2.0","id":1,"result":"kept"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("C4A_TOKEN", "s3cret")
			t.Setenv("c4a_other", "s3cret")
			t.Setenv("HANDLER_TEST", "kept")
			b := handlerBench(t, script(t, "my/tool", test.script))
			if got := b.call("my/tool", `{"a":[1,"é"]}`); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestHandlerHugeStderr(t *testing.T) {
	t.Parallel()
	b := handlerBench(t, script(t, "my/tool", `i=0; while [ $i -lt 2000 ]; do printf '%01000d\n' $i >&2; i=$((i+1)); done; printf '%02000d' 7 >&2; exit 1`))
	got := b.call("my/tool", `{}`)
	if want := "exit status 1: " + strings.Repeat("0", maxHandlerText) + `","data"`; !strings.Contains(got, want) {
		t.Errorf("%.1000s, want %q in it", got, want)
	}
}

// TestHandlerWritesWithoutEnd: a program that writes without end is stopped,
// also if it ignores SIGPIPE.
func TestHandlerWritesWithoutEnd(t *testing.T) {
	b := handlerBench(t, script(t, "my/tool", `trap '' PIPE; while :; do cat /dev/zero 2>/dev/null || :; done`))
	got := b.call("my/tool", `{}`)
	if !strings.Contains(got, "-32603") || !strings.Contains(got, fmt.Sprintf("the program wrote more than %d bytes (--max-message)", defaultMaxMessage)) {
		t.Errorf("%.1000s, want -32603 and the limit", got)
	}
}

// TestHandlerResultOverAMessage: the JSON alone fits a message, but the whole
// response does not.
func TestHandlerResultOverAMessage(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	b := handlerBench(t, script(t, "my/tool", fmt.Sprintf(`printf '"'; head -c %d /dev/zero | tr '\0' a; printf '"'`, defaultMaxMessage-2)))
	if got := b.call("my/tool", `{}`); !strings.Contains(got, `"RESULT_TOO_LARGE"`) {
		t.Errorf("%.1000s, want RESULT_TOO_LARGE", got)
	}
}

func TestHandlerProgress(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	// The last report arrives before the result, whatever the minimum interval.
	b := handlerBench(t, script(t, "my/tool", `
		echo 'no JSON' >&3
		head -c 100000 /dev/zero | tr '\0' ' ' >&3
		echo '{"percent":90,"message":"in a line that is too long"}' >&3
		echo '{"percent":12.7,"message":"ha\u0007lf https://u:s3cret@h/"}' >&3
		read -r line <'`+gate+`'
		printf '{"percent":777}' >&3
		echo '{}'`))
	var said []taskProgress
	got := b.ask(`{"jsonrpc":"2.0","id":"one","method":"my/tool"}`, func(message string) {
		var m struct{ Params taskProgress }
		if err := json.Unmarshal([]byte(message), &m); err != nil {
			t.Error(err)
		}
		said = append(said, m.Params)
		if len(said) == 1 {
			if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
				t.Error(err)
			}
		}
	})
	if got != `{"jsonrpc":"2.0","id":"one","result":{}}` {
		t.Errorf("the request got %s, want an empty result", got)
	}
	if len(said) < 2 || said[0].Percent != 12 || said[0].Message != "half https://h/" || said[0].TaskID != "one" || said[len(said)-1].Percent != 100 {
		t.Errorf("%+v, want 12 percent first, its message hidden as in logs, and 100 at the end", said)
	}
}

// TestHandlerCancelled: a program that hangs, also one that ignores SIGTERM,
// and its children end before the response.
func TestHandlerCancelled(t *testing.T) {
	skipShort(t, "waits a second for a program that ignores SIGTERM")
	t.Parallel()
	for _, trap := range []string{"", "trap '' TERM\n"} {
		pids := filepath.Join(t.TempDir(), "pids")
		if err := syscall.Mkfifo(pids, 0o600); err != nil {
			t.Fatal(err)
		}
		b := handlerBench(t, script(t, "my/tool", trap+`sleep 1000 & echo "$$ $!" >'`+pids+`'; wait; wait`))
		started := make(chan []string, 1)
		go func() { // ends with the script's line; the cancel waits for it
			line, _ := os.ReadFile(pids)
			started <- strings.Fields(string(line))
			b.in <- []byte(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)
		}()
		if got := b.call("my/tool", `{}`); !strings.Contains(got, `"code":-32800`) {
			t.Errorf("%q: %s, want -32800", trap, got)
		}
		for _, text := range <-started {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			if runs(pid) {
				t.Errorf("%q: process %d still runs, want it ended", trap, pid)
			}
		}
	}
}

// runs reports whether a process exists and is not a zombie. A signal takes
// effect soon after it was sent, and no event reports it.
func runs(pid int) bool {
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if syscall.Kill(pid, 0) != nil {
			return false
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			return false
		}
	}
	return true
}

// TestHandlerClearsAway: a program can clean up after SIGTERM.
func TestHandlerClearsAway(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	b := handlerBench(t, script(t, "my/tool", `trap 'echo done >'"'`+dir+`/cleared'"'; exit 1' TERM; echo >'`+gate+`'; sleep 1000 & wait`))
	go func() { // ends with the script's line
		_, _ = os.ReadFile(gate)
		b.in <- []byte(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)
	}()
	if got := b.call("my/tool", `{}`); !strings.Contains(got, `"code":-32800`) {
		t.Errorf("the cancelled request got %s, want -32800", got)
	}
	if _, err := os.Stat(dir + "/cleared"); err != nil {
		t.Error(err)
	}
}

func TestHandlerTimeout(t *testing.T) {
	b := handlerBench(t, script(t, "my/tool", `exec sleep 1000`))
	if got := b.call("my/tool", `{"timeout_ms":50}`); !strings.Contains(got, `"TIMEOUT"`) {
		t.Errorf("got %s, want TIMEOUT", got)
	}
}

// TestHandlerLeavesAProcess: a program ends while its child keeps all
// descriptors open.
func TestHandlerLeavesAProcess(t *testing.T) {
	b := handlerBench(t, script(t, "my/tool", `sleep 1000 & echo "{\"pid\":$!}"`))
	var result struct{ PID int }
	b.result("my/tool", `{}`, &result)
	if result.PID == 0 || runs(result.PID) {
		t.Errorf("process %d still runs, want it ended", result.PID)
	}
}

// TestHandlerProgramIsGone: the program is removed between start and call.
func TestHandlerProgramIsGone(t *testing.T) {
	spec := handlerSpec{"my/tool", []string{filepath.Join(t.TempDir(), "gone")}}
	got := handlerBench(t, spec).call("my/tool", `{}`)
	if !strings.Contains(got, "-32603") || !strings.Contains(got, "my/tool: gone could not be started") {
		t.Errorf("got %s, want -32603 and the program that could not be started", got)
	}
}

func TestHandlerDescriptors(t *testing.T) {
	b := handlerBench(t, script(t, "my/tool", `echo 1`), script(t, "my/other", `exit 1`), handlerSpec{"my/gone", []string{"/no/such/program"}})
	b.call("my/tool", `{}`) // descriptors that only the first call opens
	before := openDescriptors()
	for range 20 {
		b.call("my/tool", `{}`)
		b.call("my/other", `{}`)
		b.call("my/gone", `{}`)
	}
	// The timer that closes a descriptor may fire late, and no event reports
	// it.
	for deadline := time.Now().Add(patience); openDescriptors() > before && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if after := openDescriptors(); after > before {
		t.Errorf("%d descriptors, %d before: %v, want no more than before", after, before, descriptorNames())
	}
}

func TestHandlerIsDescribed(t *testing.T) {
	b := handlerBench(t, script(t, "my/tool", `echo 1`))
	var document openrpcDocument
	b.result("rpc.discover", `{}`, &document)
	i := slices.IndexFunc(document.Methods, func(m openrpcMethod) bool { return m.Name == "my/tool" })
	if i < 0 || len(document.Methods[i].Params) != 2 || document.Methods[i].Result.Schema == nil {
		t.Errorf("%d of %d methods, want my/tool with two params and a result", i, len(document.Methods))
	}
	if !slices.Contains(b.daemon.handshake().Methods, "my/tool") {
		t.Error("the handshake does not list it, want my/tool in it")
	}
}

func TestHandlerFlag(t *testing.T) {
	const git = "git" // a program that exists on every system of the tests
	for _, test := range []struct{ text, wrong string }{
		{"lint/run=" + git, ""},
		{"lint/runAll2=" + git + ` -c 'a, b' "c d"`, ""},
		{"lint/run", "must be namespace/method=COMMAND"},
		{"lint=" + git, "is not a method name"},
		{"lint/Run=" + git, "is not a method name"},
		{"Lint/run=" + git, "is not a method name"},
		{"lint/run/all=" + git, "is not a method name"},
		{"lint/run_all=" + git, "is not a method name"},
		{"=" + git, "is not a method name"},
		{strings.Repeat("a", 200) + "/b=" + git, "is not a method name"},
		{"fs/stat=" + git, "built in"},
		{"rpc.discover=" + git, "are reserved for the protocol"},
		{"rpc.x/y=" + git, "are reserved for the protocol"},
		{"daemon/x=" + git, "are reserved for the protocol"},
		{"task/x=" + git, "are reserved for the protocol"},
		{"lint/run=", "is empty"},
		{"lint/run=''", "is empty"},
		{"lint/run=" + git + " 'x", "is not closed"},
		{"lint/run=" + git + " \x00", "NUL"},
		{"lint/run=no-such-program-here", "not found"},
		{"lint/a=" + git + "\n\n  lint/b=" + git + "\n", ""},
		{"lint/a=" + git + "\nlint/a=" + git, "two commands"},
	} {
		var h handlerFlag
		err := h.Set(test.text)
		if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%.100q: %v, want %q", test.text, err, test.wrong)
		}
	}
	var h handlerFlag
	if err := h.Set("my/tool=git,x a,b"); err == nil {
		t.Error("a comma parts nothing, want an error")
	}
	if err := h.Set(`my/tool=git 'a, b' c"d "e ''`); err != nil || !slices.Equal(h[0].args[1:], []string{"a, b", "cd e", ""}) {
		t.Errorf("the command became %q, %v, want four words", h, err)
	}
	for range maxHandlers {
		h = append(h, handlerSpec{name: "x"})
	}
	if err := h.Set("my/more=git"); err == nil {
		t.Error("handlers without bound, want an error at the bound")
	}
}

func FuzzSplitCommand(f *testing.F) {
	for _, seed := range []string{"", "a b", `'a b' "c" d'e'`, `"`, "a\tb\n", "\x00", "é 'ü'"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		words, err := splitCommand(text)
		if err != nil {
			return
		}
		// Quoting and splitting gives the same words.
		var quoted []string
		for _, word := range words {
			if strings.Contains(word, "'") {
				quoted = append(quoted, `"`+word+`"`)
				if strings.Contains(word, `"`) {
					return
				}
				continue
			}
			quoted = append(quoted, "'"+word+"'")
		}
		again, err := splitCommand(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(again, words) {
			t.Errorf("%q: %q, then %q %v, want the same", text, words, again, err)
		}
	})
}
