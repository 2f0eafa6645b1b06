//go:build linux || darwin

package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// mcpBench is a scheduler with a user's daemon, asked through the protocol.
type mcpBench struct {
	t   *testing.T
	url string
}

// newMCPBench starts a daemon laptop that may read the directory.
func newMCPBench(t *testing.T, dir string, args ...string) *mcpBench {
	t.Helper()
	s := newExampleScheduler(t)
	startUserDaemon(t, s.url(), "laptop", nil, append([]string{"--allow", dir}, args...)...)
	return &mcpBench{t, s.url() + "/machines/laptop/mcp"}
}

// result calls a tool with arguments as pairs of name and value.
func (b *mcpBench) result(tool string, arguments ...any) (answer struct {
	Content []struct{ Type, Text, Data, MIMEType string }
	IsError bool
}) {
	b.t.Helper()
	named := map[string]any{}
	for i := 0; i < len(arguments); i += 2 {
		named[arguments[i].(string)] = arguments[i+1]
	}
	body := mustJSON(b.t, map[string]any{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{"name": tool, "arguments": named}})
	status, got := askHTTP(b.t, http.MethodPost, b.url, string(body))
	var response struct {
		Result json.RawMessage
		Error  any
	}
	if err := json.Unmarshal([]byte(got), &response); err != nil || status != 200 || response.Error != nil || response.Result == nil {
		b.t.Fatalf("%s: got status %d and %s, want a result", tool, status, got)
	}
	if err := json.Unmarshal(response.Result, &answer); err != nil || len(answer.Content) == 0 {
		b.t.Fatalf("%s: got %s, %v, want content", tool, got, err)
	}
	return answer
}

// text calls a tool that succeeds; its text fits in the budget and begins with the
// server's own line.
func (b *mcpBench) text(tool string, arguments ...any) string {
	b.t.Helper()
	answer := b.result(tool, arguments...)
	text := answer.Content[0].Text
	budget := mcpTextBudget
	if i := slices.Index(arguments, any("max_bytes")); i >= 0 {
		budget = arguments[i+1].(int)
	}
	if answer.IsError || len(text) > budget || tool != "call_method" && !strings.HasPrefix(text, "[") {
		b.t.Errorf("%s %v: got %d bytes, error %v: %.300s; want at most %d bytes that begin with [", tool, arguments, len(text), answer.IsError, text, budget)
	}
	return text
}

// refusal calls a tool that fails, and returns its text.
func (b *mcpBench) refusal(tool string, arguments ...any) string {
	b.t.Helper()
	answer := b.result(tool, arguments...)
	text := answer.Content[0].Text
	if !answer.IsError || len(text) > mcpMaxError+300 {
		b.t.Errorf("%s %v: got %d bytes, error %v: %.300s; want a short error", tool, arguments, len(text), answer.IsError, text)
	}
	return text
}

// pages follows the cursor of a tool to its end and returns the lines below the
// first one of each page.
func (b *mcpBench) pages(tool string, arguments ...any) (lines []string, pages int) {
	b.t.Helper()
	given := arguments
	for pages = 1; pages < 200; pages++ {
		head, rest, _ := strings.Cut(b.text(tool, given...), "\n")
		lines = append(lines, strings.Split(rest, "\n")...)
		_, cursor, more := strings.Cut(head, `continue with cursor "`)
		if !more {
			return lines, pages
		}
		cursor, _, _ = strings.Cut(cursor, `"`)
		given = append(slices.Clip(arguments), "cursor", cursor)
	}
	b.t.Fatalf("%s: no end after %d pages", tool, pages)
	return nil, 0
}

