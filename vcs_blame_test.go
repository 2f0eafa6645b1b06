package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allBlame returns the runs of all pages, those that a page boundary split put
// together again.
func allBlame(t *testing.T, g *gitReader, p blameParams) []blameRun {
	t.Helper()
	var runs []blameRun
	for {
		page, err := g.blame(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for _, run := range page.Lines {
			lines += run.Count
			if n := len(runs); n > 0 && runs[n-1].continues(run) {
				runs[n-1].Count += run.Count
			} else {
				runs = append(runs, run)
			}
		}
		if most := valueOr(p.Lines, blameLimit); lines > most {
			t.Errorf("a page of %d lines, want at most %d", lines, most)
		}
		if p.StartLine = page.NextLine; p.StartLine == nil {
			return runs
		}
	}
}

// gitBlame returns a line for each line of a file as git blame shows it: commit,
// original line and file, author, time and subject.
func (r *testRepo) gitBlame(commit, file string) []string {
	r.t.Helper()
	var lines []string
	head, name, when, subject := "", "", "", ""
	for line := range strings.Lines(r.output("", "-c", "core.quotePath=true", "blame", "--line-porcelain", commit, "--", file)) {
		line = strings.TrimSuffix(line, "\n")
		key, value, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "\t"):
			lines = append(lines, head+" "+name+" "+when+" "+subject)
		case isObjectID(key):
			head = key + " " + strings.Fields(value)[0]
		case key == "author":
			name = value
		case key == "author-time":
			when = wireTime(commitTime(value))
		case key == "summary":
			subject = value
		case key == "filename":
			head += " " + unquotePath(value)
		}
	}
	return lines
}

// blameLinesOf returns runs in the form of gitBlame.
func blameLinesOf(t *testing.T, runs []blameRun) []string {
	t.Helper()
	var lines []string
	for _, run := range runs {
		if run.Start != len(lines)+1 {
			t.Errorf("a run starts at line %d, want %d", run.Start, len(lines)+1)
		}
		for n := range run.Count {
			lines = append(lines, fmt.Sprintf("%s %d %s %s %s %s", run.OID, run.OriginalStart+n, exactName(t, run.OriginalFile, run.OriginalFileBase64), run.Author.Name, run.Author.At, run.Subject))
		}
	}
	return lines
}

// newBlameRepo is a repository whose file "now\nhere" has lines of ten commits,
// two names and a merge.
func newBlameRepo(t *testing.T, dir string, initArgs ...string) *testRepo {
	t.Helper()
	r := newTestRepoAt(t, dir, nil, initArgs...)
	lines := []string{}
	for n := range 40 {
		lines = append(lines, fmt.Sprintf("line %d", n))
	}
	text := func() string { return strings.Join(lines, "\n") + "\n" }
	r.commit("start", map[string]string{"old/caf\xe9": text()})
	for n := range 6 {
		lines[n*7%40] = fmt.Sprintf("changed %d", n)
		lines = slices.Insert(lines, n*5, fmt.Sprintf("added %d", n), "same")
		r.env = []string{fmt.Sprintf("GIT_AUTHOR_DATE=2020-01-0%dT12:00:00+0300", n+1), "GIT_AUTHOR_NAME=Zoë " + fmt.Sprint(n)}
		r.commit(fmt.Sprintf("change %d\n\nbody", n), map[string]string{"old/caf\xe9": text()})
	}
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("mv", "old/caf\xe9", "sub/now\nhere")
	r.commit("moved", nil)
	r.git("checkout", "-q", "-b", "side")
	r.commit("side", map[string]string{"sub/now\nhere": "first\n" + text()})
	r.git("checkout", "-q", "main")
	r.commit("main", map[string]string{"sub/now\nhere": text() + "last"})
	r.git("merge", "-q", "side")
	r.write(".mailmap", "Mapped <ada@example.org>\n")
	r.write("ignore", r.git("rev-parse", "HEAD^1")+"\n")
	writeFiles(t, dir, map[string]string{"empty": "", "binary": "a\x00\nb\n"})
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty-message", "-m", "")
	r.git("config", "blame.ignoreRevsFile", "ignore")
	return r
}

