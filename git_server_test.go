package main

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// This file is the tests' own git server: a real smart HTTP server
// (git-http-backend(1)) on 127.0.0.1 whose answers a test can spoil.
//
//	server := newGitServer(t)
//	repo := server.repo("lib.git", map[string]string{"README.md": "hello\n"})
//	server.requireAuth("oauth2", "s3cret")
//	… server.address("lib.git") …

// gitHook may answer a request instead of the server; it reports whether it
// did.
type gitHook func(w http.ResponseWriter, r *http.Request) (answered bool)

// gitServer serves the repositories below root over smart HTTP.
type gitServer struct {
	*httptest.Server
	t    testing.TB
	root string

	mu       sync.Mutex
	user     string // guarded by mu: the credentials that requests must carry; "" for none
	password string
	hook     gitHook
	fetched  int
	seen     []string // "GET /lib.git/info/refs?service=git-upload-pack"
	headers  []http.Header
}

// newGitServer starts a server without repositories; the test's cleanup stops
// it.
func newGitServer(t testing.TB) *gitServer {
	t.Helper()
	needsGit(t)
	exe, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	s := &gitServer{t: t, root: realTempDir(t)}
	backend := &cgi.Handler{
		Path: exe, Args: []string{"http-backend"}, Dir: s.root, Stderr: t.Output(),
		Env: append(testGitEnv(), "GIT_PROJECT_ROOT="+s.root, "GIT_HTTP_EXPORT_ALL=1"),
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client has disconnected
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		s.mu.Lock()
		if bytes.Contains(body, []byte("command=fetch")) {
			s.fetched++
		}
		s.seen = append(s.seen, r.Method+" "+r.URL.RequestURI())
		s.headers = append(s.headers, r.Header.Clone())
		hook, user, password := s.hook, s.user, s.password
		s.mu.Unlock()
		if hook != nil && hook(w, r) {
			return
		}
		if u, p, _ := r.BasicAuth(); user != "" && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections() // ends hooks that wait for their client to disconnect
		s.Close()
	})
	return s
}

// repo creates the repository /name on the server (see newTestRepo).
func (s *gitServer) repo(name string, files map[string]string, initArgs ...string) *testRepo {
	s.t.Helper()
	return newTestRepoAt(s.t, filepath.Join(s.root, filepath.FromSlash(name)), files, initArgs...)
}

// address returns the URL of /name.
func (s *gitServer) address(name string) string { return s.URL + "/" + name }

// addressAs returns the URL of /name with userinfo, such as "oauth2:token".
func (s *gitServer) addressAs(userinfo, name string) string {
	return strings.Replace(s.address(name), "://", "://"+userinfo+"@", 1)
}

// host returns the server's host:port.
func (s *gitServer) host() string { return strings.TrimPrefix(s.URL, "http://") }

// requireAuth makes every further request require basic authentication.
func (s *gitServer) requireAuth(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user, s.password = user, password
}

// setHook calls hook before every further request; nil removes it.
func (s *gitServer) setHook(hook gitHook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// requests lists the requests so far.
func (s *gitServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// fetches counts the requests for objects so far; a request for refs alone is
// not one (gitprotocol-v2(5)).
func (s *gitServer) fetches() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched
}

// authorizations lists the Authorization headers so far.
func (s *gitServer) authorizations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, h := range s.headers {
		if a := h.Get("Authorization"); a != "" {
			all = append(all, a)
		}
	}
	return all
}

// newStalledGitServer returns a server of lib.git that does not answer until
// its hook is removed; it sends to asked when a request waits.
func newStalledGitServer(t testing.TB) (git *gitServer, repo *testRepo, asked chan struct{}) {
	t.Helper()
	git = newGitServer(t)
	repo = git.repo("lib.git", map[string]string{"a": "1"})
	asked = make(chan struct{}, 10)
	git.setHook(hang("", asked))
	return git, repo, asked
}

// hang returns a hook that accepts requests whose URI contains part and never
// answers; it wakes the receiver of reached when one waits.
func hang(part string, reached chan<- struct{}) gitHook {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.RequestURI(), part) {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices when the client disconnects
		wake(reached)
		<-r.Context().Done()
		return true
	}
}

// answerOnce returns a hook that answers the first request whose URI contains
// part with status.
func answerOnce(part string, status int, header http.Header, body string) gitHook {
	var once sync.Once
	return func(w http.ResponseWriter, r *http.Request) (answered bool) {
		if !strings.Contains(r.URL.RequestURI(), part) {
			return false
		}
		once.Do(func() {
			maps.Copy(w.Header(), header)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body) // the client may have disconnected
			answered = true
		})
		return answered
	}
}

func TestGitServerServes(t *testing.T) {
	server := newGitServer(t)
	repo := server.repo("lib.git", map[string]string{"a.txt": "a\n"})
	out, err := newTestRepo(t, nil).tryGit("", "-c", "protocol.allow=always", "ls-remote", server.address("lib.git"))
	if err == nil {
		t.Fatalf("http was allowed in the tests' own git: %s, want an error", out)
	}
	g := newGitRunner(os.Getenv, "")
	listed, err := g.run(t.Context(), gitCommand{args: []string{"ls-remote", server.address("lib.git"), "HEAD"}, protocols: "http"})
	if err != nil {
		t.Fatal(err)
	}
	if want := repo.head() + "\tHEAD\n"; string(listed) != want {
		t.Errorf("ls-remote printed %q, want %q", listed, want)
	}
}
