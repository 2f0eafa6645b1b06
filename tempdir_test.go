//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTemporaryFilesWithoutTMPDIR: where TMPDIR is missing or not writable, the
// work dir takes the temporary files, and no method shows them.
func TestTemporaryFilesWithoutTMPDIR(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	file := filepath.Join(realTempDir(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	server := newGitServer(t)
	server.repo("lib", map[string]string{"README.md": "hello\n"})
	for _, temp := range []string{"/no/such/directory", file, "no-such-relative", "."} {
		_, url := startSchedulerProcess(t, []string{"TMPDIR=" + temp})
		for _, call := range []struct{ method, params, want string }{
			{"vcs/clone", `{"url":"` + server.address("lib") + `"}`, `"commit"`},
			{"fs/search", `{"path":"repos/lib","pattern":"hello"}`, "README.md"},
			{"fs/search", `{"path":".","pattern":"hello"}`, "README.md"},
			{"fs/glob", `{"path":"repos/lib","pattern":"**"}`, "README.md"},
			{"fs/repoScan", `{"path":"."}`, `"last_commit_at":"2`},
			{"index/manifest", `{"path":"repos/lib"}`, "README.md"},
			{"vcs/info", `{"path":"repos/lib"}`, `"branch"`},
			{"vcs/log", `{"path":"repos/lib"}`, `"commits"`},
		} {
			_, a := callRPC(t, url+"/libraries/demo", call.method, call.params)
			if a.Error != nil || !strings.Contains(string(a.Result), call.want) {
				t.Errorf("TMPDIR=%s: %s %s: got %s %v, want %s", temp, call.method, call.params, a.Result, a.Error, call.want)
			}
		}
		for _, call := range []struct{ method, params string }{
			{"fs/listDir", `{"path":".","recursive":true}`}, {"fs/glob", `{"path":".","pattern":"**","respect_gitignore":false}`},
		} {
			_, a := callRPC(t, url+"/libraries/demo", call.method, call.params)
			if a.Error != nil || strings.Contains(string(a.Result), tempFallback) {
				t.Errorf("%s: got %s %v, want a result without %s", call.method, a.Result, a.Error, tempFallback)
			}
		}
		if _, a := callRPC(t, url+"/libraries/demo", "fs/stat", `{"path":"`+tempFallback+`"}`); a.Error == nil {
			t.Errorf("fs/stat of the temporary directory: got %s, want an error", a.Result)
		}
	}
}

// TestNoDirectoryForTemporaryFiles: where neither TMPDIR nor a work dir takes
// temporary files, the start and --check say so in one sentence, and files are
// served.
func TestNoDirectoryForTemporaryFiles(t *testing.T) {
	t.Parallel()
	allowed := realTempDir(t)
	if err := os.WriteFile(filepath.Join(allowed, "a"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, url := startSchedulerProcess(t, nil)
	env := []string{"TMPDIR=/no/such"}
	d := startUserDaemon(t, url, "m", env, "--allow", allowed)
	if line := d.says("temporary files"); !strings.Contains(line, "/no/such") || !strings.Contains(line, "set TMPDIR to a writable directory") {
		t.Errorf("got %q, want the directory and what to do", line)
	}
	if _, a := callRPC(t, url+"/machines/m", "fs/readFile", `{"path":"`+allowed+`/a"}`); a.Error != nil {
		t.Errorf("fs/readFile: got %v, want the content", a.Error)
	}
	if _, a := callRPC(t, url+"/machines/m", "fs/search", `{"path":"`+allowed+`","pattern":"hello"}`); a.Error == nil || !strings.Contains(a.Error.Message, "no directory for temporary files") {
		t.Errorf("fs/search: got %s %v, want the cause", a.Result, a.Error)
	}
	check := start(t, daemonName, env, "--server", url, "--machine-id", "other", "--allow", allowed, "--check")
	if code := check.exit(); code != exitFailure || !strings.Contains(check.stdout.String(), "FAIL temporary files: ") || !strings.Contains(check.stdout.String(), "ok   git: ") {
		t.Errorf("--check: got exit %d and\n%s, want %d, git to be ok and the cause", code, check.stdout, exitFailure)
	}
	call := start(t, schedulerName, env, "call", "demo", "config/get")
	if code := call.exit(); code != exitFailure || !strings.Contains(call.stderr.String(), "set TMPDIR to a writable directory, or --workspace") {
		if strings.Contains(call.stderr.String(), "already listens") || strings.Contains(call.stderr.String(), "querying") {
			t.Skip("something listens on the scheduler's default port of this machine: " + call.stderr.String())
		}
		t.Errorf("call: got exit %d and %s, want %d and what to do", code, call.stderr, exitFailure)
	}
}

// TestTemporaryDirectoriesOfKilledProcesses: a start deletes what killed processes
// have left, and nothing that a process uses or that is not ours.
func TestTemporaryDirectoriesOfKilledProcesses(t *testing.T) {
	t.Parallel()
	temp := realTempDir(t)
	for _, name := range []string{"c4a-inspect-1/refs/heads", "c4a-call-2/lib/repos/x/.git", "c4a-empty-3", "other-4", "c4a-inspect", "c4a-linked"} {
		if err := os.MkdirAll(filepath.Join(temp, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(temp, "c4a-call-2/lib/file"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("c4a-linked", filepath.Join(temp, "c4a-inspect-9")); err != nil {
		t.Fatal(err)
	}
	used, err := makeTempDir(temp, inspectTemp)
	if err != nil {
		t.Fatal(err)
	}
	defer used.remove()
	start(t, daemonName, []string{"TMPDIR=" + temp}, "--server", "127.0.0.1:1").says("trying again")
	gone := func(name string) func() bool {
		return func() bool {
			_, err := os.Lstat(filepath.Join(temp, name))
			return errors.Is(err, fs.ErrNotExist)
		}
	}
	for _, name := range []string{"c4a-inspect-1", "c4a-call-2", "c4a-empty-3"} {
		awaitThat(t, name+" is deleted", gone(name))
	}
	for _, name := range []string{filepath.Base(used.path), "other-4", "c4a-inspect", "c4a-linked", "c4a-inspect-9"} {
		if gone(name)() {
			t.Errorf("%s is gone, want it kept", name)
		}
	}
}

// TestSweepStopsWithItsContext: an ending program does not wait until everything
// is deleted.
func TestSweepStopsWithItsContext(t *testing.T) {
	parent := realTempDir(t)
	for _, name := range []string{"tree/a/b", "tree/c"} {
		if err := os.MkdirAll(filepath.Join(parent, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := removeTree(ctx, root, "tree"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := removeTree(t.Context(), root, "tree"); err != nil {
		t.Error(err)
	}
	if _, err := root.Lstat("tree"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want the tree deleted", err)
	}
	deep := strings.Repeat("d/", 3*maxRemoveDepth)
	if err := root.MkdirAll("deep/"+deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(t.Context(), root, "deep"); err != nil {
		t.Errorf("a deep tree: %v, want it deleted", err)
	}
	// For root it is always deleted.
	if err := errors.Join(root.MkdirAll("locked/in/side", 0o700), root.Chmod("locked/in", 0), root.Chmod("locked", 0o500)); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(t.Context(), root, "locked"); err != nil {
		t.Errorf("a read-only tree: %v, want it deleted", err)
	}
	(&tempDirs{}).sweep(ctx, slog.New(slog.DiscardHandler)) // deletes nothing and returns
}

// TestTMPDIRVanishes: the directory for temporary files may be deleted while a
// daemon runs.
func TestTMPDIRVanishes(t *testing.T) {
	temp, workDir := filepath.Join(realTempDir(t), "temp"), realTempDir(t)
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", temp)
	dirs := &tempDirs{workDir: workDir}
	if err := dirs.probe(); err != nil || dirs.dir() != temp {
		t.Errorf("got %s and %v, want %s", dirs.dir(), err, temp)
	}
	if err := os.RemoveAll(temp); err != nil {
		t.Fatal(err)
	}
	if got := dirs.dir(); got != string(filepath.Separator) {
		t.Errorf("without the directory: got %s, want the root directory", got)
	}
	made, err := dirs.make(inspectTemp)
	if err != nil {
		t.Fatal(err)
	}
	defer made.remove()
	if fallback := filepath.Join(workDir, tempFallback); filepath.Dir(made.path) != fallback || dirs.dir() != fallback {
		t.Errorf("got %s and %s, want them in %s", made.path, dirs.dir(), fallback)
	}
}
