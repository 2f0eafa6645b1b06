package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tests in this file check the prose of the whole tree: the words of comments
// and documents, and the form of log records. CONTRIBUTING.md has the rules.

// bannedPhrase is a phrase that readers stumbled over.
type bannedPhrase struct {
	pattern *regexp.Regexp
	instead string
}

// bannedPhrases returns the phrases that must not come back. Add a row when a
// review finds a habit: the pattern should not match correct sentences.
func bannedPhrases() []bannedPhrase {
	var phrases []bannedPhrase
	for _, p := range []struct{ pattern, instead string }{
		{`\btells? whether\b`, `"reports whether"`},
		{`^\s*// \w+ is what\b`, `a verb: say what it does`},
		{`\bwhoever\b`, `the process: daemon, caller, child or client`},
		{`\b(nobody|anybody|somebody)'s\b`, `the process or person it belongs to`},
		{`\bNaN is none\b`, `"NaN is rejected"`},
		{`\b(it|that|which|what|this) is no (a|an|[b-km-z]|l[^o])`, `"is not a …"`},
		{`\b(it|that|which|what|this) is none\b`, `what is true instead: "is not a …", "does not exist"`},
		{`\bgit's no\b|\b(says|said) no\b`, `"a git command that failed"`},
		{`doc:"of (the|a|an) `, `the noun: "daemon version", not "of the daemon"`},
		{`\bwrong use\b`, `"usage error"`},
		{`\bsign of life\b`, `what is sent: a heartbeat, a pong, any byte`},
		{`\bgoodbye\b`, `"close frame"`},
		{`\blast words\b`, `"close frame" or "last output"`},
		{`\b(the|a|its) whole of\b`, `"all of" or "the entire"`},
		{`\bas long as they reach\b`, `"every client that can reach"`},
		{`\b[Hh]and it in\b`, `"send it"`},
		{`\bask(s|ed)? (it |for it )?anew\b`, `"send it again" or "retry"`},
		{`\bfailed to\b.*\bfailed to\b`, `one "failed to": cut the chain of the library`},
	} {
		phrases = append(phrases, bannedPhrase{regexp.MustCompile(p.pattern), p.instead})
	}
	return phrases
}

// phraseFaults returns a fault for each line of a text with a banned phrase.
func phraseFaults(text string) (faults []string) {
	number := 0
	phrases := bannedPhrases()
	for line := range strings.Lines(text) {
		number++
		for _, p := range phrases {
			if found := p.pattern.FindString(line); found != "" {
				faults = append(faults, fmt.Sprintf("%d: %q: write %s", number, strings.TrimSpace(found), p.instead))
			}
		}
	}
	return faults
}

// TestPhrases checks the words of all Go files, tests and documents.
func TestPhrases(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"*.go", "*.md", ".github/*.md"} {
		for _, name := range globFiles(t, pattern) {
			if name == "houserules_prose_test.go" || name == "CONTRIBUTING.md" {
				continue // they quote the phrases
			}
			for _, fault := range phraseFaults(readText(t, name)) {
				t.Errorf("%s:%s", name, fault)
			}
		}
	}
}

