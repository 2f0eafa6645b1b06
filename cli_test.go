//go:build linux || darwin

package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDidYouMean: the nearest name, and none where nothing is near.
func TestDidYouMean(t *testing.T) {
	names := []string{"status", "stop", "call", "machines", "--api-token-file"}
	for wrong, want := range map[string]string{
		"statsu": "status", "STATUS": "status", "stpo": "stop", "machine": "machines", "--api-token": "--api-token-file", "--api-tokn-file": "--api-token-file",
		"zzzzzz": "", "": "", "x": "", strings.Repeat("status", 1000): "",
	} {
		if want != "" {
			want = " (did you mean " + want + "?)"
		}
		if got := didYouMean(wrong, names); got != want {
			t.Errorf("%.20q: got %q, want %q", wrong, got, want)
		}
	}
}

// TestUsageErrors: a wrong word gets one line with what was probably meant.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	skipShort(t, "starts 30 programs; TestDidYouMean has the rule")
	hostile := "a\x1b[31m\u202e<b>" + strings.Repeat("x", 1<<16)
	for _, test := range []struct {
		name string
		args []string
		says string
	}{
		{daemonName, []string{"--servr", "h"}, "there is no flag --servr (did you mean --server?)"},
		{daemonName, []string{"-alow=x"}, "there is no flag --alow (did you mean --allow?)"},
		{daemonName, []string{"--server"}, "--server needs a value"},
		{daemonName, []string{"--server", "h", "--max-concurrent=many"}, `for --max-concurrent: not a valid value`},
		{daemonName, []string{"--server", "h", "--log-level", "debg"}, "(did you mean debug?)"},
		{daemonName, []string{"hlep"}, `there is no command "hlep" (did you mean help?)`},
		{daemonName, []string{"completion", "bsh"}, "(did you mean bash?)"},
		{daemonName, []string{"completion"}, "completion needs bash|zsh|fish|powershell"},
		{daemonName, []string{"version", "x"}, `unexpected argument "x"`},
		{daemonName, []string{hostile}, `there is no command "a[31m<b>xxx`},
		{schedulerName, []string{"statsu"}, `there is no command "statsu" (did you mean status?)`},
		{schedulerName, []string{"help", "stat"}, `(did you mean status?)`},
		{schedulerName, []string{"--port", "1", "call"}, `unexpected argument "call": a command must come before all flags`},
		{schedulerName, []string{"call", "--ulr", "x"}, "(did you mean --url?)"},
		{schedulerName, []string{"call", "demo", "fs/readfile"}, "there is no method fs/readfile (did you mean fs/readFile?)"},
		{schedulerName, []string{"call", "demo", "fs/readFile", "pth=x"}, "fs/readFile has no parameter pth (did you mean path?)"},
		{schedulerName, []string{"call", "demo", "fs/readFile", `{"pth":"x"}`}, "fs/readFile has no parameter pth (did you mean path?)"},
		{schedulerName, []string{"call", "demo", "fs/readFile", "path=@/no/such"}, "reading the value of path"},
		{schedulerName, []string{"call", "demo", "fs/readFile", "path=x", "--timeout", "0.1us"}, "--timeout"},
		{schedulerName, []string{"call", "demo", "fs/readFile", "timeout_ms=5", "--timeout", "1s"}, "exclude each other"},
		{schedulerName, []string{"call", "demo", "fs/readFile", hostile + "=1"}, "has no parameter a[31m<b>xxx"},
		{schedulerName, []string{"status", "--json", "--watch", "--port", "1"}, "exclude each other"},
		{schedulerName, []string{"status", "x"}, `unexpected argument "x"`},
		{schedulerName, []string{"stop", "--port", "1"}, "stop needs a LIB_ID or --all"},
		{schedulerName, []string{"stop", "--all", "x", "--port", "1"}, "stop needs a LIB_ID or --all"},
		{schedulerName, []string{"delete"}, "delete needs LIB_ID"},
		{schedulerName, []string{"bind", "x"}, "bind needs LIB_ID MACHINE_ID"},
		{schedulerName, []string{"logs", "--bytes", "lots", "x"}, "must be a number of bytes"},
		{schedulerName, []string{"machines", "--url", "ftp://x"}, "--url"},
	} {
		p := start(t, test.name, nil, test.args...)
		code, text := p.exit(), p.stderr.String()
		if code != exitUsage || !strings.Contains(text, test.says) || strings.Count(text, "\n") != 2 || len(text) > 2000 || cleanLines(text) != text {
			t.Errorf("%s %.200q: exit %d and %.500q, want %d, a line with %q, and a hint", test.name, test.args, code, text, exitUsage, test.says)
		}
	}
}

