package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fsGit runs git in dir with a fixed identity and date, and nothing of the
// user's configuration.
func fsGit(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.org",
		"GIT_AUTHOR_DATE=1000000000 +0000", "GIT_COMMITTER_DATE=1234567890 +0200", "GIT_ALLOW_PROTOCOL=file",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// fsRepo makes a repository with one commit at dir.
func fsRepo(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fsGit(t, dir, "init", "-q", "-b", "main")
	fsWrite(t, dir, files)
	fsGit(t, dir, "add", "-A")
	fsGit(t, dir, "commit", "-q", "--allow-empty", "-m", "first")
	return fsGit(t, dir, "rev-parse", "HEAD")
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
	dir := fsReal(t)
	const at = "2009-02-13T23:31:30Z"
	head := fsRepo(t, dir+"/a/work", map[string]string{"f": "x"})
	fsGit(t, dir+"/a/work", "remote", "add", "other", "https://example.org/other")
	fsGit(t, dir+"/a/work", "remote", "add", "origin", "https://user:s3cret@example.org/work.git")
	fsRepo(t, dir+"/a/work/nested", nil) // inside a repository: not looked for
	fsGit(t, dir, "clone", "-q", "--bare", dir+"/a/work", "bare.git")
	fsGit(t, dir, "clone", "-q", "--depth=1", "file://"+dir+"/a/work", "shallow")
	fsGit(t, dir+"/shallow", "checkout", "-q", "--detach")
	fsGit(t, dir+"/a/work", "worktree", "add", "-q", "-b", "side", dir+"/tree")
	fsGit(t, dir+"/a/work", "pack-refs", "--all")
	fsGit(t, dir+"/a/work", "gc", "-q")
	fsGit(t, dir, "init", "-q", "-b", "trunk", "unborn")
	fsGit(t, dir, "init", "-q", "-b", "main", "--object-format=sha256", "sha256")
	fsGit(t, dir+"/sha256", "commit", "-q", "--allow-empty", "-m", "x")
	long := fsGit(t, dir+"/sha256", "rev-parse", "HEAD")
	fsRepo(t, dir+"/a/skip/r", nil)
	fsRepo(t, dir+"/1/2/3/deep", nil)
	fsWrite(t, dir, map[string]string{"broken/.git/x": "", "broken/file": "", "lie/.git": "gitdir: /etc\n", "half/HEAD": "ref: refs/heads/x\n", "half/objects/": "", "half/refs": "a file"})
	outside := fsReal(t)
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
		t.Error("truncated")
	}

	if got, err = f.repoScan(t.Context(), repoScanParams{Limit: new(2)}); err != nil || len(got.Repos) != 2 || !got.Truncated {
		t.Errorf("limit 2: %+v, %v", got, err)
	}
	// One start inside the other's tree: each repository once.
	if got, err = f.repoScan(t.Context(), repoScanParams{Paths: []string{dir, dir + "/a", dir + "/a/work", dir + "/1/2/3/deep"}}); err != nil || len(got.Repos) != 8 {
		t.Errorf("nested starts: %d, %v", len(got.Repos), err)
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
	dir, outside := fsReal(t), fsReal(t)
	fsRepo(t, outside+"/r", nil)
	fsGit(t, dir, "clone", "-q", "--shared", outside+"/r", "r")
	got, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{})
	if err != nil || len(got.Repos) != 1 || got.Repos[0].Head == nil || got.Repos[0].LastCommitAt != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err = fsOn(t, dir, outside).repoScan(t.Context(), repoScanParams{Paths: []string{dir}}); err != nil || got.Repos[0].LastCommitAt == nil {
		t.Errorf("allowed: got %+v, %v", got, err)
	}
}