// Each line of all pages is what git blame says of it, whatever the
// repository's configuration and .mailmap say.
func TestBlameEqualsGitBlame(t *testing.T) {
	skipShort(t, "it takes dozens of processes of git")
	needsAnyName(t)
	t.Parallel()
	everyFormat(t, func(t *testing.T, dir string, initArgs ...string) {
		r := newBlameRepo(t, dir, initArgs...)
		g := newTestGitReader(t, dir)
		commit, file := r.head(), "sub/now\nhere"
		control := r.gitBlame(commit, file)
		r.git("config", "--unset", "blame.ignoreRevsFile")
		if err := os.Rename(filepath.Join(dir, ".mailmap"), filepath.Join(dir, "ignored")); err != nil {
			t.Fatal(err)
		}
		want := r.gitBlame(commit, file)
		if slices.Equal(want, control) || len(want) != 54 {
			t.Fatalf("git blame gives %d lines, the same without the configuration: this test proves nothing", len(want))
		}
		for _, p := range []blameParams{
			{pathParam: at(dir), File: file},
			{pathParam: at(dir), File: file, Lines: new(19), Commit: &commit},
			{pathParam: at(dir), FileBase64: nameBase64("\xff"), Lines: new(54)},
		} {
			if p.File == "" {
				p.FileBase64 = "c3ViL25vdwpoZXJl"
			}
			if got := blameLinesOf(t, allBlame(t, g, p)); !slices.Equal(got, want) {
				t.Errorf("%s: got\n%s\nwant\n%s", asJSON(t, p), strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		// A cloned bare repository has its .mailmap in HEAD.
		bare := filepath.Join(realTempDir(t), "bare")
		r.git("clone", "-q", "--bare", dir, bare)
		if got := blameLinesOf(t, allBlame(t, newTestGitReader(t, bare), blameParams{pathParam: at(bare), File: file, Commit: &commit})); !slices.Equal(got, want) {
			t.Errorf("in a bare repository: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		runs := allBlame(t, g, blameParams{pathParam: at(filepath.Join(dir, "sub")), File: "now\nhere"})
		if !slices.ContainsFunc(runs, func(run blameRun) bool {
			return exactName(t, run.OriginalFile, run.OriginalFileBase64) == "../old/caf\xe9"
		}) {
			t.Errorf("below sub: %s, want the old name relative to sub", asJSON(t, runs))
		}
	})
}

// Where the lines end, and what has none.
func TestBlameOfOddFiles(t *testing.T) {
	needsAnyName(t)
	t.Parallel()
	dir := realTempDir(t)
	r := newBlameRepo(t, dir)
	g := newTestGitReader(t, dir)
	ask := func(p blameParams) blameResult {
		t.Helper()
		p.pathParam = at(dir)
		page, err := g.blame(t.Context(), p)
		if err != nil || page.Commit != r.head() {
			t.Fatalf("%s: %s, %v, want an answer of HEAD", asJSON(t, p), asJSON(t, page), err)
		}
		return page
	}
	const file = "sub/now\nhere" // 54 lines
	for _, c := range []struct {
		p     blameParams
		lines int
		next  *int
	}{
		{blameParams{File: file, StartLine: new(54)}, 1, nil},
		{blameParams{File: file, StartLine: new(53), Lines: new(1)}, 1, new(54)},
		{blameParams{File: file, StartLine: new(53), Lines: new(2)}, 2, nil},
		{blameParams{File: file, StartLine: new(55)}, 0, nil},
		{blameParams{File: file, StartLine: new(maxBlameLine), Lines: new(maxBlameLimit)}, 0, nil},
		{blameParams{File: "empty"}, 0, nil},
		{blameParams{File: "binary"}, 2, nil},
	} {
		page, lines := ask(c.p), 0
		for _, run := range page.Lines {
			lines += run.Count
		}
		if lines != c.lines || valueOr(page.NextLine, 0) != valueOr(c.next, 0) {
			t.Errorf("%s: %d lines, next %v, want %d and %v", asJSON(t, c.p), lines, page.NextLine, c.lines, c.next)
		}
	}
	if run := ask(blameParams{File: "binary"}).Lines[0]; run.Subject != "" || run.Author.Email != "ada@example.org" || run.Start != 1 || run.OriginalStart != 1 || run.OriginalFile != "binary" {
		t.Errorf("%s, want the fields of the commit without a subject", asJSON(t, run))
	}
	for param, p := range map[string]blameParams{
		"start_line":  {File: "x", StartLine: new(0)},
		"lines":       {File: "x", Lines: new(maxBlameLimit + 1)},
		"commit":      {File: "x", Commit: new("--contents=/etc/passwd")},
		"file":        {File: "../x"},
		"file_base64": {FileBase64: "!"},
	} {
		p.pathParam = at(dir)
		_, err := g.blame(t.Context(), p)
		wantInvalid(t, err, param)
	}
	for _, p := range []blameParams{{}, {File: "sub"}, {File: "/etc/passwd"}} {
		p.pathParam = at(dir)
		_, err := g.blame(t.Context(), p)
		wantInvalid(t, err, "file")
	}
	for _, file := range []string{"none", "none\nat all", "empty/x", "*", ":(top)empty"} {
		_, err := g.blame(t.Context(), blameParams{pathParam: at(dir), File: file})
		wantFailure(t, err, codeSourceNotFound)
	}
	_, err := g.blame(t.Context(), blameParams{pathParam: at(dir), File: "x/.git-daemon.config"})
	wantFailure(t, err, codeAccessDenied)
	_, err = g.blame(t.Context(), blameParams{pathParam: at(dir), File: "empty", Commit: new("none")})
	wantFailure(t, err, codeCommitNotFound)
	unborn := newTestRepoAt(t, filepath.Join(realTempDir(t), "unborn"), nil)
	_, err = newTestGitReader(t, unborn.dir).blame(t.Context(), blameParams{pathParam: at(unborn.dir), File: "f"})
	wantFailure(t, err, codeSourceNotFound)
}

// The oldest commit of a shallow history is named as such.
func TestBlameOfAShallowRepository(t *testing.T) {
	needsUnixPaths(t)
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir+"/full", map[string]string{"a": "1\n2\n"})
	second := r.commit("second", map[string]string{"a": "1\n3\n"})
	r.commit("third", map[string]string{"a": "0\n1\n3\n"})
	r.git("clone", "-q", "--depth", "2", "file://"+r.dir, dir+"/shallow")
	runs := allBlame(t, newTestGitReader(t, dir), blameParams{pathParam: at(dir + "/shallow"), File: "a"})
	if len(runs) != 2 || runs[0].IsBoundary || !runs[1].IsBoundary || runs[1].OID != second || runs[1].Count != 2 {
		t.Errorf("%s, want the older lines at the boundary %s", asJSON(t, runs), second)
	}
	if runs := allBlame(t, newTestGitReader(t, dir), blameParams{pathParam: at(r.dir), File: "a"}); len(runs) != 3 || runs[0].IsBoundary || runs[1].IsBoundary {
		t.Errorf("in the full repository: %s, want no boundary", asJSON(t, runs))
	}
}

// A page ends before its texts fill a message, and the next one continues.
func TestBlameOfLongSubjects(t *testing.T) {
	skipShort(t, "reads thousands of commits")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, nil)
	const commits = 900
	var stream importStream
	content := ""
	for n := range commits {
		content += fmt.Sprintln(n)
		parent := ""
		if n > 0 {
			parent = fmt.Sprintf(":%d", n)
		}
		stream.commit("refs/heads/main", fmt.Sprintf(":%d", n+1), strings.Repeat("\x01", 3000), parent, "", []streamFile{{"100644", "f", content}})
	}
	r.output(stream.String(), "fast-import", "--quiet")
	g := newTestGitReader(t, dir)
	p := blameParams{pathParam: at(dir), File: "f"}
	page, err := g.blame(t.Context(), p)
	if err != nil || page.NextLine == nil || len(page.Lines) >= commits || len(page.Lines[0].Subject) != maxBlameField {
		t.Fatalf("%d runs, next %v, %v, want a page that ends early, with the subjects cut", len(page.Lines), page.NextLine, err)
	}
	if size := len(asJSON(t, page)); size > 12<<20 {
		t.Errorf("a page of %d bytes, want one that fits a message", size)
	}
	if runs := allBlame(t, g, p); len(runs) != commits {
		t.Errorf("%d runs over all pages, want %d", len(runs), commits)
	}
}

// Every run that is read has the fields of the format.
func FuzzReadBlame(f *testing.F) {
	id := strings.Repeat("ab", 20)
	for _, seed := range []string{
		id + " 1 2 3\nauthor A\nauthor-mail <a@b>\nauthor-time 5\nsummary s\nboundary\nfilename f\n" + id + " 4 5 6\nfilename \"a\\303\\251\\n\"\n",
		id + " 1 2 3\nfilename \"\n", id + " 0 1 1\nfilename x\n", id + " 1 1 99999999999\n", "x", "", id + " 1 1 1\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := &blameReader{commits: map[string]*blameCommit{}}
		err := b.read(bufio.NewReaderSize(strings.NewReader(text), 16))
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "git blame") {
			t.Errorf("%q: %v, want the end of the output or an unexpected record", text, err)
		}
		for _, run := range b.runs {
			if !isObjectID(run.OID) || run.Start < 1 || run.Count < 1 || run.OriginalStart < 1 || run.OriginalFile == "" {
				t.Errorf("%q: %+v, want all fields", text, run)
			}
		}
		if err == nil {
			runs, next := b.page(&repository{}, 100)
			for n, run := range runs {
				if n > 0 && run.Start < runs[n-1].Start || run.Start >= 100 || next != nil && run.Start >= *next {
					t.Errorf("%q: %+v, next %v, want the runs in order and before the next", text, runs, next)
				}
			}
		}
	})
}

func TestRelativeTo(t *testing.T) {
	for _, c := range []struct{ dir, file, want string }{
		{"", "a/b", "a/b"}, {"a", "a/b", "b"}, {"a", "ab/c", "../ab/c"}, {"a/b", "a/c", "../c"}, {"a/b", "x", "../../x"}, {"a/b/c", "a/b/c/d/e", "d/e"},
	} {
		if got := relativeTo(c.dir, c.file); got != c.want {
			t.Errorf("relativeTo(%q, %q) = %q, want %q", c.dir, c.file, got, c.want)
		}
	}
}