// TestLogRecords checks the keys, values and messages of all log records.
func TestLogRecords(t *testing.T) {
	t.Parallel()
	files, set := map[string]*ast.File{}, token.NewFileSet()
	for _, name := range globFiles(t, "*.go") {
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	durations := durationNames(files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, fault := range logFaults(set, files[name], durations) {
			t.Error(fault)
		}
	}
}

// logFaults returns the faults in the log records of a file.
func logFaults(set *token.FileSet, f *ast.File, durations map[string]bool) (faults []string) {
	report := func(n ast.Node, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s: %s", set.Position(n.Pos()), fmt.Sprintf(format, args...)))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		args, level := call.Args, strings.TrimSuffix(sel.Sel.Name, "Context")
		if level != sel.Sel.Name && len(args) > 0 {
			args = args[1:]
		}
		switch level {
		case "Debug", "Info", "Warn", "Error":
			if len(args) == 0 || !isLogger(sel.X) {
				return true
			}
			message, ok := stringLiteral(args[0])
			if ok && (level == "Warn" || level == "Error") && isBareGerund(message) {
				report(call, "%s(%q) does not say what failed: write for example %q", level, message, message+" failed")
			}
			args = args[1:]
		case "With":
			if !isLogger(sel.X) {
				return true
			}
		case "Any", "Duration", "String", "Int64": // slog.Any(key, value)
			if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "slog" {
				return true
			}
		default:
			return true
		}
		for i := 0; i+1 < len(args); i += 2 {
			key, ok := stringLiteral(args[i])
			if !ok {
				i-- // a slog.Attr takes one argument
				continue
			}
			switch {
			case key == "err":
				report(args[i], `log key "err": write "error"`)
			case isDuration(args[i+1], durations) || sel.Sel.Name == "Duration":
				report(args[i], `log key %q has a time.Duration: log a number, with its unit in the key ("%s_ms", d.Milliseconds())`, key, key)
			case slices.Contains([]string{"after", "took", "duration", "elapsed", "delay", "timeout", "interval", "within"}, key):
				report(args[i], `log key %q has no unit: write "%s_ms" or "%s_seconds"`, key, key, key)
			}
		}
		return true
	})
	return faults
}

// isLogger reports whether an expression is a logger, judged by its name.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "slog" || e.Name == "log" || e.Name == "logger"
	case *ast.SelectorExpr:
		return e.Sel.Name == "log" || e.Sel.Name == "logger"
	case *ast.CallExpr: // log.With(…).Info(…)
		sel, ok := e.Fun.(*ast.SelectorExpr)
		return ok && sel.Sel.Name == "With" && isLogger(sel.X)
	}
	return false
}

// isBareGerund reports whether a message begins with a gerund and does not say
// that something failed.
func isBareGerund(message string) bool {
	first, _, _ := strings.Cut(message, " ")
	first = strings.TrimRight(first, ":,")
	if !strings.HasSuffix(first, "ing") || slices.Contains([]string{"nothing", "something", "missing"}, first) {
		return false
	}
	return !regexp.MustCompile(`\b(failed|cannot|could not|refused|timed out)\b`).MatchString(message)
}

// durationNames returns the names of struct fields and package constants whose
// type is time.Duration, except names that also have another type.
func durationNames(files map[string]*ast.File) map[string]bool {
	names := map[string]bool{}
	add := func(id *ast.Ident, is bool) {
		if old, known := names[id.Name]; known && !old {
			return
		}
		names[id.Name] = is
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, id := range field.Names {
						add(id, isDurationType(field.Type))
					}
				}
			}
			return true
		})
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				for i, id := range v.Names {
					add(id, isDurationType(v.Type) || i < len(v.Values) && isDuration(v.Values[i], nil))
				}
			}
		}
	}
	return names
}

// isDuration reports whether an expression is a time.Duration, as far as the
// syntax tells. names are the fields and constants of that type.
func isDuration(e ast.Expr, names map[string]bool) bool {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return isDuration(e.X, names)
	case *ast.BinaryExpr:
		return (e.Op != token.QUO || !isDuration(e.Y, names)) && (isDuration(e.X, names) || isDuration(e.Y, names))
	case *ast.SelectorExpr:
		if pkg, ok := e.X.(*ast.Ident); ok && pkg.Name == "time" {
			return slices.Contains([]string{"Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour"}, e.Sel.Name)
		}
		return names[e.Sel.Name]
	case *ast.CallExpr:
		sel, ok := e.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" {
			return slices.Contains([]string{"Since", "Until", "Duration"}, sel.Sel.Name)
		}
		return sel.Sel.Name == "Sub" || (sel.Sel.Name == "Round" || sel.Sel.Name == "Truncate") && len(e.Args) == 1 && isDuration(e.Args[0], names)
	case *ast.Ident:
		if e.Obj == nil { // not declared in this file
			return names[e.Name]
		}
		switch d := e.Obj.Decl.(type) {
		case *ast.Field:
			return isDurationType(d.Type)
		case *ast.ValueSpec:
			i := slices.IndexFunc(d.Names, func(id *ast.Ident) bool { return id.Name == e.Name })
			return isDurationType(d.Type) || i < len(d.Values) && isDuration(d.Values[i], names)
		case *ast.AssignStmt:
			for i, left := range d.Lhs {
				if id, ok := left.(*ast.Ident); ok && id.Name == e.Name && i < len(d.Rhs) && d.Rhs[i] != ast.Expr(e) {
					return isDuration(d.Rhs[i], names)
				}
			}
		}
	}
	return false
}

