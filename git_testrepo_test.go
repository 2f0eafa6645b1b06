package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// testGitEnv returns the environment of the tests' own git commands: without a
// user's configuration, without access to servers, and with a fixed time.
func testGitEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.org", "GIT_AUTHOR_DATE=2024-05-06T07:08:09+02:00",
		"GIT_COMMITTER_NAME=Bob", "GIT_COMMITTER_EMAIL=bob@example.org", "GIT_COMMITTER_DATE=2024-05-06T07:08:10+02:00",
		"GIT_ALLOW_PROTOCOL=file",
		"GIT_NO_LAZY_FETCH=1",
		"LC_ALL=C",
	}
}

// testRepo is a real repository with a work tree and the branch main.
type testRepo struct {
	t   testing.TB
	dir string
	env []string // additional environment
}

// newTestRepo creates a repository in a temporary directory. The files become
// its first commit; with nil it has no commits.
func newTestRepo(t testing.TB, files map[string]string) *testRepo {
	t.Helper()
	return newTestRepoAt(t, filepath.Join(realTempDir(t), "repo"), files)
}

// newTestRepoAt is newTestRepo in the directory dir.
func newTestRepoAt(t testing.TB, dir string, files map[string]string, initArgs ...string) *testRepo {
	t.Helper()
	needsGit(t)
	r := &testRepo{t: t, dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git(append([]string{"init", "-q", "-b", "main", "--template="}, initArgs...)...)
	if files != nil {
		r.commit("first", files)
	}
	return r
}

// realTempDir returns t.TempDir with symlinks resolved, as git prints paths.
func realTempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (r *testRepo) command(args ...string) *exec.Cmd {
	cmd := exec.Command("git", append([]string{"-c", "gc.auto=0", "-c", "maintenance.auto=false"}, args...)...)
	cmd.Dir, cmd.Env = r.dir, append(testGitEnv(), r.env...)
	return cmd
}

// git runs git in the repository and returns its trimmed output; it must
// succeed.
func (r *testRepo) git(args ...string) string {
	r.t.Helper()
	return strings.TrimSpace(r.output("", args...))
}

// output runs git with standard input and returns its output unchanged.
func (r *testRepo) output(stdin string, args ...string) string {
	r.t.Helper()
	needsGit(r.t)
	out, err := r.tryGit(stdin, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// tryGit is output for a command that may fail.
func (r *testRepo) tryGit(stdin string, args ...string) (string, error) {
	cmd := r.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %q: %w\n%s", args, err, stderr.String())
	}
	return stdout.String(), nil
}

// mayFail runs git and ignores its failure, such as a conflict that the test
// needs.
func (r *testRepo) mayFail(args ...string) {
	r.t.Helper()
	if _, err := r.tryGit("", args...); err == nil {
		r.t.Fatalf("git %q went well, want it to fail", args)
	}
}

// write writes a file in the work tree; name has slashes.
func (r *testRepo) write(name, content string) {
	r.t.Helper()
	writeFiles(r.t, r.dir, map[string]string{name: content})
}

// commit writes files, commits everything and returns the commit id.
func (r *testRepo) commit(message string, files map[string]string) string {
	r.t.Helper()
	writeFiles(r.t, r.dir, files)
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
	return r.head()
}

// streamFile is one change of a commit in an importStream: the content of a
// file, the id of a submodule's commit, or a deletion where mode is empty.
type streamFile struct{ mode, name, content string }

// importStream is the input of git fast-import: one process writes any number of
// commits, trees and blobs (git-fast-import(1), "Input Format").
type importStream struct{ strings.Builder }

// commit adds a commit to a branch. The parents are marks (":1") or names; an
// empty first parent makes a root commit.
func (s *importStream) commit(ref, mark, message, parent, merged string, files []streamFile) {
	fmt.Fprintf(s, "commit %s\nmark %s\nauthor Ada <ada@example.org> 1714972089 +0200\ncommitter Bob <bob@example.org> 1714972090 +0200\n", ref, mark)
	s.data(message + "\n")
	if parent != "" {
		fmt.Fprintf(s, "from %s\n", parent)
	}
	if merged != "" {
		fmt.Fprintf(s, "merge %s\n", merged)
	}
	for _, f := range files {
		name := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(f.name) + `"`
		switch f.mode {
		case "":
			fmt.Fprintf(s, "D %s\n", name)
		case modeSubmodule:
			fmt.Fprintf(s, "M %s %s %s\n", f.mode, f.content, name)
		default:
			fmt.Fprintf(s, "M %s inline %s\n", f.mode, name)
			s.data(f.content)
		}
	}
	s.WriteByte('\n')
}

func (s *importStream) data(content string) { fmt.Fprintf(s, "data %d\n%s\n", len(content), content) }

// head returns the commit id of HEAD.
func (r *testRepo) head() string {
	r.t.Helper()
	return r.git("rev-parse", "HEAD")
}

// gitIn runs git in any directory.
func gitIn(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return (&testRepo{t: t, dir: dir}).git(args...)
}

// writeFiles writes files below dir. Names have slashes; a name with a trailing
// slash is a directory.
func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		parent := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			parent = path
		}
		if err := os.MkdirAll(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		if parent == path {
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// writeProgram writes a shell script that can be run at once. A process that is
// forked while the file is open for writing would keep it open until it runs its
// own program, and running a file that is open for writing fails (ETXTBSY in
// execve(2)); so nothing is forked meanwhile.
func writeProgram(t testing.TB, path, script string) {
	t.Helper()
	needsShell(t)
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
}

// wantFailure checks the code of an error on the wire.
func wantFailure(t testing.TB, err error, code errorCode) {
	t.Helper()
	if err == nil || asRPCError(err).name() != code {
		t.Errorf("got %v (%+v), want %s", err, asRPCError(err), code)
	}
}

// wantGitFailure checks that an error is GIT_FAILED with the reason.
func wantGitFailure(t testing.TB, err error, reason gitReason) {
	t.Helper()
	wantFailure(t, err, codeGitFailed)
	if got := asRPCError(err).Data["reason"]; got != reason {
		t.Errorf("got %v with the reason %v, want %s", err, got, reason)
	}
}

// wantInvalid checks that an error is -32602 for the parameter.
func wantInvalid(t testing.TB, err error, param string) {
	t.Helper()
	if e := asRPCError(err); err == nil || e.Code != codeInvalidParams || e.Data["param"] != param {
		t.Errorf("got %v, want invalid params for %s", err, param)
	}
}

// treeState describes a clone: branch, commit, status and every file.
func treeState(t *testing.T, dir string) string {
	t.Helper()
	repo := &testRepo{t: t, dir: dir}
	head, err := os.ReadFile(filepath.Join(dir, ".git", "HEAD"))
	if err != nil {
		t.Fatal(err)
	}
	state := []string{strings.TrimSpace(string(head)), repo.git("rev-parse", "HEAD"), repo.git("status", "--porcelain", "--ignored"), repo.git("for-each-ref")}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == ".git" && d.IsDir() {
			return filepath.SkipDir
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		state = append(state, path+": "+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	repo.git("fsck", "--connectivity-only")
	return strings.Join(state, "\n")
}

// noise is a text of n bytes that does not get smaller.
func noise(n int) string {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // it never fails
	return string(data)
}