// TestMCPTools calls the tools on a real repository through a real daemon.
func TestMCPTools(t *testing.T) {
	t.Parallel()
	skipShort(t, "a real daemon; the wire has quick tests")
	var long strings.Builder
	for n := range 5000 {
		fmt.Fprintf(&long, "line %d\n", n+1)
	}
	png := "\x89PNG\r\n\x1a\nrest"
	repo := newTestRepo(t, map[string]string{
		"main.go": "package main\n\nfunc main() {\n\tgreet()\n}\n", "lib/greet.go": "package lib\n\n// greet is old\nfunc greet() {}\n", "long.txt": long.String(),
		"lib/deep/a.txt": "a\n", "lib/deep/b.txt": "b\n", ".gitignore": "ignored\n",
	})
	repo.git("tag", "v1")
	repo.commit("greet: is new", map[string]string{
		"lib/greet.go": "package lib\n\n// greet is new\nfunc greet() {}\n", "picture.png": png, "large.png": png + strings.Repeat("x", readImage), "data.bin": "a\x00b",
		"latin.txt": "caf\xe9\nend\n", "crlf.txt": "one\r\ntwo\r\n", "empty": "", "wide.txt": strings.Repeat("é", 5000) + "\nnext\n", "noend.txt": "a\nb",
	})
	repo.git("rm", "-q", "-r", "lib/deep")
	repo.git("commit", "-q", "-m", "deep: removed")
	for name, content := range map[string]string{"ignored": "x\n", "dirty.txt": "x\n"} {
		if err := os.WriteFile(filepath.Join(repo.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := newMCPBench(t, filepath.Dir(repo.dir), "--handler", "test/echo=/bin/cat")
	path := []any{"path", repo.dir}
	with := func(more ...any) []any { return append(slices.Clip(path), more...) }
	file := func(name string, more ...any) []any {
		return append([]any{"path", filepath.Join(repo.dir, name)}, more...)
	}
	for _, test := range []struct {
		tool      string
		arguments []any
		want      []string // "!" before what must not be in it
	}{
		{"overview", nil, []string{`[machine "laptop": 1 repository in 1 allowed directory]`, repo.dir + "  main ", "nothing can be cloned"}},
		{"overview", path, []string{"branch main at ", "1 untracked", "last commit: ", "deep: removed", "tags/v1", "heads/main"}},
		{"tree", path, []string{"13 files in 1 directory", "lib/\n  greet.go  ", "!ignored", "main.go  39 B"}},
		{"tree", with("depth", 1), []string{"lib/ (1 file)"}},
		{"tree", with("limit", 2), []string{"the first 2 of "}},
		{"tree", with("all", true), []string{"ignored  2 B", ".git/", "lib/\n"}},
		{"find_files", with("include", []string{"**/*.go"}), []string{"[2 files in ", "end of the list", "lib/greet.go  ", "main.go  39"}},
		{"find_files", with("commit", "v1", "include", []string{"lib/**"}), []string{"[3 files in ", " at ", "lib/deep/a.txt  2"}},
		{"find_files", with("include", []string{"nope"}), []string{"[no file in ", "tree with all"}},
		{"search", with("pattern", "greet"), []string{"[4 matches in 2 files of ", "lib/greet.go:3: // greet is new", "main.go:4: \tgreet()"}[1:]},
		{"search", with("pattern", "GREET IS", "ignore_case", true, "context_lines", 1), []string{"lib/greet.go-2- ", "lib/greet.go:3: // greet", "lib/greet.go-4- func"}},
		{"search", with("pattern", "^line [0-9]+$", "regexp", true, "limit", 3), []string{"[3 matches in 1 file", "narrow path", "long.txt:3: line 3"}},
		{"search", with("pattern", "no such text"), []string{"[no line in "}},
		{"read_file", file("main.go"), []string{"main.go lines 1-5 of 5]\n1\tpackage main\n2\t\n3\tfunc main() {\n4\t\tgreet()\n5\t}"}},
		{"read_file", file("main.go", "start_line", 3, "lines", 1), []string{"lines 3-3 of 5; continue with start_line 4]\n3\tfunc main() {"}},
		{"read_file", file("main.go", "tail", 2), []string{"the last 2 lines of 5]\n4\t\tgreet()\n5\t}"}},
		{"read_file", file("long.txt"), []string{"lines 1-", " of 5000; continue with start_line "}},
		{"read_file", file("long.txt", "start_line", 4999), []string{"lines 4999-5000 of 5000]\n4999\tline 4999\n5000\tline 5000"}},
		{"read_file", file("long.txt", "max_bytes", 2000), []string{"lines 1-", "continue"}},
		{"read_file", file("lib/greet.go", "commit", "v1"), []string{" at v1 lines 1-4 of 4]", "3\t// greet is old"}},
		{"read_file", file("lib/deep/a.txt", "commit", "v1"), []string{"1\ta"}}, // its directory is gone
		{"read_file", file("data.bin"), []string{"a binary file", "3 B"}},
		{"read_file", file("large.png"), []string{"a binary file (image/png)"}},
		{"read_file", file("latin.txt"), []string{"not UTF-8", "1\tcaf\uFFFD\n2\tend"}},
		{"read_file", file("crlf.txt"), []string{"1\tone\n2\ttwo"}},
		{"read_file", file("empty"), []string{"empty: empty]"}},
		{"read_file", file("empty", "tail", 3), []string{"empty: empty]"}},
		{"read_file", file("wide.txt"), []string{"1 line cut at 2000 bytes", "é…\n2\tnext"}},
		{"read_file", file("noend.txt"), []string{"lines 1-2 of 2]\n1\ta\n2\tb"}},
		{"git_log", path, []string{"[3 commits of ", "newest first; end of the list]", "deep: removed\n", ": greet: is new\n"}},
		{"git_log", with("file", "lib/greet.go", "limit", 1), []string{"[1 commit of ", " that change lib/greet.go", "continue with cursor", "greet: is new"}},
		{"git_log", with("ref", "v1", "full", true), []string{"commit ", "\nauthor ", "\n    first"}},
		{"git_log", with("since", "2001-01-01", "until", "2001-01-02"), []string{"[0 commits of "}},
		{"call_method", []any{"method", "fs/stat", "params", map[string]any{"path": repo.dir}}, []string{`{"entries":[{"path":"`}},
		{"call_method", []any{"method", "test/echo", "params", map[string]any{"a": 1}}, []string{`"a":1`}},
	} {
		text := b.text(test.tool, test.arguments...)
		for _, want := range test.want {
			unwanted, isUnwanted := strings.CutPrefix(want, "!")
			if isUnwanted && strings.Contains(text, unwanted) || !isUnwanted && !strings.Contains(text, want) {
				t.Errorf("%s %v: got %.2000s\nwant %q in it", test.tool, test.arguments, text, want)
			}
		}
	}
	if image := b.result("read_file", file("picture.png")...); len(image.Content) != 2 || image.Content[1].Type != "image" || image.Content[1].MIMEType != "image/png" || image.Content[1].Data != base64.StdEncoding.EncodeToString([]byte(png)) {
		t.Errorf("an image: got %+v, want its facts and the image", image)
	}

	for _, test := range []struct {
		tool      string
		arguments []any
		want      string
	}{
		{"overview", []any{"path", "/etc"}, "SOURCE_ACCESS_DENIED: .*Use overview"},
		{"overview", []any{"path", filepath.Dir(repo.dir)}, "REPO_PATH_NOT_FOUND: .*Use overview"},
		{"tree", nil, `INVALID_ARGUMENTS: path is missing. Arguments of tree: path \(string, required\), depth \(integer\)`},
		{"tree", with("depth", 0), "INVALID_ARGUMENTS: depth must be 1 to 20, not 0"},
		{"tree", with("depth", "2"), "INVALID_ARGUMENTS: depth must be an integer, not string. Arguments of tree"},
		{"tree", with("Depth", 2), `INVALID_ARGUMENTS: "Depth" is not an argument of tree`},
		{"tree", []any{"path", nil}, "INVALID_ARGUMENTS: path is missing"},
		{"find_files", with("include", "*.go"), `INVALID_ARGUMENTS: include must be an array, not string. .*include \(array of strings\)`},
		{"find_files", with("cursor", "x"), "INVALID_PARAMS: cursor: "},
		{"find_files", with("commit", "nope"), "COMMIT_NOT_FOUND: .*Use overview with this path"},
		{"search", with("pattern", `\d+`, "regexp", true), `INVALID_PARAMS: pattern: \\d is not part of POSIX .* write \[0-9\]`},
		{"search", with("pattern", `a(?=b)`, "regexp", true), `INVALID_PARAMS: pattern: .*lookahead`},
		{"search", with("pattern", "(", "regexp", true), `^[A-Z_]+( \([a-z]+\))?: `},
		{"read_file", file("nope"), "SOURCE_NOT_FOUND: .*Use find_files or tree"},
		{"read_file", file("lib"), "INVALID_PARAMS: path: is a directory: use tree"},
		{"read_file", file("../../../etc/passwd"), "SOURCE_ACCESS_DENIED"},
		{"read_file", []any{"path", "main.go"}, "NOT_CONFIGURED: .*absolute path from overview"},
		{"read_file", []any{"path", "base64:!"}, "INVALID_PARAMS: path_base64"},
		{"read_file", []any{"path", "a\x00b"}, "INVALID_PARAMS: path"},
		{"read_file", file("main.go", "start_line", 0), "counts from 1"},
		{"read_file", file("main.go", "start_line", 50), "start_line 50 is behind the end: the file has 5 lines"},
		{"read_file", file("main.go", "tail", 1, "lines", 1), "either tail or"},
		{"read_file", file("main.go", "max_bytes", 10), "max_bytes must be 2000 to"},
		{"read_file", file("nope", "commit", "v1"), "SOURCE_NOT_FOUND"},
		{"read_file", file("main.go", "commit", "nope"), "COMMIT_NOT_FOUND"},
		{"read_file", []any{"path", "/no/such/place", "commit", "v1"}, "SOURCE_ACCESS_DENIED|SOURCE_NOT_FOUND"},
		{"git_log", with("since", "yesterday"), "INVALID_PARAMS: since: must be an RFC 3339 time"},
		{"clone_repo", []any{"url", "https://example.com/r.git"}, "NOT_CONFIGURED: .*--work-dir"},
		{"call_method", []any{"method", "fs/nope"}, `METHOD_NOT_FOUND: .*Methods: config/get, .*test/echo`},
		{"call_method", []any{"method", "fs/search"}, `INVALID_PARAMS: .*Params of fs/search: path \(string\), pattern \(string, required\)`},
		{"call_method", []any{"method", "fs/stat", "params", "x"}, `params must be an object. Params of fs/stat: `},
		{"call_method", []any{"method", "rpc.discover"}, "RESULT_TOO_LARGE: the result has "},
	} {
		if text := b.refusal(test.tool, test.arguments...); !regexp.MustCompile(test.want).MatchString(text) {
			t.Errorf("%s %v: got %s, want %s", test.tool, test.arguments, text, test.want)
		}
	}
	status, body := askHTTP(t, http.MethodPost, b.url, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"tree","arguments":[]}}`)
	if status != 200 || !strings.Contains(body, "INVALID_ARGUMENTS: arguments must be an object") {
		t.Errorf("arguments in an array: got status %d and %s, want the error of a tool", status, body)
	}
}

// TestMCPPages: the pages of a list have each entry once, also when their texts
// have room for fewer than were asked for, and with names that are not UTF-8.
func TestMCPPages(t *testing.T) {
	t.Parallel()
	skipShort(t, "a real daemon and thousands of files")
	repo := newTestRepo(t, nil)
	const count = 600
	want := []string{}
	for n := range count {
		name := fmt.Sprintf("%03d-%s", n, strings.Repeat("n", n%200))
		if err := os.WriteFile(filepath.Join(repo.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, name+"  0")
	}
	repo.git("add", ".")
	repo.git("commit", "-q", "-m", strings.Repeat("long subject ", 100))
	for n := range 12 {
		repo.git("commit", "-q", "--allow-empty", "-m", fmt.Sprintf("commit %d\n\n%s", n, strings.Repeat("body ", 1000)))
	}
	b := newMCPBench(t, repo.dir)
	for _, more := range [][]any{nil, {"commit", "HEAD"}} {
		got, pages := b.pages("find_files", append([]any{"path", repo.dir, "limit", 250}, more...)...)
		if !slices.Equal(got, want) || pages < 4 {
			t.Errorf("%v: got %d files in %d pages, want each of %d once, in more pages than 3", more, len(got), pages, count)
		}
	}
	lines, _ := b.pages("git_log", "path", repo.dir, "full", true, "limit", 50)
	commits := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "commit ") {
			commits++
		}
	}
	if commits != 13 {
		t.Errorf("got %d commits, want each of 13 once", commits)
	}
	if runtime.GOOS == "darwin" {
		return // its file systems take only names in UTF-8
	}
	odd := "caf\xe9\n.txt"
	if err := os.WriteFile(filepath.Join(repo.dir, odd), []byte("odd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"find_files", "tree"} {
		arguments := []any{"path", repo.dir}
		if tool == "find_files" {
			arguments = append(arguments, "include", []string{"caf*"})
		} else {
			arguments = append(arguments, "all", true, "limit", 1000)
		}
		text := b.text(tool, arguments...)
		quoted := `"caf\xe9\n.txt" (path: base64:`
		if tool == "tree" {
			text = b.text(tool, "path", repo.dir, "limit", 1000)
		}
		_, rest, found := strings.Cut(text, quoted)
		if tool == "tree" && !found {
			continue // it is behind the budget
		}
		argument, _, _ := strings.Cut(rest, ")")
		if got := b.text("read_file", "path", base64Prefix+argument); !found || !strings.Contains(got, "1\todd") {
			t.Errorf("%s: got %.300s and then %s, want the quoted name and its content", tool, text, got)
		}
	}
	if got := b.text("search", "path", repo.dir, "pattern", "odd"); !strings.Contains(got, `"caf\xe9\n.txt" (path: base64:`) {
		t.Errorf("search: got %s, want the quoted name", got)
	}
}

// TestMCPLibraries: listing the tools of a library starts nothing, a tool starts its
// daemon, and no library reads what is of another.
func TestMCPLibraries(t *testing.T) {
	t.Parallel()
	skipShort(t, "real daemons of the pool")
	s := newExampleScheduler(t)
	one, other := &mcpBench{t, s.url() + "/libraries/one/mcp"}, &mcpBench{t, s.url() + "/libraries/other/mcp/read"}
	for _, method := range []string{"initialize", "tools/list", "ping"} {
		if status, body := askHTTP(t, http.MethodPost, one.url, `{"jsonrpc":"2.0","id":1,"method":"`+method+`"}`); status != 200 || !strings.Contains(body, `"result"`) {
			t.Errorf("%s: got status %d and %s, want a result", method, status, body)
		}
	}
	if list := s.pool.list(); len(list) != 0 {
		t.Errorf("got the daemons %+v, want none before a tool is called", list)
	}
	text := one.text("overview")
	if !strings.HasPrefix(text, `[library "one": 0 repositories in 1 allowed directory]`) || !strings.Contains(text, "/one/repos)") {
		t.Errorf("got %s, want the work dir of the library", text)
	}
	secret := filepath.Join(s.pool.workspace, "one", "secret.txt")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := one.text("read_file", "path", secret); !strings.Contains(got, "1\tsecret") {
		t.Errorf("got %s, want the file of the library", got)
	}
	for _, tool := range []string{"read_file", "tree", "find_files", "overview", "git_log", "git_diff"} {
		if got := other.refusal(tool, "path", secret); !strings.HasPrefix(got, "SOURCE_ACCESS_DENIED: ") || strings.Contains(got, "secret\n") {
			t.Errorf("%s of another library: got %s, want SOURCE_ACCESS_DENIED", tool, got)
		}
	}
	if got := other.refusal("search", "path", filepath.Dir(secret), "pattern", "secret"); !strings.HasPrefix(got, "SOURCE_ACCESS_DENIED: ") {
		t.Errorf("search in another library: got %s, want SOURCE_ACCESS_DENIED", got)
	}
}
