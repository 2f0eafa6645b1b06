//go:build linux || darwin

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The benchmarks compare whole requests, from JSON to JSON through the
// dispatcher, with the tool that a person would use. Both run in turns, and the
// median counts: a noisy machine disturbs both. See BENCHMARKS.md.

// versus runs ours and theirs in turns and reports the ratio of the medians.
func versus(b *testing.B, unit string, ours, theirs func()) (us, them time.Duration) {
	b.Helper()
	setMemory(os.Getenv) // as the daemon runs
	ours()               // both find the files in memory
	theirs()
	var mine, other []time.Duration
	timed := func(list *[]time.Duration, f func()) {
		began := time.Now()
		f()
		*list = append(*list, time.Since(began))
	}
	for n := 0; b.Loop(); n++ {
		if n%2 == 0 {
			timed(&mine, ours)
			timed(&other, theirs)
		} else {
			timed(&other, theirs)
			timed(&mine, ours)
		}
	}
	us, them = median(mine), median(other)
	b.ReportMetric(0, "ns/op") // the sum of both says nothing
	b.ReportMetric(float64(us.Microseconds())/1000, "ms")
	b.ReportMetric(float64(us)/float64(them), unit)
	return us, them
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

// request asks and returns the answer as it came; nothing else is decoded, for
// that would be the caller's time.
func (b *daemonBench) request(method string, params any) []byte {
	b.t.Helper()
	message, err := json.Marshal(object{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		b.t.Fatal(err)
	}
	b.in <- message
	for data := range b.out {
		if !bytes.HasPrefix(data, []byte(`{"jsonrpc":"2.0","id":1,`)) {
			continue // progress
		}
		if !bytes.HasPrefix(data, []byte(`{"jsonrpc":"2.0","id":1,"result":`)) {
			b.t.Fatalf("%s: %.500s", method, data)
		}
		return data
	}
	return nil
}

// pages asks for page after page and counts what mark counts.
func (b *daemonBench) pages(method string, params object, mark string) (count int) {
	b.t.Helper()
	delete(params, "cursor")
	for {
		answer := b.request(method, params)
		count += bytes.Count(answer, []byte(mark))
		_, cursor, _ := bytes.Cut(answer[max(len(answer)-4096, 0):], []byte(`"next_cursor":"`))
		cursor, _, more := bytes.Cut(cursor, []byte(`"`))
		if !more {
			return count
		}
		params["cursor"] = string(cursor)
	}
}

// tool runs a program and reads its output as a caller would.
func tool(b *testing.B, stdin io.Reader, name string, args ...string) {
	b.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout = stdin, writerFunc(func(p []byte) (int, error) { return len(p), nil })
	if err := cmd.Run(); err != nil {
		b.Fatal(name, args, err)
	}
}

const (
	benchFiles = 20_000
	benchDirs  = 400
)

// importTree makes a repository of so many files with git fast-import; each has
// a content of its own unless same.
func importTree(b *testing.B, dir string, files, dirs int, same bool) *testRepo {
	b.Helper()
	repo := newTestRepoAt(b, dir, nil)
	var text strings.Builder
	line := strings.Repeat("some words of a source file\n", 60)
	if same {
		text.WriteString("blob\nmark :1\ndata 5\nword\n\n")
	}
	text.WriteString("commit refs/heads/main\ncommitter A <a@example.org> 1700000000 +0000\ndata 4\ntree\n")
	for i := range files {
		name := fmt.Sprintf("d%04d/f%06d.go", i%dirs, i)
		if same {
			fmt.Fprintf(&text, "M 100644 :1 %s\n", name)
			continue
		}
		content := fmt.Sprintf("%d\n%s", i, line[:(i*37)%len(line)])
		fmt.Fprintf(&text, "M 100644 inline %s\ndata %d\n%s\n", name, len(content), content)
	}
	repo.output(text.String(), "fast-import", "--quiet")
	return repo
}

// benchRepo is a repository of benchFiles files, checked out, and a daemon that
// serves it.
func benchRepo(b *testing.B) (*daemonBench, *testRepo) {
	b.Helper()
	repo := importTree(b, filepath.Join(realTempDir(b), "repo"), benchFiles, benchDirs, false)
	repo.git("checkout", "-q", "-f", "main")
	return newDaemonBench(b, &daemonConfig{allow: []string{repo.dir}}), repo
}

// The goal is 1.5.
func BenchmarkManifest(b *testing.B) {
	d, repo := benchRepo(b)
	versus(b, "x-ls-tree", func() {
		if n := d.pages("index/manifest", object{"path": repo.dir}, `"oid":`); n != benchFiles {
			b.Fatalf("%d files", n)
		}
	}, func() { tool(b, nil, "git", "-C", repo.dir, "ls-tree", "-r", "-l", "-z", "HEAD") })
}

// The goal is 1.3.
func BenchmarkReadBlobs(b *testing.B) {
	d, repo := benchRepo(b)
	oids := strings.Fields(repo.git("ls-tree", "-r", "--format=%(objectname)", "HEAD"))
	list := strings.Join(oids, "\n") + "\n"
	versus(b, "x-cat-file", func() {
		for rest := oids; len(rest) > 0; {
			answer := d.request("index/readBlobs", object{"path": repo.dir, "oids": rest})
			var next int
			_, tail, _ := bytes.Cut(answer[max(len(answer)-64, 0):], []byte(`"next_index":`))
			if _, err := fmt.Sscanf(string(tail), "%d", &next); err != nil {
				return // null: all was read
			}
			rest = rest[next:]
		}
	}, func() { tool(b, strings.NewReader(list), "git", "-C", repo.dir, "cat-file", "--batch") })
}

// The goal is 1.1 and 5 ms.
func BenchmarkPatches(b *testing.B) {
	d, repo := benchRepo(b)
	edit := func(word string) {
		files := map[string]string{}
		for i := range 1000 {
			files[fmt.Sprintf("d%04d/f%06d.go", i%benchDirs, i)] = strings.Repeat("some words of a source file\n", i%60) + word + "\n"
		}
		writeFiles(b, repo.dir, files)
	}
	edit("first")
	repo.git("commit", "-q", "-a", "-m", "first")
	edit("second")
	for name, c := range map[string]struct {
		params object
		git    []string
	}{
		"work tree": {object{"path": repo.dir}, []string{"HEAD"}},
		"commits":   {object{"path": repo.dir, "from": "HEAD~1", "to": "HEAD"}, []string{"HEAD~1", "HEAD"}},
	} {
		b.Run(name, func(b *testing.B) {
			versus(b, "x-diff", func() {
				if n := d.pages("vcs/diff", c.params, `"status":`); n != 1000 {
					b.Fatalf("%d files", n)
				}
			}, func() { tool(b, nil, "git", append([]string{"-C", repo.dir, "diff"}, c.git...)...) })
		})
	}
}

// The goal is 1.1 and 5 ms for all pages.
func BenchmarkPages(b *testing.B) {
	d, repo := benchRepo(b)
	var stream importStream
	const commits = 1000
	parent := "refs/heads/main^0"
	for n := range commits {
		mark := fmt.Sprintf(":%d", n+1)
		name := fmt.Sprintf("d%04d/f%06d.go", n%benchDirs, n)
		stream.commit("refs/heads/main", mark, "change", parent, "", []streamFile{{"100644", name, fmt.Sprintln("change", n)}})
		fmt.Fprintf(&stream, "reset refs/tags/v%d\nfrom %s\n\n", n, mark)
		parent = mark
	}
	repo.output(stream.String(), "fast-import", "--quiet")
	repo.git("pack-refs", "--all")
	time.Sleep(clockDifference) // what was changed just now is read for each page
	for _, c := range []struct {
		method, mark string
		params       object
		count        int
		git          []string
	}{
		{"vcs/refs", `"name":`, object{"limit": 100}, commits + 1, []string{"for-each-ref"}},
		{"vcs/log", `"subject":`, object{"limit": 100}, commits + 1, []string{"log"}},
		{"index/manifest", `"path":`, object{"limit": 1000}, benchFiles, []string{"ls-tree", "-r", "-l", "-z", "HEAD"}},
		{"index/diff", `"status":`, object{"limit": 100, "from": "HEAD~500"}, 500, []string{"diff", "--raw", "-z", "-M", "HEAD~500", "HEAD"}},
	} {
		b.Run(c.method, func(b *testing.B) {
			c.params["path"] = repo.dir
			versus(b, "x-git", func() {
				if n := d.pages(c.method, c.params, c.mark); n != c.count {
					b.Fatalf("%s lists %d, want %d", c.method, n, c.count)
				}
			}, func() { tool(b, nil, "git", append([]string{"-C", repo.dir}, c.git...)...) })
		})
	}
}

// The goal is 1.1 and 5 ms.
func BenchmarkBlame(b *testing.B) {
	repo := newTestRepoAt(b, filepath.Join(realTempDir(b), "repo"), nil)
	var stream importStream
	lines := make([]string, 1000)
	for n := range 400 {
		for i := n; i < len(lines); i += 37 {
			lines[i] = fmt.Sprintln("line", i, "of commit", n)
		}
		parent := ""
		if n > 0 {
			parent = fmt.Sprintf(":%d", n)
		}
		stream.commit("refs/heads/main", fmt.Sprintf(":%d", n+1), "change", parent, "", []streamFile{{"100644", "f", strings.Join(lines, "") + "\n"}})
	}
	repo.output(stream.String(), "fast-import", "--quiet")
	d := newDaemonBench(b, &daemonConfig{allow: []string{repo.dir}})
	versus(b, "x-blame", func() { d.request("vcs/blame", object{"path": repo.dir, "file": "f"}) },
		func() { tool(b, nil, "git", "-C", repo.dir, "blame", "--incremental", "HEAD", "--", "f") })
}

// The goal is 1.5, of plain find and of one that tells as much of each file.
func BenchmarkGlob(b *testing.B) {
	d, repo := benchRepo(b)
	for _, ignore := range []bool{false, true} {
		for _, find := range []struct {
			unit string
			args []string
		}{
			{"x-find", []string{repo.dir, "-name", ".git", "-prune", "-o", "-type", "f", "-print"}},
			{"x-find-size-time", []string{repo.dir, "-name", ".git", "-prune", "-o", "-type", "f", "-printf", `%P %s %T@\n`}},
		} {
			b.Run(fmt.Sprintf("gitignore=%v/%s", ignore, find.unit), func(b *testing.B) {
				versus(b, find.unit, func() {
					if n := d.pages("fs/glob", object{"path": repo.dir, "respect_gitignore": ignore, "limit": maxGlobEntries}, `"mtime":`); n != benchFiles {
						b.Fatalf("%d files", n)
					}
				}, func() { tool(b, nil, "find", find.args...) })
			})
		}
	}
}

// The goal is 1.5, of plain find and of one that tells as much of each file.
func BenchmarkListDir(b *testing.B) {
	dir := realTempDir(b)
	for i := range benchFiles {
		if err := os.WriteFile(fmt.Sprintf("%s/f%06d", dir, i), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	d := newDaemonBench(b, &daemonConfig{allow: []string{dir}})
	for _, find := range []struct {
		unit string
		args []string
	}{
		{"x-find", []string{dir, "-maxdepth", "1"}},
		{"x-find-all", []string{dir, "-maxdepth", "1", "-printf", `%f %y %s %m %T@\n`}},
	} {
		b.Run(find.unit, func(b *testing.B) {
			versus(b, find.unit, func() {
				if n := d.pages("fs/listDir", object{"path": dir, "limit": maxPageEntries}, `"mtime":`); n != benchFiles {
					b.Fatalf("%d entries", n)
				}
			}, func() { tool(b, nil, "find", find.args...) })
		})
	}
}

// The goal is 1.5 times find and 10 ms for each repository: x-goal is the part
// of that which was needed.
func BenchmarkRepoScan(b *testing.B) {
	const repos, entries = 200, 50_000
	root := realTempDir(b)
	one := newTestRepoAt(b, filepath.Join(root, "r000"), nil)
	one.write("a.txt", "a\n")
	one.commit("one", nil)
	one.git("remote", "add", "origin", "https://git.example.org/a.git")
	for i := 1; i < repos; i++ {
		if err := os.CopyFS(filepath.Join(root, fmt.Sprintf("r%03d", i)), os.DirFS(one.dir)); err != nil {
			b.Fatal(err)
		}
	}
	// What lies in the repositories counts, but a scan does not go there.
	for i := range entries {
		dir := fmt.Sprintf("%s/d%03d", root, i%500)
		if i < 500 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(fmt.Sprintf("%s/f%05d", dir, i), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	d := newDaemonBench(b, &daemonConfig{allow: []string{root}})
	us, them := versus(b, "x-find", func() {
		if n := bytes.Count(d.request("fs/repoScan", object{}), []byte(`"last_commit_at":"`)); n != repos {
			b.Fatalf("%d repositories", n)
		}
	}, func() { tool(b, nil, "find", root) })
	b.ReportMetric(float64(us)/(1.5*float64(them)+repos*float64(10*time.Millisecond)), "x-goal")
}

// BenchmarkManifestMemory pages through a tree of a million entries in a real
// daemon; the goal is 100 MiB.
func BenchmarkManifestMemory(b *testing.B) {
	const files = 1_000_000
	if _, err := os.Stat("/proc/self/status"); err != nil {
		b.Skip("needs /proc to know how much memory a process takes")
	}
	s := newExampleScheduler(b)
	s.ask("PUT", "/daemons/big", "")
	entry, _ := s.pool.get("big")
	importTree(b, filepath.Join(entry.WorkDir, "repo"), files, 1000, true)
	for b.Loop() {
		count, cursor := 0, ""
		for {
			response := s.send(b.Context(), "POST", "/libraries/big/rpc",
				`{"jsonrpc":"2.0","id":1,"method":"index/manifest","params":{"path":"repo","cursor":`+cursorJSON(cursor)+`}}`, "")
			answer, err := io.ReadAll(response.Body)
			_ = response.Body.Close() // read to the end
			if err != nil || response.StatusCode != 200 {
				b.Fatalf("%s %v %.500s", response.Status, err, answer)
			}
			count += bytes.Count(answer, []byte(`"oid":`))
			_, rest, more := bytes.Cut(answer[max(len(answer)-4096, 0):], []byte(`"next_cursor":"`))
			if !more {
				break
			}
			next, _, _ := bytes.Cut(rest, []byte(`"`))
			cursor = string(next)
		}
		if count != files {
			b.Fatalf("%d files", count)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", entry.PID))
	if err != nil {
		b.Fatal(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(peak, &kib); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(kib)/1024, "MiB-peak")
}

func cursorJSON(cursor string) string {
	if cursor == "" {
		return "null"
	}
	return `"` + cursor + `"`
}