// TestCompletion runs the scripts in the shells that are installed.
func TestCompletion(t *testing.T) {
	t.Parallel()
	skipShort(t, "runs shells")
	dir := t.TempDir()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		p := start(t, schedulerName, nil, "completion", shell)
		if p.exit() != 0 {
			t.Fatalf("completion %s: %s", shell, p.stderr)
		}
		script := p.stdout.String()
		for _, want := range []string{"api-token-file", "machines", "fs/readFile", "timeout_ms"} {
			if !strings.Contains(script, want) {
				t.Errorf("completion %s has no %s, want it", shell, want)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, shell), []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bash := func(line string) string {
		return `source ` + dir + `/bash; COMP_WORDS=(` + line + `); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _c4a_daemon_scheduler; echo "${COMPREPLY[@]}"`
	}
	for _, test := range []struct{ shell, script, want string }{
		{"bash", bash("c4a-daemon-scheduler sta"), "status"},
		{"bash", bash("c4a-daemon-scheduler --max-d"), "--max-daemons"},
		{"bash", bash("c4a-daemon-scheduler call --api"), "--api-token-file"},
		{"bash", bash("c4a-daemon-scheduler call demo fs/readF"), "fs/readFile"},
		{"bash", bash("c4a-daemon-scheduler call demo fs/readFile pat"), "path= path_base64="},
		{"bash", bash("c4a-daemon-scheduler --log-level de"), "debug"},
		{"bash", bash("c4a-daemon-scheduler completion z"), "zsh"},
		{"zsh", `autoload -U compinit && compinit -u -d ` + dir + `/dump; source ` + dir + `/zsh && echo ok`, "ok"},
		{"fish", `source ` + dir + `/fish; complete -C "c4a-daemon-scheduler sta" | string split \t | head -1; true`, "status"},
		{"fish", `source ` + dir + `/fish; complete -C "c4a-daemon-scheduler call demo fs/readFile pat" | string split \t; true`, "path="},
		{"pwsh", `. ` + dir + `/powershell; (TabExpansion2 'c4a-daemon-scheduler sta').CompletionMatches.CompletionText`, "status"},
	} {
		path, err := exec.LookPath(test.shell)
		if err != nil {
			t.Logf("%s is not installed", test.shell)
			continue
		}
		cmd := exec.Command(path, "-c", test.script)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %s: got %q, %v, want %q", test.shell, test.script, out, err, test.want)
		}
	}
}

// TestBarLine: the line fits any width and leaves out the least important first.
func TestBarLine(t *testing.T) {
	t.Parallel()
	p := progress{Phase: "receiving", Percent: 40, Bytes: 5 << 20, BytesPerSecond: 1 << 20}
	for width, want := range map[int]string{
		79: "[############..................]  40% receiving  5.0 MiB  1.0 MiB/s  9s left",
		60: "[######..........]  40% receiving  5.0 MiB  1.0 MiB/s  9s left",
		40: " 40% receiving  5.0 MiB  1.0 MiB/s",
		20: " 40% receiving",
		5:  " 40%…",
		0:  "",
	} {
		got := barLine(p, 6*time.Second, width)
		if got != want && (width != 60 || columns(got) > 60) || columns(got) > width {
			t.Errorf("%d columns: got %q, want %q", width, got, want)
		}
	}
	for _, phase := range []string{"\x1b[31mred", strings.Repeat("長", 100), "\u202edcba", strings.Repeat("x", 1<<20), "a\tb"} {
		for width := range 100 {
			got := barLine(progress{Phase: phase, Percent: 1 << 30}, 0, width)
			if columns(got) > width || cleanText(got) != got || strings.Contains(got, "\t") {
				t.Fatalf("%d columns of %.20q: got %q (%d columns), want fewer and no controls", width, phase, got, columns(got))
			}
		}
	}
}

// TestProgressBarResize: the bar erases what a terminal that became narrower has
// wrapped, and writes nothing where there is no terminal.
func TestProgressBarResize(t *testing.T) {
	var out strings.Builder
	width, isTerminal := 80, false
	b := &progressBar{out: &out, size: func() (int, bool) { return width, isTerminal }, now: time.Now}
	b.show(progress{Phase: "receiving", Percent: 10})
	if out.Len() > 0 {
		t.Errorf("without a terminal: got %q, want nothing", out.String())
	}
	isTerminal = true
	b.show(progress{Phase: "receiving", Percent: 20})
	width = 20
	b.show(progress{Phase: "receiving", Percent: 30})
	b.end()
	b.show(progress{Phase: "receiving", Percent: 40})
	want := "[######........................]  20% receiving\r\x1b[2A\x1b[J 30% receiving\r" + strings.Repeat(" ", 14) + "\r"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// TestTextTable: hostile cells neither break the columns nor the terminal.
func TestTextTable(t *testing.T) {
	t.Parallel()
	table := &textTable{head: []string{"NAME", "STATE", "ERROR"}}
	table.add("a", "ready", "")
	table.add("\x1b]0;x\x07\u202eevil", "長い名前", strings.Repeat("y", 10<<20))
	text := table.text(40)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if columns(line) > 40 || cleanText(line) != line {
			t.Errorf("got %q with %d columns, want at most 40 and no controls", line, columns(line))
		}
	}
	if want := "NAME      STATE     ERROR\na         ready\n]0;xevil  長い名前  yyy"; !strings.HasPrefix(text, want) {
		t.Errorf("got\n%s\nwant it to begin with\n%s", text, want)
	}
	if len(table.text(0)) > 4000 {
		t.Errorf("without a width: got %d bytes, want long cells cut", len(table.text(0)))
	}
}

