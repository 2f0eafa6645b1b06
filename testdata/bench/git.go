package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// task is a request of the daemon, or all pages of one, and the commands that a
// person would run for the same.
type task struct {
	name, goal string
	setup      func() // before the first round; may be nil
	before     func() // before each round; may be nil
	ours       func()
	theirs     func() time.Duration // returns the CPU time
}

// taskBench measures tasks with one daemon.
type taskBench struct {
	daemon  *agent
	dir     string // keeps the repositories for the next run
	work    string // removed at the end
	url     string // HTTP server of the repositories to clone
	answer  []byte
	clones  int
	commits int
}

// measureTasks prints a table of the daemon's methods beside bare commands.
func measureTasks(dir, daemon string, rounds int, only string) {
	dir, err := filepath.Abs(dir)
	check(err)
	dir, err = filepath.EvalSymlinks(dir)
	check(err)
	for name, value := range map[string]string{"GIT_CONFIG_GLOBAL": os.DevNull, "GIT_CONFIG_NOSYSTEM": "1"} {
		check(os.Setenv(name, value))
	}
	b := &taskBench{dir: dir}
	b.work, err = os.MkdirTemp("", "bench")
	check(err)
	defer os.RemoveAll(b.work)
	b.url = serveGit(filepath.Join(dir, "remotes"))
	tasks := b.tasks()
	b.daemon = startAgents([]string{"daemon=" + daemon + " --server {url} --machine-id bench --log-level error --allow " + dir + " --work-dir " + b.work})[0]
	defer stopAgents([]*agent{b.daemon})
	fmt.Println("| task | ms | CPU ms | bare ms | bare CPU ms | time to bare | CPU to bare | goal | ms over it |\n|---|---|---|---|---|---|---|---|---|")
	for _, t := range tasks {
		if strings.Contains(t.name, only) {
			b.measure(t, rounds)
		}
	}
}

