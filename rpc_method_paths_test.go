package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pathWorld is a daemon's methods that take a path, over an allowed directory
// with a repository, a work dir with a stored token, a second allowed
// directory around the work dir, and a repository outside all of them.
type pathWorld struct {
	methods               map[string]*method
	allowed, box, outside string
	work                  string // in box
}

func newPathWorld(t *testing.T) *pathWorld {
	t.Helper()
	top := realTempDir(t)
	w := &pathWorld{methods: map[string]*method{}, allowed: top + "/allowed", box: top + "/box", outside: top + "/outside", work: top + "/box/work"}
	for _, dir := range []string{w.allowed, w.outside} {
		r := newTestRepoAt(t, dir+"/repo", map[string]string{"f": "1"})
		r.commit("second", map[string]string{"f": "2"})
	}
	writeFiles(t, top, map[string]string{"box/work/": "", "allowed/plain/": ""})
	a := accessOn(t, true, w.work, w.allowed, w.box)
	g := newGitRunner(os.Getenv, "")
	creds, err := openCredentials(a, g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := creds.setAuth(t.Context(), setAuthParams{Host: "example.org", Token: json.RawMessage(`"s3cret-token"`)}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	c := newCloner(clonerConfig{git: g, access: a, credentials: creds, base: t.Context(), maxFiles: 1000, maxBytes: 1 << 30, log: log})
	t.Cleanup(c.wait)
	for _, m := range slices.Concat(newFSService(a, g, log).methods(), newGitReader(g, a, c.remotes, log).methods(), c.methods()) {
		w.methods[m.name] = m
	}
	return w
}

// askPath calls a method of w for a path, in every way that it takes one, and
// hands on the outcome.
func (w *pathWorld) askPath(t *testing.T, path string, each func(name string, answer any, err error)) {
	t.Helper()
	encoded := base64.StdEncoding.EncodeToString([]byte(path))
	for _, ask := range []struct {
		method string
		params map[string]any // with the path in it
	}{
		{"fs/repoScan", map[string]any{"paths": []string{w.allowed, path}}},
		{"fs/listDir", map[string]any{"path": path}},
		{"fs/listDir", map[string]any{"path_base64": encoded}},
		{"fs/stat", map[string]any{"path": path}},
		{"fs/stat", map[string]any{"path_base64": encoded}},
		{"fs/stat", map[string]any{"paths": []string{w.allowed, path}}},
		{"fs/readFile", map[string]any{"path": path}},
		{"fs/readFile", map[string]any{"path_base64": encoded}},
		{"fs/glob", map[string]any{"path": path}},
		{"fs/glob", map[string]any{"path": path, "respect_gitignore": false}},
		{"fs/glob", map[string]any{"path_base64": encoded}},
		{"fs/search", map[string]any{"path": path, "pattern": "x"}},
		{"fs/search", map[string]any{"path_base64": encoded, "pattern": "x"}},
		{"index/manifest", map[string]any{"path": path}},
		{"index/manifest", map[string]any{"path_base64": encoded}},
		{"index/readBlobs", map[string]any{"path": path, "files": []string{"f"}}},
		{"index/readBlobs", map[string]any{"path_base64": encoded, "files": []string{"f"}}},
		{"index/diff", map[string]any{"path": path, "from": "HEAD~1"}},
		{"index/diff", map[string]any{"path_base64": encoded, "from": "HEAD~1"}},
		{"vcs/diff", map[string]any{"path": path}},
		{"vcs/diff", map[string]any{"path_base64": encoded, "from": "HEAD~1", "to": "HEAD"}},
		{"vcs/blame", map[string]any{"path": path, "file": "f"}},
		{"vcs/blame", map[string]any{"path_base64": encoded, "file": "f"}},
		{"vcs/info", map[string]any{"path": path}},
		{"vcs/info", map[string]any{"path_base64": encoded}},
		{"vcs/refs", map[string]any{"path": path}},
		{"vcs/refs", map[string]any{"path_base64": encoded}},
		{"vcs/refs", map[string]any{"url": path}},
		{"vcs/log", map[string]any{"path": path}},
		{"vcs/log", map[string]any{"path_base64": encoded}},
		{"vcs/clone", map[string]any{"url": path, "name": "x"}},
		{"vcs/clone", map[string]any{"url": "file://" + path, "name": "x"}},
	} {
		if _, url := ask.params["url"]; url && !filepath.IsAbs(path) {
			continue // no URL
		}
		data, err := json.Marshal(ask.params)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := w.methods[ask.method].call(t.Context(), data)
		each(ask.method+" "+strings.ReplaceAll(string(data), w.allowed, "ALLOWED"), answer, err)
	}
}

// Every method that takes a path returns the same error for all paths that it may
// not read: the response must not show whether a file exists, or its type.
func TestDeniedPathsOfEveryMethod(t *testing.T) {
	t.Parallel()
	w := newPathWorld(t)
	credentials := w.work + "/" + credentialsFileName
	symlinks(t, map[string]string{
		w.allowed + "/out": w.outside, w.allowed + "/out-missing": w.outside + "/none", w.allowed + "/soft": credentials, w.allowed + "/up": "../outside/repo",
	})
	answers := map[string]string{} // the first, by method and params without the path
	for _, path := range []string{
		w.outside + "/repo", w.outside + "/repo/f", w.outside, w.outside + "/none", w.outside + "/none/at/all",
		"/etc", "/etc/passwd", "/no/such/place", "/",
		w.allowed + "/../outside/repo", w.allowed + "/out", w.allowed + "/out/repo", w.allowed + "/out/none", w.allowed + "/out-missing", w.allowed + "/up", w.allowed + "/up/none",
		w.allowed + "x", // a neighbour with the directory's name before its own
		credentials, w.work + "/" + configFileName, w.work + "/.git-daemon.none", w.work + "/.GIT-DAEMON.CONFIG", w.work + "/none/.git-daemon.x/y",
		w.box + "/work/../work/" + credentialsFileName, w.allowed + "/soft", w.allowed + "/.git-daemon.any",
		credentialsFileName, "./repos/../" + credentialsFileName, "../../outside/repo", "../../outside/none",
	} {
		w.askPath(t, path, func(name string, answer any, err error) {
			if err == nil {
				t.Errorf("%s was answered: %s, want an error", name, asJSON(t, answer))
				return
			}
			method, _, _ := strings.Cut(name, " ")
			got := asJSON(t, asRPCError(err))
			if first, known := answers[method]; !known {
				answers[method] = got
			} else if got != first {
				t.Errorf("%s: %s, for another path %s, want the same answer", name, got, first)
			}
		})
	}
	for method, answer := range answers {
		if !strings.Contains(answer, string(codeAccessDenied)) {
			t.Errorf("%s: %s, want %s", method, answer, codeAccessDenied)
		}
	}
	for _, m := range builtinMethods() {
		if answers[m.name] == "" && slices.ContainsFunc(m.paramFields(), func(f jsonField) bool { return slices.Contains([]string{"path", "paths", "url"}, f.name) }) && m.name != "config/setAuth" {
			t.Errorf("%s takes a path and has no request here: add one to pathWorld.askPath", m.name)
		}
	}
}

// A file of the daemon's own under another name is denied by every method that
// would read or describe it, and no method shows what is in it.
func TestHardLinkToATokenOfEveryMethod(t *testing.T) {
	t.Parallel()
	w := newPathWorld(t)
	link := w.allowed + "/hard"
	if err := os.Link(w.work+"/"+credentialsFileName, link); err != nil {
		t.Skip("the file system has no hard links: ", err)
	}
	w.askPath(t, link, func(name string, answer any, err error) {
		if err == nil || asRPCError(err).name() != codeAccessDenied {
			t.Errorf("%s: %v, %v, want %s", name, answer, err, codeAccessDenied)
		}
	})
	w.askPath(t, w.allowed, func(name string, answer any, _ error) {
		if text := asJSON(t, answer); strings.Contains(text, "s3cret") || strings.Contains(text, `"hard"`) {
			t.Errorf("%s: %s, want nothing of the file outside", name, text)
		}
	})
}

// Inside the allowed directories a path that is missing, or in no repository,
// is told apart from a denied one, alike by every method.
func TestAllowedPathsOfEveryMethod(t *testing.T) {
	skipShort(t, "runs every method on many paths, for a second")
	t.Parallel()
	w := newPathWorld(t)
	if err := errors.Join(os.Symlink("repo", w.allowed+"/in"), os.Symlink(w.allowed+"/repo", w.allowed+"/in-abs")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{w.allowed + "/repo", w.allowed + "/in", w.allowed + "/in-abs", w.box + "/../allowed/repo/.", "../../allowed/repo"} {
		w.askPath(t, path, func(name string, _ any, err error) {
			if strings.HasPrefix(name, "fs/readFile") {
				return // a directory
			}
			if err != nil {
				t.Errorf("%s: %v, want no error", name, err)
			}
		})
	}
	for path, codes := range map[string][]errorCode{
		w.allowed + "/plain":    {codeRepoNotFound},
		w.allowed + "/none":     {codeRepoNotFound, codeSourceNotFound},
		w.allowed + "/repo/f/x": {codeRepoNotFound, codeSourceNotFound},
	} {
		w.askPath(t, path, func(name string, answer any, err error) {
			if strings.HasPrefix(name, "fs/stat") || err == nil && strings.HasSuffix(path, "plain") && strings.HasPrefix(name, "fs/") {
				if err != nil {
					t.Errorf("%s: %v, want no error", name, err)
				}
				return
			}
			if strings.HasPrefix(name, "fs/readFile") && strings.HasSuffix(path, "plain") {
				wantInvalid(t, err, "path")
				return
			}
			want := codes[0]
			if strings.HasPrefix(name, "fs/") {
				want = codes[len(codes)-1]
			}
			if err == nil || asRPCError(err).name() != want {
				t.Errorf("%s: %v, %v, want %s", name, answer, err, want)
			}
		})
	}
}