// TestClientCommands runs the commands against a scheduler.
func TestClientCommands(t *testing.T) {
	t.Parallel()
	skipShort(t, "starts programs; TestControlRoutes has the routes")
	repo := newTestRepo(t, map[string]string{"README.md": "hello\n"})
	_, url := startSchedulerProcess(t, []string{"C4A_API_TOKEN=s3cret-token"}, "--allow", repo.dir)
	run := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		p := start(t, schedulerName, []string{"C4A_API_TOKEN=s3cret-token", "C4A_URL=" + url}, args...)
		if got := p.exit(); got != code {
			t.Errorf("%q: exit %d, want %d: %s%s", args, got, code, p.stdout, p.stderr)
		}
		return p.stdout.String(), p.stderr.String()
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("got\n%s\nwant %q in it", text, want)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "name")
	if err := os.WriteFile(file, []byte(repo.dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := run(0, "call", "demo", "fs/stat", "path=@"+file, "--raw", "--timeout", "30s")
	has(out, `{"jsonrpc":"2.0","id":1,"result":{"entries":[{"path":"`)
	out, _ = run(0, "call", "demo", "fs/stat", "path=@@"+file)
	has(out, "/workspace/demo/@/")
	out, text := run(1, "call", "demo", "fs/readFile", "path="+repo.dir+"/none", "--raw")
	has(out, `"error":{"code":-32002`)
	has(text, "SOURCE_NOT_FOUND")

	out, _ = run(0, "status")
	has(out, "1 of 20 daemons", "DAEMON", "demo", "ready", "MACHINE", "cloud_demo", "online", "FAILED", "SOURCE_NOT_FOUND", " free (")
	out, _ = run(0, "status", "--json")
	if field[[]poolEntry](t, []byte(out), "daemons")[0].LibID != "demo" {
		t.Errorf("got %s, want the daemon demo", out)
	}
	out, _ = run(0, "machines")
	has(out, "cloud_demo")
	run(0, "bind", "other", "laptop")
	out, _ = run(0, "libraries")
	has(out, "other", "laptop")
	run(0, "bind", "other", "")
	out, _ = run(0, "libraries", "--json")
	has(out, "[]")
	out, _ = run(0, "logs", "demo")
	has(out, "cloud_demo")
	_, text = run(1, "logs", "none")
	has(text, "NOT_FOUND: there is no log of none")
	run(0, "stop", "demo")
	_, text = run(1, "stop", "demo")
	has(text, "NOT_FOUND: no daemon runs for demo")
	out, _ = run(0, "logs", "demo", "--bytes", "1000")
	if len(out) > 1000 || out == "" {
		t.Errorf("logs --bytes 1000: got %q, want at most 1000 bytes of lines", out)
	}
	run(0, "stop", "--all")
	run(0, "delete", "demo")

	p := start(t, schedulerName, []string{"C4A_URL=" + url}, "status")
	if code := p.exit(); code != 1 || !strings.Contains(p.stderr.String(), "set --api-token-file or C4A_API_TOKEN") {
		t.Errorf("without a token: exit %d and %s, want 1 and the remedy", code, p.stderr)
	}
	events := start(t, schedulerName, []string{"C4A_API_TOKEN=s3cret-token", "C4A_URL=" + url}, "events")
	logs := start(t, schedulerName, []string{"C4A_API_TOKEN=s3cret-token", "C4A_URL=" + url}, "status", "--watch")
	awaitThat(t, "an event and the status", func() bool {
		askHTTP(t, http.MethodPut, url+"/daemons/seen", "", "Authorization", "Bearer s3cret-token")
		askHTTP(t, http.MethodDelete, url+"/daemons/seen", "", "Authorization", "Bearer s3cret-token")
		return strings.Contains(events.stdout.String(), "pool/entry lib_id=seen") && strings.Contains(logs.stdout.String(), "daemons:")
	})
	for _, p := range []*startedProgram{events, logs} {
		p.signal(os.Interrupt)
		if code := p.exit(); code != 0 || p.stderr.String() != "" {
			t.Errorf("%v: exit %d and %q, want 0 and nothing", p.cmd.Args, code, p.stderr)
		}
	}
}