func isDurationType(e ast.Expr) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "Duration" {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "time"
}

func stringLiteral(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// maxFileLines bounds a file: one that is longer has more than one subject. Tests
// may be longer, because a table of cases has one subject at any length.
const maxFileLines = 600

// TestFileLength fails for a file that is too long.
func TestFileLength(t *testing.T) {
	for _, name := range globFiles(t, "*.go") {
		if lines := strings.Count(readText(t, name), "\n"); lines > maxFileLines && !strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s has %d lines, want at most %d: split it by subject", name, lines, maxFileLines)
		}
	}
}

// TestFileNames fails for a test file that is not named after the file or family
// that it tests.
func TestFileNames(t *testing.T) {
	for _, fault := range testNameFaults(globFiles(t, "*.go")) {
		t.Error(fault)
	}
}

// testNameFaults returns the test files whose name does not begin with the name of
// a code file or of a family, which is the first word of several code files.
func testNameFaults(names []string) (faults []string) {
	// These test the whole tree, or serve all tests.
	treeWide := []string{"architecture", "bench", "houserules", "main", "reference"}
	subjects := map[string]bool{}
	for _, name := range names {
		if stem, isTest := fileStem(name); !isTest {
			subjects[stem] = true
			first, _, _ := strings.Cut(stem, "_")
			subjects[first] = true
		}
	}
	for _, name := range names {
		stem, isTest := fileStem(name)
		words := strings.Split(stem, "_")
		if !isTest || slices.Contains(treeWide, words[0]) {
			continue
		}
		named := false
		for i := range words {
			named = named || subjects[strings.Join(words[:i+1], "_")]
		}
		if !named {
			faults = append(faults, fmt.Sprintf("%s is not named after a code file or a family: begin its name with the one that it tests", name))
		}
	}
	return faults
}

// fileStem returns the name of a Go file without its system, _test and .go.
func fileStem(name string) (stem string, isTest bool) {
	stem, isTest = strings.CutSuffix(strings.TrimSuffix(name, ".go"), "_test")
	for _, system := range []string{"_linux", "_darwin", "_windows", "_unix", "_other"} {
		stem = strings.TrimSuffix(stem, system)
	}
	return stem, isTest
}

