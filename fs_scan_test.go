package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fsRepo creates a repository with one commit in dir.
func fsRepo(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	return newTestRepoAt(t, dir, nil).commit("first", files)
}

func showRepo(r repoFacts) string {
	text := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	return fmt.Sprintln(r.Name, text(r.RemoteURL), text(r.Branch), text(r.Head), r.IsBare, r.IsShallow, text(r.LastCommitAt))
}

func TestRepoScan(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	const at = "2024-05-06T05:08:10Z"
	head := fsRepo(t, dir+"/a/work", map[string]string{"f": "x"})
	gitIn(t, dir+"/a/work", "remote", "add", "other", "https://example.org/other")
	gitIn(t, dir+"/a/work", "remote", "add", "origin", "https://user:s3cret@example.org/work.git")
	fsRepo(t, dir+"/a/work/nested", nil) // inside a repository, so not searched for
	gitIn(t, dir, "clone", "-q", "--bare", dir+"/a/work", "bare.git")
	gitIn(t, dir, "clone", "-q", "--depth=1", "file://"+dir+"/a/work", "shallow")
	gitIn(t, dir+"/shallow", "checkout", "-q", "--detach")
	gitIn(t, dir+"/a/work", "worktree", "add", "-q", "-b", "side", dir+"/tree")
	gitIn(t, dir+"/a/work", "pack-refs", "--all")
	gitIn(t, dir+"/a/work", "gc", "-q")
	gitIn(t, dir, "init", "-q", "-b", "trunk", "unborn")
	gitIn(t, dir, "init", "-q", "-b", "main", "--object-format=sha256", "sha256")
	gitIn(t, dir+"/sha256", "commit", "-q", "--allow-empty", "-m", "x")
	long := gitIn(t, dir+"/sha256", "rev-parse", "HEAD")
	fsRepo(t, dir+"/a/skip/r", nil)
	fsRepo(t, dir+"/1/2/3/deep", nil)
	writeFiles(t, dir, map[string]string{"broken/.git/x": "", "broken/file": "", "lie/.git": "gitdir: /etc\n", "half/HEAD": "ref: refs/heads/x\n", "half/objects/": "", "half/refs": "a file"})
	outside := realTempDir(t)
	fsRepo(t, outside+"/r", nil)
	if err := errors.Join(os.Symlink(outside, dir+"/link"), os.Symlink(dir+"/a", dir+"/loop"), os.Mkdir(dir+"/away", 0o755),
		os.Symlink(outside+"/r/.git", dir+"/away/.git")); err != nil {
		t.Fatal(err)
	}
	f := fsOn(t, dir)
	got, err := f.repoScan(t.Context(), repoScanParams{Exclude: []string{"a/skip"}, MaxDepth: new(3)})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range got.Repos {
		rel, _ := filepath.Rel(dir, r.Path)
		lines = append(lines, rel+": "+showRepo(r))
	}
	want := []string{
		"a/work: work https://example.org/work.git main " + head + " false false " + at + "\n",
		"bare.git: bare " + dir + "/a/work main " + head + " true false " + at + "\n",
		"sha256: sha256 - main " + long + " false false " + at + "\n",
		"shallow: shallow file://" + dir + "/a/work - " + head + " false true " + at + "\n",
		"tree: tree https://example.org/work.git side " + head + " false false " + at + "\n",
		"unborn: unborn - trunk - false false -\n",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%v\nwant\n%v", lines, want)
	}
	if got.Truncated {
		t.Error("truncated, want all repositories")
	}

	if got, err = f.repoScan(t.Context(), repoScanParams{Limit: new(2)}); err != nil || len(got.Repos) != 2 || !got.Truncated {
		t.Errorf("limit 2: %+v, %v, want 2 and truncated", got, err)
	}
	// If one start lies inside the tree of another, each repository is listed
	// once.
	if got, err = f.repoScan(t.Context(), repoScanParams{Paths: []string{dir, dir + "/a", dir + "/a/work", dir + "/1/2/3/deep"}}); err != nil || len(got.Repos) != 8 {
		t.Errorf("nested starts: %d, %v, want 8", len(got.Repos), err)
	}
	for _, test := range []struct {
		p    repoScanParams
		want string
	}{
		{repoScanParams{Paths: []string{dir, outside}}, "SOURCE_ACCESS_DENIED"},
		{repoScanParams{Paths: []string{dir + "/link"}}, "SOURCE_ACCESS_DENIED"},
		{repoScanParams{Paths: []string{dir + "/none"}}, "SOURCE_NOT_FOUND"},
		{repoScanParams{Paths: []string{""}}, "param paths"},
		{repoScanParams{MaxDepth: new(-1)}, "param max_depth"},
		{repoScanParams{Limit: new(0)}, "param limit"},
	} {
		if _, err := f.repoScan(t.Context(), test.p); fsCode(err) != test.want {
			t.Errorf("%+v: got %q, want %q", test.p, fsCode(err), test.want)
		}
	}
}

