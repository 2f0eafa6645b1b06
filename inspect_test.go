package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sampleRepo is a real repository for the tests of the inspector, made by the
// system's git that reads nobody's configuration.
type sampleRepo struct {
	t   testing.TB
	dir string
	env []string // further environment
}

// newSampleRepo makes an empty repository with the branch main.
func newSampleRepo(t testing.TB, dir string, initArgs ...string) *sampleRepo {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &sampleRepo{t: t, dir: dir}
	r.git(append([]string{"init", "-q", "-b", "main"}, initArgs...)...)
	return r
}

// git runs git in the repository and returns its output as it is.
func (r *sampleRepo) git(args ...string) string {
	r.t.Helper()
	return r.gitInput("", args...)
}

func (r *sampleRepo) gitInput(stdin string, args ...string) string {
	r.t.Helper()
	cmd := r.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("git %q: %v\n%s", args, err, stderr.String())
	}
	return stdout.String()
}

func (r *sampleRepo) command(args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_NO_LAZY_FETCH=1",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.org", "GIT_AUTHOR_DATE=2024-05-06T07:08:09+02:00",
		"GIT_COMMITTER_NAME=Bob", "GIT_COMMITTER_EMAIL=bob@example.org", "GIT_COMMITTER_DATE=2024-05-06T07:08:10+02:00",
	}
	cmd.Env = append(cmd.Env, r.env...)
	return cmd
}

// write puts a file into the work tree.
func (r *sampleRepo) write(name, content string) {
	r.t.Helper()
	path := filepath.Join(r.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// commit commits the whole work tree and returns the commit's id.
func (r *sampleRepo) commit(message string) string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
	return strings.TrimSpace(r.git("rev-parse", "HEAD"))
}

// resolvedTempDir is t.TempDir with its links resolved, as git prints paths.
func resolvedTempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// newTestInspector inspects below the allowed directories.
func newTestInspector(t testing.TB, allowed ...string) *inspector {
	t.Helper()
	a, err := openAccess(allowed, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	git := newGitRunner(os.Getenv, "")
	return newInspector(git, a, newRemotes(git, a, &credentials{}, nil), slog.New(slog.DiscardHandler))
}

// at makes the params of a path.
func at(path string) pathParam { return pathParam{Path: path} }

// asJSON is a value as the caller gets it.
func asJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// wantFailure checks the code that an error crosses the wire with.
func wantFailure(t testing.TB, err error, code errorCode) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", code)
	}
	e, ok := errors.AsType[*rpcError](err)
	if !ok || e.name() != code {
		t.Fatalf("error %v (%+v), want %s", err, asRPCError(err), code)
	}
}

// wantInvalid checks for -32602 that names the parameter.
func wantInvalid(t testing.TB, err error, param string) {
	t.Helper()
	e, ok := errors.AsType[*rpcError](err)
	if !ok || e.Code != codeInvalidParams || e.Data["param"] != param {
		t.Fatalf("error %v, want invalid params for %s", err, param)
	}
}

func TestInfoOfAnEditedRepository(t *testing.T) {
	dir := resolvedTempDir(t)
	origin := newSampleRepo(t, filepath.Join(dir, "origin"))
	origin.write("a.txt", "a\n")
	origin.write("sub/b.txt", "b\n")
	first := origin.commit("first")
	clone := &sampleRepo{t: t, dir: dir}
	clone.git("clone", "-q", origin.dir, "clone")
	clone.dir = filepath.Join(dir, "clone")
	clone.git("remote", "set-url", "origin", "https://oauth2:s3cret@example.org/x.git")
	clone.write("c.txt", "c\n")
	head := clone.commit("second\n\nwith a body")
	clone.write("a.txt", "changed\n")
	clone.write("staged.txt", "s\n")
	clone.git("add", "staged.txt")
	clone.write("untracked/u.txt", "u\n")

	i := newTestInspector(t, dir)
	for _, path := range []string{clone.dir, filepath.Join(clone.dir, "sub"), filepath.Join(clone.dir, "sub", "b.txt")} {
		got, err := i.info(t.Context(), infoParams{at(path)})
		if err != nil {
			t.Fatal(err)
		}
		ahead, behind := 1, 0
		name := func(s string) *string { return &s }
		want := infoResult{
			Path: clone.dir, Head: &head, Branch: name("main"), DefaultBranch: name("main"),
			Remotes: []remoteInfo{{"origin", "https://example.org/x.git"}},
			Dirty:   &dirtyCounts{Staged: 1, Unstaged: 1, Untracked: 1}, Ahead: &ahead, Behind: &behind,
			LastCommit: &commitEntry{
				OID: head, Parents: []string{first}, Subject: "second", Body: "with a body",
				Author:    commitPerson{"Ada", "ada@example.org", "2024-05-06T05:08:09Z"},
				Committer: commitPerson{"Bob", "bob@example.org", "2024-05-06T05:08:10Z"},
			},
		}
		if asJSON(t, got) != asJSON(t, want) {
			t.Errorf("info of %s: %s\nwant %s", path, asJSON(t, got), asJSON(t, want))
		}
	}
	if strings.Contains(asJSON(t, must(i.info(context.Background(), infoParams{at(clone.dir)}))), "s3cret") {
		t.Error("the answer has the remote's token")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// mayFail runs git where a conflict is what is wanted.
func (r *sampleRepo) mayFail(args ...string) {
	r.t.Helper()
	if err := r.command(args...).Run(); err == nil {
		r.t.Fatalf("git %q went well", args)
	}
}