// measure runs a task and its bare commands in turns, and prints the medians. CPU
// is the average, as the daemon's has units of 10 ms.
func (b *taskBench) measure(t task, rounds int) {
	var ours, theirs []float64
	var ourCPU, theirCPU time.Duration
	if t.setup != nil {
		t.setup()
	}
	timed := func(times *[]float64, sum *time.Duration, f func() time.Duration) {
		began := time.Now()
		cpu := f()
		*times, *sum = append(*times, time.Since(began).Seconds()*1000), *sum+cpu
	}
	us := func() {
		before := treeCPU(b.daemon.pids[0])
		timed(&ours, &ourCPU, func() time.Duration { t.ours(); return 0 })
		ourCPU += treeCPU(b.daemon.pids[0]) - before
	}
	them := func() { timed(&theirs, &theirCPU, t.theirs) }
	for round := range rounds + 1 {
		if t.before != nil {
			t.before()
		}
		if round%2 == 0 {
			us()
			them()
		} else {
			them()
			us()
		}
		if round == 0 { // warms up
			ours, theirs, ourCPU, theirCPU = nil, nil, 0, 0
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	mine, other := ours[rounds/2], theirs[rounds/2]
	perRound := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(rounds) }
	var factor, plus float64
	_, err := fmt.Sscanf(t.goal, "%f + %f ms", &factor, &plus)
	check(err)
	fmt.Printf("| %s | %.1f | %.1f | %.1f | %.1f | %.2f | %.2f | %s | %.1f |\n", t.name, mine, perRound(ourCPU), other, perRound(theirCPU),
		mine/other, float64(ourCPU)/float64(theirCPU), t.goal, max(mine-factor*other-plus, 0))
}

// tasks returns the rows of the table.
func (b *taskBench) tasks() []task {
	large := filepath.Join(b.dir, "large")
	makeRepo(large, repoSize{files: 13_000, dirs: 1300, commits: 5000, refs: 700})
	pages := func(name, method, params string, bare ...string) task {
		params = fmt.Sprintf(`"path":%q`, large) + params
		return task{name: name, goal: "1.1 + 5 ms",
			theirs: func() time.Duration { return command(large, bare[0], bare[1:]...) },
			ours: func() {
				for cursor := b.ask(method, params); cursor != ""; {
					cursor = b.ask(method, params+`,"cursor":"`+cursor+`"`)
				}
			},
		}
	}
	first := func(name, method, params string, bare ...string) task {
		t := pages(name, method, params, bare...)
		t.ours = func() { b.ask(method, fmt.Sprintf(`"path":%q`, large)+params) }
		return t
	}
	return append([]task{
		first("vcs/info", "vcs/info", ``, "git", "status", "--porcelain=v2", "--branch"),
		pages("vcs/refs, 700, pages of 100", "vcs/refs", `,"limit":100`, "git", "for-each-ref"),
		first("vcs/log, 50 commits", "vcs/log", ``, "git", "log", "-n50"),
		first("vcs/log, 1,000 commits", "vcs/log", `,"limit":1000`, "git", "log", "-n1000"),
		pages("vcs/log, 5,000 commits, pages of 1,000", "vcs/log", `,"limit":1000`, "git", "log"),
		pages("vcs/log, 5,000 commits, pages of 100", "vcs/log", `,"limit":100`, "git", "log"),
		first("vcs/log of a file", "vcs/log", `,"file":"part05/pkg0005/file00005.go"`, "git", "log", "--", "part05/pkg0005/file00005.go"),
		first("index/manifest, 1 page", "index/manifest", `,"limit":100000`, "git", "ls-tree", "-r", "-l", "-z", "HEAD"),
		pages("index/manifest, pages of 1,000", "index/manifest", `,"limit":1000`, "git", "ls-tree", "-r", "-l", "-z", "HEAD"),
		first("index/diff of 200 commits, 1 page", "index/diff", `,"from":"HEAD~200"`, "git", "diff", "--raw", "-z", "-M", "HEAD~200", "HEAD"),
		pages("index/diff of 200 commits, pages of 100", "index/diff", `,"from":"HEAD~200","limit":100`, "git", "diff", "--raw", "-z", "-M", "HEAD~200", "HEAD"),
		pages("vcs/diff of 200 commits", "vcs/diff", `,"from":"HEAD~200","to":"HEAD"`, "git", "diff", "-M", "HEAD~200", "HEAD"),
		first("vcs/blame", "vcs/blame", `,"file":"part00/file00000.go"`, "git", "blame", "--incremental", "HEAD", "--", "part00/file00000.go"),
		pages("fs/glob **/*.go, not ignored, 1 page", "fs/glob", `,"include":["**/*.go"],"limit":25000`, "git", "ls-files", "-co", "--exclude-standard", "*.go"),
		pages("fs/glob **/*.go, not ignored, pages of 1,000", "fs/glob", `,"include":["**/*.go"],"limit":1000`, "git", "ls-files", "-co", "--exclude-standard", "*.go"),
		pages("fs/glob **/*.go, also ignored, 1 page", "fs/glob", `,"include":["**/*.go"],"respect_gitignore":false,"limit":25000`, "find", ".", "-name", ".git", "-prune", "-o", "-type", "f", "-name", "*.go", "-printf", `%P %s %T@\n`),
		first("fs/search", "fs/search", `,"pattern":"// version 49"`, "git", "grep", "-n", "--untracked", "-F", "// version 49"),
		{name: "fs/repoScan", goal: "1.1 + 5 ms", ours: func() { b.ask("fs/repoScan", "") },
			theirs: func() time.Duration { return command(b.dir, "find", b.dir, "-name", ".git") }},
		first("fs/listDir", "fs/listDir", ``, "find", ".", "-maxdepth", "1", "-printf", `%f %y %s %m %T@\n`),
	}, append(b.cloneTasks(20), b.cloneTasks(5200)...)...)
}

// cloneTasks are vcs/clone of the repository with so many files.
func (b *taskBench) cloneTasks(files int) []task {
	makeRepo(filepath.Join(b.dir, "remotes", strconv.Itoa(files)), repoSize{files: files, dirs: files / 5, commits: 20})
	remote, theirs := filepath.Join(b.dir, "remotes", strconv.Itoa(files)), filepath.Join(b.work, "git", strconv.Itoa(files))
	url := fmt.Sprintf("%s/%d/.git", b.url, files)
	clone := func(name string) { b.ask("vcs/clone", fmt.Sprintf(`"url":%q,"name":%q`, url, name)) }
	fetch := func() time.Duration { return command(theirs, "git", "fetch", "-q", "--depth=1", "origin", "main") }
	row := func(what, goal string, ours func(), theirs func() time.Duration) task {
		return task{name: fmt.Sprintf("vcs/clone of %d files, %s", files, what), goal: goal, ours: ours, theirs: theirs}
	}
	fresh := row("fresh", "1.0 + 20 ms", func() {
		b.clones++
		clone(fmt.Sprint("fresh", b.clones))
	}, func() time.Duration {
		b.clones++
		return command(b.work, "git", "clone", "-q", "--depth=1", url, fmt.Sprint("git/fresh", b.clones))
	})
	if files > 5000 {
		fresh.goal = "0.8 + 0 ms"
	}
	unchanged := row("nothing new", "1.1 + 20 ms", func() { clone("kept" + strconv.Itoa(files)) }, func() time.Duration {
		return fetch() + command(theirs, "git", "status", "--porcelain")
	})
	unchanged.setup = func() {
		check(os.RemoveAll(theirs))
		run("git", "clone", "-q", "--depth=1", url, theirs)
	}
	updated := row("one new commit", "1.3 + 20 ms", unchanged.ours, func() time.Duration {
		return fetch() + command(theirs, "git", "checkout", "-q", "FETCH_HEAD")
	})
	updated.setup = unchanged.setup
	updated.before = func() {
		time.Sleep(1100 * time.Millisecond) // the daemon keeps an old state for a second for its readers
		b.commits++
		check(os.WriteFile(filepath.Join(remote, "part00", "changing.go"), fmt.Appendln(nil, "change", b.commits, time.Now()), 0o644))
		run("git", "-C", remote, "add", "--all")
		run("git", "-C", remote, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", "change")
	}
	return []task{fresh, unchanged, updated}
}

// ask sends a request and waits for its response. It returns next_cursor, or "".
func (b *taskBench) ask(method, params string) (cursor string) {
	c := b.daemon.conn
	c.put(`{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params + `}}`)
	c.flush()
	for {
		b.answer = c.whole(b.answer[:0])
		switch {
		case bytes.HasPrefix(b.answer, []byte(`{"jsonrpc":"2.0","id":1,"result":`)):
			_, after, _ := bytes.Cut(b.answer[max(0, len(b.answer)-4096):], []byte(`"next_cursor":"`))
			return string(after[:max(0, bytes.IndexByte(after, '"'))])
		case bytes.HasPrefix(b.answer, []byte(`{"jsonrpc":"2.0","id":1,`)):
			log.Fatalf("%s %s: %.500s", method, params, b.answer)
		}
	}
}

// command runs a program, reads its output through a pipe as a caller would, and
// returns its CPU time.
func command(dir, name string, args ...string) time.Duration {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.StdoutPipe()
	check(err)
	check(cmd.Start())
	_, err = io.Copy(io.Discard, out)
	check(err)
	if err := cmd.Wait(); err != nil {
		log.Fatal(name, args, ": ", err)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// treeCPU returns the user and system time of a process and of those that it
// waited for, in units of 10 ms (proc_pid_stat(5)).
func treeCPU(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(err)
	_, after, _ := strings.Cut(string(text), ") ")
	sum := 0
	for _, field := range strings.Fields(after)[11:15] {
		n, err := strconv.Atoi(field)
		check(err)
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}

// serveGit serves the repositories below dir over HTTP on loopback
// (git-http-backend(1)) and returns the address.
func serveGit(dir string) string {
	git, err := exec.LookPath("git")
	check(err)
	backend := &cgi.Handler{Path: git, Args: []string{"http-backend"}, Dir: dir, Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // the backend needs its length
		if err == nil {
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			backend.ServeHTTP(w, r)
		}
	}))
	return "http://" + listener.Addr().String()
}