func globFiles(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func readText(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestPhrasesAreFound checks the rules of TestPhrases on sentences that are wrong
// and on sentences that are right.
func TestPhrasesAreFound(t *testing.T) {
	for line, want := range map[string]bool{
		"// isLocal tells whether the host is local.":                      true,
		"// isLocal reports whether the host is local.":                    false,
		"// config is what a daemon is started with.":                      true,
		"The log says what is wrong.":                                      false,
		"// whoever reads the log may be gone":                             true,
		"a file that is no socket stays":                                   true,
		"the socket that is no longer used":                                false,
		"nil when it is none":                                              true,
		"false if there is none":                                           false,
		"// gitError is git's no.":                                         true,
		"Version string `json:\"version\" doc:\"of the daemon\"`":          true,
		"Version string `json:\"version\" doc:\"daemon version\"`":         false,
		"2 | wrong use |":                                                  true,
		"failed to WebSocket dial: failed to send handshake request: EOF":  true,
		"failed to send the handshake: connection refused":                 false,
		"the hub waits for the close frame, not for a goodbye of its peer": true,
	} {
		if got := len(phraseFaults(line)) > 0; got != want {
			t.Errorf("%q: found %v, want %v: %q", line, got, want, phraseFaults(line))
		}
	}
}

// TestLogFaultsAreFound checks the rules of TestLogRecords on wrong and right
// records.
func TestLogFaultsAreFound(t *testing.T) {
	const head = `package p
const limit = 2 * time.Second
type pool struct { log *slog.Logger; stopTimeout time.Duration; count int }
func f(log *slog.Logger, p *pool, err error, d time.Duration, n int) {
	began := time.Now()
	took := time.Since(began)
	`
	for statement, want := range map[string]string{
		`log.Info("x", "error", err, "n", n, "stop_ms", d.Milliseconds())`:    "",
		`log.Info("x", "err", err)`:                                           `"err"`,
		`log.Info("x", slog.Int("n", n), "err", err)`:                         `"err"`,
		`log.With("err", err).Info("x")`:                                      `"err"`,
		`log.Info("x", slog.Any("err", err))`:                                 `"err"`,
		`log.InfoContext(ctx, "x", "err", err)`:                               `"err"`,
		`log.Info("x", "wait", d)`:                                            "wait_ms",
		`log.Info("x", "wait", took)`:                                         "wait_ms",
		`log.Info("x", "wait", limit)`:                                        "wait_ms",
		`log.Info("x", "wait", p.stopTimeout)`:                                "wait_ms",
		`log.Info("x", "wait", d.Round(time.Millisecond))`:                    "wait_ms",
		`log.Info("x", "wait", time.Since(began))`:                            "wait_ms",
		`log.Info("x", "wait", 3*time.Second)`:                                "wait_ms",
		`log.Info("x", slog.Duration("wait", d))`:                             "wait_ms",
		`log.Info("x", "took", n)`:                                            "took_ms",
		`log.Info("x", "half", d/time.Second)`:                                "",
		`log.Info("x", "count", p.count)`:                                     "",
		`p.log.Warn("stopping the daemons", "error", err)`:                    `"stopping the daemons failed"`,
		`p.log.Error("stopping: waiting")`:                                    "does not say what failed",
		`p.log.Warn("stopping the daemons failed", "error", err)`:             "",
		`p.log.Info("stopping the daemons")`:                                  "",
		`p.log.Error("something is wrong with the disk", "error", err)`:       "",
		`t.Error("listening")`:                                                "",
		`fmt.Fprintf(w, "took", d)`:                                           "",
		`log.Warn("reading the file cannot continue: the disk is gone")`:      "",
		`log.Warn("the daemon ended", "after_seconds", int64(d.Seconds()))`:   "",
		`log.Warn("the daemon ended", "after", fmt.Sprintf("%d seconds", n))`: "after_ms",
	} {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, "p.go", head+statement+"\n}\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		faults := logFaults(set, f, durationNames(map[string]*ast.File{"p.go": f}))
		if got := strings.Join(faults, "\n"); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: got %q, want a fault with %q", statement, got, want)
		}
	}
}

// TestNameFaultsAreFound checks the rule of TestFileNames.
func TestNameFaultsAreFound(t *testing.T) {
	names := []string{
		"git.go", "git_url.go", "vcs_log.go", "vcs_refs.go", "pid1_linux.go",
		"git_test.go", "git_url_fuzz_test.go", "vcs_test.go", "pid1_linux_test.go", "houserules_test.go",
		"namefuzz_test.go", "gitfault_test.go", "url_test.go",
	}
	got := testNameFaults(names)
	for i, want := range []string{"namefuzz_test.go", "gitfault_test.go", "url_test.go"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("fault %d: got %q, want one about %s", i, got, want)
		}
	}
	if len(got) != 3 {
		t.Errorf("got %d faults, want 3: %q", len(got), got)
	}
}
