package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A pool's daemon reads its own work dir and what is allowed, and nothing else
// of the workspace that lies below an allowed directory.
func TestDeniedPathsBelowAnAllowedDirectory(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{
		"f": "needle\n", "ws/b/daemon.log": "needle\n", "ws/b/plain/f": "needle\n", "ws/libraries.json": "needle\n", "keys/token": "needle\n", "keys/other": "needle\n",
		"ws/a/own/f": "needle\n",
	})
	newTestRepoAt(t, top+"/ws/b/repos/r", map[string]string{"f": "needle\n"})
	newTestRepoAt(t, top+"/ws/a/repos/r", map[string]string{"f": "needle\n"})
	newTestRepoAt(t, top+"/around", map[string]string{"f": "needle\n"})
	symlinks(t, map[string]string{
		top + "/to-b": top + "/ws/b", top + "/to-ws": "ws", top + "/to-token": "keys/token", top + "/ws/a/up": "../b", top + "/to-own": "ws/a/own", top + "/alias": "/" + filepath.Base(top),
	})
	if err := errors.Join(os.Link(top+"/keys/token", top+"/hard"), os.Link(top+"/keys/token", top+"/ws/a/hard")); err != nil {
		t.Fatal(err)
	}
	for _, repository := range []bool{false, true} {
		if repository {
			gitIn(t, top, "init", "-q")
		}
		a := accessOn(t, true, top+"/ws/a", top)
		for _, path := range []string{top + "/ws", top + "/keys/token", top + "/keys/none"} {
			a.deny(path)
		}
		f, g := newFSService(a, newGitRunner(os.Getenv, ""), slog.New(slog.DiscardHandler)), newGitRunner(os.Getenv, "")
		methods := map[string]*method{}
		for _, m := range slices.Concat(f.methods(), newGitReader(g, a, nil, f.log).methods()) {
			methods[m.name] = m
		}
		w := &pathWorld{methods: methods, allowed: top, box: top, outside: top + "/none", work: top + "/ws/a"}
		outside := asJSON(t, denied())
		for _, path := range []string{
			top + "/ws", top + "/ws/", top + "/ws/b", top + "/ws/b/daemon.log", top + "/ws/b/repos/r", top + "/ws/none", top + "/ws/libraries.json", top + "/ws/a/../b/plain/f",
			top + "/to-b", top + "/to-b/plain/f", top + "/to-ws/b/daemon.log", top + "/to-ws/none", top + "/ws/a/up/daemon.log", "up/plain", "../b",
			top + "/keys/token", top + "/keys/none", top + "/to-token", top + "/hard", "hard", top + "/keys/token/x",
		} {
			w.askDenied(t, path, outside)
		}
		for _, path := range []string{top + "/ws/a/own/f", "own/f", top + "/to-own/f", top + "/to-ws/a/own/f", top + "/keys/other"} {
			if _, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(path)}); err != nil {
				t.Errorf("%s: want its content, got %v", path, err)
			}
		}
		paths, skipped := walkedPaths(t, f, top)
		for walk, got := range paths {
			for _, path := range got {
				if strings.HasPrefix(path, "ws/") || path == "hard" || path == "keys/token" {
					t.Errorf("repository %v: %s: want nothing that is denied, got %s", repository, walk, path)
				}
			}
			if walk != "repoScan" && (!slices.Contains(got, "f") || !slices.Contains(got, "keys/other")) {
				t.Errorf("repository %v: %s: want f and keys/other, got %q", repository, walk, got)
			}
			if skipped[walk] != 0 {
				t.Errorf("repository %v: %s: want nothing counted, got %d", repository, walk, skipped[walk])
			}
		}
		for _, dir := range []string{top, top + "/keys", top + "/ws/a"} {
			list, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir)})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list.Entries {
				if slices.Contains([]string{"ws", "token", "hard"}, e.Name) || e.Target != "" && strings.Contains(e.Name, "b") {
					t.Errorf("%s: want nothing that is denied, got %+v", dir, e)
				}
			}
		}
		if repository {
			info, err := methods["vcs/info"].call(t.Context(), json.RawMessage(`{"path":"`+top+`"}`))
			if err != nil {
				t.Fatal(err)
			}
			// alias, around/, f, hard, keys/, to-b, to-own, to-token, to-ws; and not ws/.
			if got := info.(infoResult).Dirty.Untracked; got != 9 {
				t.Errorf("vcs/info: want 9 untracked entries, got %d", got)
			}
		}
		all, err := f.repoScan(t.Context(), repoScanParams{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all.Repos {
			if strings.Contains(r.Path, "/ws/b/") {
				t.Errorf("a scan of everything: want no neighbour's repository, got %s", r.Path)
			}
		}
	}
}

// askDenied calls every method of w for a path, and wants the answer for a path
// outside.
func (w *pathWorld) askDenied(t *testing.T, path, outside string) {
	t.Helper()
	for name, params := range map[string]map[string]any{
		"fs/repoScan": {"paths": []string{path}}, "fs/listDir": {"path": path}, "fs/stat": {"path": path}, "fs/readFile": {"path": path}, "fs/glob": {"path": path},
		"fs/search": {"path": path, "pattern": "needle"}, "index/manifest": {"path": path}, "index/readBlobs": {"path": path, "files": []string{"f"}}, "vcs/info": {"path": path}, "vcs/refs": {"path": path}, "vcs/log": {"path": path}, "vcs/diff": {"path": path}, "vcs/blame": {"path": path, "file": "f"},
	} {
		data, err := json.Marshal(params)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := w.methods[name].call(t.Context(), data)
		if err == nil {
			t.Errorf("%s %s: want it denied, got %s", name, path, asJSON(t, answer))
		} else if got := asJSON(t, asRPCError(err)); got != outside {
			t.Errorf("%s %s: want %s, got %s", name, path, outside, got)
		}
	}
}