// A corrupt object in one repository costs the others nothing.
func TestRepoScanCorrupt(t *testing.T) {
	dir := fsReal(t)
	for i := range 7 {
		head := fsRepo(t, fmt.Sprintf("%s/r%d", dir, i), map[string]string{"f": fmt.Sprint(i)})
		if i == 3 {
			object := fmt.Sprintf("%s/r%d/.git/objects/%s/%s", dir, i, head[:2], head[2:])
			data, err := os.ReadFile(object)
			if err == nil {
				// Its header can be read, the rest cannot: git gives up at that.
				err = errors.Join(os.Remove(object), os.WriteFile(object, data[:len(data)*2/3], 0o644))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{})
	if err != nil || len(got.Repos) != 7 {
		t.Fatal(got, err)
	}
	for i, r := range got.Repos {
		if (r.LastCommitAt == nil) != (i == 3) {
			t.Errorf("%s: %v", r.Name, r.LastCommitAt)
		}
	}
}

// What a repository's configuration names is not run.
func TestRepoScanHostileConfig(t *testing.T) {
	dir := fsReal(t)
	fsRepo(t, dir+"/r", nil)
	marker := filepath.Join(t.TempDir(), "ran")
	for _, key := range []string{"core.fsmonitor", "core.sshCommand", "core.pager", "core.alternateRefsCommand", "alias.cat-file"} {
		fsGit(t, dir+"/r", "config", key, "!touch "+marker)
	}
	got, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{})
	if err != nil || len(got.Repos) != 1 || got.Repos[0].LastCommitAt == nil {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a command of the repository's configuration ran")
	}
}

func TestRepoScanCancelled(t *testing.T) {
	dir := fsReal(t)
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
	if took := time.Since(stopped); fsCode(err) != "REQUEST_CANCELLED" || took > time.Second {
		t.Errorf("got %q after %v", fsCode(err), took)
	}
}

func TestParseRepoConfig(t *testing.T) {
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
		c := parseRepoConfig(test.text)
		bare := "-"
		if c.bare != nil {
			bare = fmt.Sprint(*c.bare)
		}
		if c.remoteURL != test.url || bare != test.bare {
			t.Errorf("%q: got %q, %s", test.text, c.remoteURL, bare)
		}
	}
}

func TestParseHead(t *testing.T) {
	id := strings.Repeat("0123456789", 4)
	for _, test := range []struct {
		text, oid, ref string
		ok             bool
	}{
		{id + "\n", id, "", true},
		{id + " branch\n", id, "", true},
		{"ref: refs/heads/a/b\n", "", "refs/heads/a/b", true},
		{"ref:\trefs/heads/x", "", "refs/heads/x", true},
		{"ref: ../../etc/passwd", "", "../../etc/passwd", false},
		{"ref: refs/../../../x", "", "refs/../../../x", false},
		{"ref: refs/heads/.git-daemon.x", "", "refs/heads/.git-daemon.x", false},
		{"", "", "", false},
		{"root:x:0:0", "root:x:0:0", "", false},
	} {
		oid, ref, ok := parseHead(test.text)
		if oid != test.oid || ref != test.ref || ok != test.ok {
			t.Errorf("%q: got %q, %q, %v", test.text, oid, ref, ok)
		}
	}
}

func FuzzParseRepoConfig(f *testing.F) {
	f.Add("[core]\n\tbare = true\n[remote \"origin\"]\n\turl = \"https://h/r\" # x\n")
	f.Add("[remote \"a\\\"\"]url=\\\n\\")
	f.Add("[[\"")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseRepoConfig(text)
		if len(c.remoteURL) > len(text) {
			t.Errorf("a value longer than the file: %q", c.remoteURL)
		}
		if oid, ref, ok := parseHead(text); ok && (oid == "") == (ref == "") {
			t.Errorf("HEAD %q: %q, %q", text, oid, ref)
		}
	})
}

// However the output is cut into pieces, the times are the same.
func FuzzCommitTimes(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add([]byte(id+" commit 41\ntree x\ncommitter c <c@h> 1234567890 +0200\n\n"+id+" missing\n"), 3)
	f.Add([]byte(id+" commit 99999999999999999999\n"), 1)
	f.Add([]byte(id+" tree 0\n\n"), 2)
	f.Fuzz(func(t *testing.T, out []byte, step int) {
		var whole, pieces commitTimes
		_, err := whole.Write(out)
		var err2 error
		for rest := out; len(rest) > 0 && err2 == nil; {
			n := min(max(step, 1), len(rest))
			_, err2 = pieces.Write(rest[:n])
			rest = rest[n:]
		}
		if (err == nil) != (err2 == nil) || err == nil && len(whole.found) != len(pieces.found) {
			t.Fatalf("whole %v %v, pieces %v %v", whole.found, err, pieces.found, err2)
		}
		for i, at := range whole.found {
			if err == nil && (at == nil) != (pieces.found[i] == nil) {
				t.Errorf("object %d: %v, %v", i, at, pieces.found[i])
			}
		}
	})
}
