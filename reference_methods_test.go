//go:build linux || darwin

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// methodExample is a request that REFERENCE.md shows with its response.
type methodExample struct {
	method string
	params string
	fails  bool // the response is meant to be an error
	hidden bool // the response is too long to show
}

// methodExamples returns the examples in the order in which they run, on the
// files of newExampleBench.
func methodExamples() []methodExample {
	return []methodExample{
		{method: "rpc.discover", params: `{}`, hidden: true},
		{method: "config/setAuth", params: `{"host":"git.example.org","token":"t0ken"}`},
		{method: "config/get", params: `{}`},
		{method: "vcs/clone", params: `{"url":"file:///home/ada/projects/hello","depth":1}`},
		{method: "fs/repoScan", params: `{"paths":["/home/ada/projects"]}`},
		{method: "fs/listDir", params: `{"path":"/home/ada/projects/hello/src","limit":1}`},
		{method: "fs/stat", params: `{"paths":["/home/ada/projects/hello/README.md","/home/ada/projects/nothing"]}`},
		{method: "fs/readFile", params: `{"path":"/home/ada/projects/hello/README.md"}`},
		{method: "fs/readFile", params: `{"path":"/etc/hostname"}`, fails: true},
		{method: "fs/glob", params: `{"path":"/home/ada/projects","include":["**/*.go"]}`},
		{method: "fs/search", params: `{"path":"/home/ada/projects/hello","pattern":"println","context_lines":1}`},
		{method: "index/manifest", params: `{"path":"/home/ada/projects/hello"}`},
		{method: "index/readBlobs", params: `{"path":"/home/ada/projects/hello","files":["README.md","gone.md"]}`},
		{method: "index/diff", params: `{"path":"/home/ada/projects/hello","from":"HEAD~1"}`},
		{method: "vcs/diff", params: `{"path":"/home/ada/projects/hello","from":"HEAD~1","to":"HEAD","files":["src/main.go"]}`},
		{method: "vcs/blame", params: `{"path":"/home/ada/projects/hello","file":"src/main.go","start_line":3,"lines":2}`},
		{method: "vcs/info", params: `{"path":"/home/ada/projects/hello"}`},
		{method: "vcs/refs", params: `{"path":"/home/ada/projects/hello"}`},
		{method: "vcs/log", params: `{"path":"/home/ada/projects/hello","limit":1}`},
	}
}

// exampleBench is a real daemon on sample files. In its responses the paths are
// replaced by those of a user "ada", and values that differ between machines by
// fixed ones.
type exampleBench struct {
	*daemonBench
	root   string // shown as /home/ada
	answer map[string]string
}

func newExampleBench(t *testing.T) *exampleBench {
	t.Helper()
	root := realTempDir(t)
	repo := newTestRepoAt(t, filepath.Join(root, "projects", "hello"), nil)
	repo.write("README.md", "# Hello\n")
	repo.write("src/main.go", "package main\n\nfunc main() {\n}\n")
	repo.commit("first words", nil)
	repo.write("src/main.go", "package main\n\nfunc main() {\n\tprintln(\"hello\")\n}\n")
	repo.write("src/greet.go", "package main\n")
	repo.commit("say hello\n\nLoudly.", nil)
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, name := range []string{"README.md", "src/main.go", "src/greet.go"} {
		file := filepath.Join(repo.dir, name)
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	work := filepath.Join(root, "work")
	b := newDaemonBench(t, &daemonConfig{allow: []string{filepath.Join(root, "projects")}, workDir: work, heartbeat: defaultHeartbeatInterval})
	e := &exampleBench{daemonBench: b, root: root, answer: map[string]string{}}
	for _, example := range methodExamples() {
		id := `{"jsonrpc":"2.0","id":1,"method":"` + example.method + `","params":`
		answer := b.ask(id+strings.ReplaceAll(example.params, "/home/ada", root)+"}", nil)
		var m envelope
		if err := json.Unmarshal([]byte(answer), &m); err != nil || (m.Error != nil) != example.fails {
			t.Errorf("%s %s: %v %.1000s", example.method, example.params, err, answer)
		}
		e.answer[example.method+example.params] = answer
	}
	return e
}

// run returns the request and the response of an example, as REFERENCE.md shows
// them.
func (e *exampleBench) run(example methodExample) (request, answer string) {
	request = `{"jsonrpc":"2.0","id":1,"method":"` + example.method + `","params":` + example.params + `}`
	return pretty(request), e.text(e.answer[example.method+example.params])
}

// text formats JSON from the daemon, with fixed values in place of those that
// differ between machines and runs.
func (e *exampleBench) text(text string) string {
	return pretty(sameEverywhere(strings.ReplaceAll(text, e.root, "/home/ada")))
}

// sameEverywhere replaces the values that differ between machines and runs by
// fixed ones.
func sameEverywhere(text string) string {
	for _, key := range []struct{ name, value string }{
		{"next_cursor", `"eyJtIjoiZnMv"`}, {"git_version", `"2.50.1"`}, {"instance_id", `"0b1e4c8a"`}, {"hostname", `"laptop"`},
		{"os", `"linux"`}, {"arch", `"amd64"`}, {"task_id", `"6f1d2c"`},
		{"started_at", `"2026-01-31T12:00:00Z"`}, {"last_used_at", `"2026-01-31T12:00:00Z"`}, {"connected_at", `"2026-01-31T12:00:00Z"`},
		{"last_heartbeat_at", `"2026-01-31T12:00:00Z"`},
	} {
		text = regexp.MustCompile(`"`+key.name+`":"[^"]*"`).ReplaceAllLiteralString(text, `"`+key.name+`":`+key.value)
	}
	for _, key := range []struct{ name, value string }{
		{"duration_ms", "7"}, {"active_requests", "0"}, {"pid", "4711"}, {"uptime_seconds", "60"}, {"total_bytes", "500000000000"}, {"free_bytes", "200000000000"}, {"used_percent", "60"},
	} {
		text = regexp.MustCompile(`"`+key.name+`":[0-9.e+]+`).ReplaceAllLiteralString(text, `"`+key.name+`":`+key.value)
	}
	return regexp.MustCompile(`(?m)^id: [0-9]+$`).ReplaceAllString(text, "id: 1769860800000000")
}