// The paths reach a pool's daemon exactly, whatever bytes they hold.
func TestDeniedVariable(t *testing.T) {
	want := []string{"/a b", "/c,d", "/\xff\"\n"}
	name, value, _ := strings.Cut(formatDenied(want), "=")
	got, err := parseDenied(value)
	if name != deniedVariable || err != nil || !slices.Equal(got, want) {
		t.Errorf("want %q, got %q in %s, %v", want, got, name, err)
	}
	if _, err := parseDenied("x"); err == nil {
		t.Error("want an error for what is no JSON, got none")
	}
}

// The daemon's own files are denied in every method under the names that they
// bear while they are written, too.
func TestOwnFilesAreDeniedUnderTemporaryNames(t *testing.T) {
	needsGit(t)
	skipShort(t, "it takes about a second")
	t.Parallel()
	const secretText = "needle-token"
	names := []string{"..git-daemon.credentials.tmp-123", ".git-daemon.credentials.lock", ".git-daemon.credentials.tmp-1", "...Git-Daemon.config.x", "..GIT-DAEMON.CREDENTIALS.TMP-9"}
	for _, repository := range []bool{false, true} {
		dir := realTempDir(t)
		writeFiles(t, dir, map[string]string{"f": secretText, "git-daemon.txt": secretText, ".x.git-daemon.txt": secretText})
		for _, name := range names {
			writeFiles(t, dir, map[string]string{name: secretText, "sub/" + name: secretText, "deep/" + name + "/f": secretText})
		}
		if repository {
			gitIn(t, dir, "init", "-q")
			gitIn(t, dir, "add", "-f", ".")
			gitIn(t, dir, "commit", "-q", "-m", "by mistake")
			for _, name := range names {
				writeFiles(t, dir, map[string]string{"untracked/" + name: secretText})
			}
		}
		a := accessOn(t, true, dir)
		f, g := newFSService(a, newGitRunner(os.Getenv, ""), slog.New(slog.DiscardHandler)), newTestGitReader(t, dir)
		methods := map[string]*method{}
		for _, m := range slices.Concat(f.methods(), g.methods()) {
			methods[m.name] = m
		}
		w := &pathWorld{methods: methods}
		for _, name := range names {
			for _, path := range []string{dir + "/" + name, dir + "/sub/" + name, dir + "/deep/" + name + "/f", dir + "/none/" + name} {
				w.askDenied(t, path, asJSON(t, denied()))
			}
		}
		paths, _ := walkedPaths(t, f, dir)
		for walk, got := range paths {
			if want := []string{".x.git-daemon.txt", "f", "git-daemon.txt"}; walk != "search" && walk != "repoScan" && !slices.Equal(got, want) {
				t.Errorf("repository %v: %s: want %q, got %q", repository, walk, want, got)
			}
		}
		found, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: secretText})
		if err != nil || len(found.Matches) != 3 {
			t.Errorf("repository %v: search: want 3 matches, got %+v, %v", repository, found, err)
		}
		list, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir)})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Entries {
			if slices.Contains(names, e.Name) {
				t.Errorf("repository %v: listDir: want no file of the daemon, got %s", repository, e.Name)
			}
		}
		if !repository {
			continue
		}
		manifest := asJSON(t, mustCall(t, methods["index/manifest"], map[string]any{"path": dir}))
		if strings.Contains(strings.ToLower(manifest), "/.git-daemon") || strings.Contains(manifest, "tmp-") {
			t.Errorf("index/manifest: want none of the daemon's files, got %s", manifest)
		}
		for _, name := range names {
			data := json.RawMessage(`{"path":` + asJSON(t, dir) + `,"files":[` + asJSON(t, "sub/"+name) + `]}`)
			if _, err := methods["index/readBlobs"].call(t.Context(), data); fsCode(err) != string(codeAccessDenied) {
				t.Errorf("index/readBlobs %s: want it denied, got %v", name, err)
			}
		}
	}
}

// mustCall calls a method and returns its result.
func mustCall(t *testing.T, m *method, params map[string]any) any {
	t.Helper()
	data, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	result, err := m.call(t.Context(), data)
	if err != nil {
		t.Fatalf("%s %s: %v", m.name, data, err)
	}
	return result
}

// A denied path covers what lies below it, and no neighbour whose name begins the
// same.
func TestDeniedPathsNeighbours(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"token": "secret", "token2": "x", "keys/a": "secret", "keys.txt": "x", "keysmith/b": "x"})
	a, err := openAccess([]string{dir}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	a.deny(filepath.Join(dir, "token"))
	a.deny(filepath.Join(dir, "keys"))
	for name, denied := range map[string]bool{"token": true, "keys": true, "keys/a": true, "keys/none": true, "token2": false, "keys.txt": false, "keysmith/b": false} {
		_, err := a.resolvePath(filepath.Join(dir, name))
		if got := err != nil && asRPCError(err).name() == codeAccessDenied; got != denied || err != nil && !denied {
			t.Errorf("%s: got %v, want it denied: %v", name, err, denied)
		}
	}
	for path, want := range map[string]bool{"/": true, "/a": true, "/a/b": true, "/ab": true} {
		if got := isWithin("/", path); got != want {
			t.Errorf("%s within /: got %v, want %v", path, got, want)
		}
	}
}