// Objects borrowed from outside the allowed directories are not read.
func TestRepoScanAlternatesOutside(t *testing.T) {
	t.Parallel()
	dir, outside := realTempDir(t), realTempDir(t)
	fsRepo(t, outside+"/r", nil)
	gitIn(t, dir, "clone", "-q", "--shared", outside+"/r", "r")
	got, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{})
	if err != nil || len(got.Repos) != 1 || got.Repos[0].Head == nil || got.Repos[0].LastCommitAt != nil {
		t.Errorf("got %+v, %v, want one repository without a date", got, err)
	}
	if got, err = fsOn(t, dir, outside).repoScan(t.Context(), repoScanParams{Paths: []string{dir}}); err != nil || got.Repos[0].LastCommitAt == nil {
		t.Errorf("allowed: got %+v, %v, want one with a date", got, err)
	}
}

// A corrupt object in one repository does not affect the others.
func TestRepoScanCorrupt(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	for i := range 7 {
		head := fsRepo(t, fmt.Sprintf("%s/r%d", dir, i), map[string]string{"f": fmt.Sprint(i)})
		if i == 3 {
			object := fmt.Sprintf("%s/r%d/.git/objects/%s/%s", dir, i, head[:2], head[2:])
			data, err := os.ReadFile(object)
			if err == nil {
				// Its header is readable and the rest is not: git stops at such
				// an object.
				err = errors.Join(os.Remove(object), os.WriteFile(object, data[:len(data)*2/3], 0o644))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{})
	if err != nil || len(got.Repos) != 7 {
		t.Fatalf("got %+v, %v, want 7 repositories", got, err)
	}
	for i, r := range got.Repos {
		if (r.LastCommitAt == nil) != (i == 3) {
			t.Errorf("%s: %v, want a date, and none of the fourth", r.Name, r.LastCommitAt)
		}
	}
}

// Programs that a repository's configuration names are not run.
func TestRepoScanHostileConfig(t *testing.T) {
	dir := realTempDir(t)
	fsRepo(t, dir+"/r", nil)
	marker := filepath.Join(t.TempDir(), "ran")
	for _, key := range []string{"core.fsmonitor", "core.sshCommand", "core.pager", "core.alternateRefsCommand", "alias.cat-file"} {
		gitIn(t, dir+"/r", "config", key, "!touch "+marker)
	}
	got, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{})
	if err != nil || len(got.Repos) != 1 || got.Repos[0].LastCommitAt == nil {
		t.Errorf("got %+v, %v, want one with a date", got, err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a command of the repository's configuration ran, want none to run")
	}
}

func TestRepoScanCancelled(t *testing.T) {
	skipShort(t, "makes a large tree, for 2 s")
	t.Parallel()
	dir := realTempDir(t)
	for i := range 3000 {
		if err := os.MkdirAll(fmt.Sprintf("%s/%d/%d", dir, i%50, i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stopped time.Time
	ctx = withProgress(ctx, func(progress) {
		if stopped.IsZero() {
			stopped = time.Now()
			cancel()
		}
	})
	_, err := fsOn(t, dir).repoScan(ctx, repoScanParams{})
	if took := time.Since(stopped); fsCode(err) != "REQUEST_CANCELLED" || took > patience {
		t.Errorf("got %q after %v, want REQUEST_CANCELLED at most %v later", fsCode(err), took, patience)
	}
}

func TestRemoteURLAndBare(t *testing.T) {
	for _, test := range []struct{ text, url, bare string }{
		{"", "", "-"},
		{"[core]\n\tbare = true\n[remote \"origin\"]\n\turl = https://h/r\n", "https://h/r", "true"},
		{"[remote \"a\"]\nurl=1\n[remote \"origin\"]\nurl=2\nurl=3", "2", "-"},
		{"[remote \"a\"]\nurl=1\n[remote \"b\"]\nurl=2", "1", "-"},
		{"[REMOTE \"origin\"] URL = \"a b\" ; c", "a b", "-"},
		{"[remote.origin]\nurl = x # y", "x", "-"},
		{"[remote \"or\\\"i]gin\"]\nurl = x", "x", "-"},
		{"[remote \"origin\"]\nurl = a\\\nb \\t \"c;\"  ", "ab \t c;", "-"},
		{"[core]\nbare\n", "", "true"},
		{"[core]\nbare = FALSE\r\n", "", "false"},
		{"; [remote \"origin\"]\n# url = x\n[remote \"origin", "", "-"},
		{"[include]\npath = /etc/passwd\n[remote \"origin\"]\n\turl = ok\n", "ok", "-"},
	} {
		settings, _ := parseGitConfig(test.text) // variables before a syntax error take effect
		r := &repository{config: settings}
		bare := "-"
		if _, said := r.config.get("core", "", "bare"); said {
			bare = fmt.Sprint(r.config.isTrue("core", "bare"))
		}
		if r.remoteURL() != test.url || bare != test.bare {
			t.Errorf("%q: got %q, %s, want %q, %s", test.text, r.remoteURL(), bare, test.url, test.bare)
		}
	}
}

func TestParseRefFile(t *testing.T) {
	id := strings.Repeat("0123456789", 4)
	for _, test := range []struct{ text, oid, ref string }{
		{id + "\n", id, ""},
		{id + " branch\n", id, ""},
		{"ref: refs/heads/a/b\n", "", "refs/heads/a/b"},
		{"ref:\trefs/heads/x", "", "refs/heads/x"},
		{"ref: ../../etc/passwd", "", ""},
		{"ref: refs/../../../x", "", ""},
		{"ref: refs/heads/.git-daemon.x", "", ""},
		{"", "", ""},
		{"root:x:0:0", "", ""},
	} {
		if oid, ref := parseRefFile(test.text); oid != test.oid || ref != test.ref {
			t.Errorf("%q: got %q, %q, want %q, %q", test.text, oid, ref, test.oid, test.ref)
		}
	}
}

func TestParseGitFile(t *testing.T) {
	for text, want := range map[string]string{
		"gitdir: ../.git/worktrees/x\n": "../.git/worktrees/x", "gitdir: /a b\r\n": "/a b", "gitdir: ": "", "gitdir:x": "", "": "", "gitdir: a\nb\n": "", "gitdir: a\x00": "",
	} {
		if got := parseGitFile(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzCommitTime(f *testing.F) {
	f.Add("tree x\ncommitter c <c@h> 1234567890 +0200\n\nmessage\n")
	f.Add("committer <> 99999999999999999999 +0\n")
	f.Add("committer c <c@h>\n\ncommitter c <c@h> 1 +0000\n")
	f.Add("tree x\n\ncommitter c <c@h> 1 +0000\n")
	f.Fuzz(func(t *testing.T, commit string) {
		digits := committerSeconds(commit)
		if strings.Trim(digits, "0123456789") != "" || digits != "" && !strings.Contains(commit, "committer ") {
			t.Errorf("%q: got %q, want digits of the committer", commit, digits)
		}
		if shown := wireTime(commitTime(digits)); digits != "" {
			if _, err := time.Parse(time.RFC3339, shown); err != nil {
				t.Errorf("%q: got %q, want a time as in RFC 3339", commit, shown)
			}
		}
		// A line in the message, which anyone may write, is ignored.
		if header, _, found := strings.Cut(commit, "\n\n"); found {
			if alone := committerSeconds(header + "\n\n"); digits != alone {
				t.Errorf("%q: got %q, want %q as without its message", commit, digits, alone)
			}
		}
	})
}

// A broken repository is listed, globbed and searched as far as possible. One
// that leads outside the allowed directories is treated as a plain directory.
func TestRepositoriesThatAreNotWhole(t *testing.T) {
	skipShort(t, "scans dozens of broken repositories")
	t.Parallel()
	for _, test := range []struct {
		name     string
		spoil    func(top, outside string) error
		known    bool // by the scan
		tracked  bool // tracked files are listed although they are ignored
		branch   string
		headless bool
		url      string
	}{
		{"whole", func(string, string) error { return nil }, true, true, "main", false, ""},
		{".git leads outside", func(top, outside string) error {
			return errors.Join(os.Rename(top+"/.git", outside+"/git"), os.Symlink(outside+"/git", top+"/.git"))
		}, false, false, "", false, ""},
		{".git file leads outside", func(top, outside string) error {
			return errors.Join(os.Rename(top+"/.git", outside+"/git"), os.WriteFile(top+"/.git", []byte("gitdir: "+outside+"/git\n"), 0o644))
		}, false, false, "", false, ""},
		{"HEAD is garbage", func(top, _ string) error { return os.WriteFile(top+"/.git/HEAD", []byte("x\n"), 0o644) }, false, false, "", false, ""},
		{"HEAD of a reftable", func(top, _ string) error {
			return os.WriteFile(top+"/.git/HEAD", []byte("ref: refs/heads/.invalid\n"), 0o644)
		}, true, true, "", true, ""},
		{"config is garbage behind the remote", func(top, _ string) error {
			return os.WriteFile(top+"/.git/config", []byte("[remote \"origin\"]\nurl = https://u:p@example.org/x\n[core\n"), 0o644)
		}, true, true, "main", false, "https://example.org/x"},
		{"objects borrowed outside", func(top, outside string) error {
			return errors.Join(os.Mkdir(outside+"/objects", 0o755), os.WriteFile(top+"/.git/objects/info/alternates", []byte(outside+"/objects\n"), 0o644))
		}, true, true, "main", false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, outside := realTempDir(t), realTempDir(t)
			top := dir + "/r"
			head := fsRepo(t, top, map[string]string{"tracked.log": "foo", "a": "foo"})
			writeFiles(t, top, map[string]string{".gitignore": "*.log\n", "x.log": "foo"})
			if err := test.spoil(top, outside); err != nil {
				t.Fatal(err)
			}
			f := fsOn(t, dir)
			want := ".gitignore a"
			if test.tracked {
				want += " tracked.log"
			}
			if got := strings.Join(fsGlobAll(t, f, globParams{pathParam: pathOf(top)}), " "); got != want {
				t.Errorf("glob: %s, want %s", got, want)
			}
			found, err := f.search(t.Context(), searchParams{pathParam: pathOf(top), Pattern: "foo"})
			wantFound := "a:1:1:foo [] []\n"
			if test.tracked {
				wantFound += "tracked.log:1:1:foo [] []\n"
			}
			if err != nil || showMatches(found) != wantFound {
				t.Errorf("search: %q, %v, want %q", showMatches(found), err, wantFound)
			}
			scan, err := f.repoScan(t.Context(), repoScanParams{})
			if err != nil || len(scan.Repos) == 1 != test.known {
				t.Fatalf("scan: %+v, %v, want it found: %v", scan, err, test.known)
			}
			if !test.known {
				return
			}
			r := scan.Repos[0]
			if test.branch == "" && r.Branch != nil || test.branch != "" && (r.Branch == nil || *r.Branch != test.branch) {
				t.Errorf("scan: %s, want the branch %q", showRepo(r), test.branch)
			}
			if test.headless && r.Head != nil || !test.headless && (r.Head == nil || *r.Head != head) {
				t.Errorf("scan: %s, want no head: %v", showRepo(r), test.headless)
			}
			if test.url == "" && r.RemoteURL != nil || test.url != "" && (r.RemoteURL == nil || *r.RemoteURL != test.url) {
				t.Errorf("scan: %s, want the URL %q", showRepo(r), test.url)
			}
		})
	}
}
