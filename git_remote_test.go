package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestParseRemoteRefs(t *testing.T) {
	a, b := strings.Repeat("a", 40), strings.Repeat("b", 40)
	got := parseRemoteRefs("ref: refs/heads/main\tHEAD\n" + a + "\tHEAD\n" + a + "\trefs/heads/main\n" + b + "\trefs/tags/v1\n" + a + "\trefs/tags/v1^{}\n" +
		"garbage\nref: -x\tHEAD\n" + a + "\trefs/heads/-x y\n" + a + "\trefs/heads/--ok\n" + "short\trefs/heads/z\n" + a + "\tother\n")
	want := []remoteRef{{"refs/heads/main", a, ""}, {"refs/tags/v1", b, a}, {"refs/heads/--ok", a, ""}}
	if got.head != "refs/heads/main" || got.headOID != a || !slices.Equal(got.refs, want) {
		t.Errorf("got %+v, want main at %s and %+v", got, a, want)
	}
}

func FuzzParseRemoteRefs(f *testing.F) {
	f.Add("ref: refs/heads/main\tHEAD\n" + strings.Repeat("a", 40) + "\trefs/heads/main\n")
	f.Add("\t\n^{}\t^{}\n")
	f.Fuzz(func(t *testing.T, out string) {
		for _, ref := range parseRemoteRefs(out).refs {
			if !isRefName(ref.name) || !isObjectID(ref.oid) {
				t.Errorf("took %+v, want the name of a ref and an id", ref)
			}
		}
	})
}

// ssh looks for host keys in the work dir first, whatever its path holds.
func TestSSHKnownHosts(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("ssh is not installed: ", err)
	}
	workDir := filepath.Join(realTempDir(t), "we ird's $x 50%h")
	if err := os.Mkdir(workDir, 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := openAccess(nil, workDir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	g := newGitRunner(os.Getenv, "")
	if _, err := openCredentials(a, g); err != nil {
		t.Fatal(err)
	}
	env := g.environment(gitCommand{protocols: "ssh"})
	at := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "GIT_SSH_COMMAND=") })
	// As git does it: the command is a shell's, the host is an argument of its own.
	cmd := exec.Command("sh", "-c", strings.TrimPrefix(env[at], "GIT_SSH_COMMAND=")+` "$@"`, "ssh", "-G", "example.org")
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nuserknownhostsfile " + filepath.Join(workDir, ".git-daemon.known_hosts") + " "; !strings.Contains(string(out), want) {
		t.Errorf("want %q in what ssh says:\n%s", want, out)
	}
	if _, err := a.resolvePath(".git-daemon.known_hosts"); asRPCError(err).name() != codeAccessDenied {
		t.Errorf("a method may read it: %v, want %s", err, codeAccessDenied)
	}
}

// ssh to a server that takes the connection and says nothing ends with the
// stall limit, and leaves no process.
func TestCloneSSHHangs(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	w.remotes.stall = 500 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = w.try(cloneParams{URL: "ssh://git@" + l.Addr().String() + "/x"})
	if e := asRPCError(err); e.name() != codeGitFailed || e.Data["reason"] != gitNetwork {
		t.Errorf("got %v (%v), want GIT_FAILED with %s", err, e.Data, gitNetwork)
	}
	w.wantNoGit()
}

func TestCloneAllowedHosts(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	w.remotes.allowHosts = []string{"*.example.org"}
	_, err := w.try(cloneParams{URL: w.server.address("lib")})
	wantInvalid(t, err, "url")
	if n := len(w.server.requests()); n != 0 {
		t.Errorf("the host was asked %d times, want never", n)
	}
	w.remotes.allowHosts = []string{"127.0.0.1"}
	w.must(cloneParams{URL: w.server.address("lib")}, actionCloned, remote.head())
}

// What a host answers with is the reason, whatever part of a clone it answers.
func TestRemoteHTTPStatuses(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	installed := w.must(cloneParams{URL: w.server.address("lib"), Name: "installed"}, actionCloned, remote.head())
	before := treeState(t, installed.Path)
	remote.commit("more", map[string]string{"a": "2"})
	url := w.server.address("lib")
	reader := newGitReader(w.cfg.git, w.cfg.access, w.remotes, w.cfg.log)
	for status, want := range map[int]gitReason{
		400: gitOther, 401: gitAuth, 403: gitForbidden, 404: gitNotFound, 410: gitNotFound, 429: gitOther, 451: gitForbidden,
		418: gitOther, 304: gitOther, 500: gitOther, 502: gitOther, 503: gitOther, 504: gitOther, 301: gitMoved, 308: gitMoved,
	} {
		for _, part := range []string{"info/refs", "git-upload-pack"} {
			if part == "git-upload-pack" && (status == 404 || status/100 == 3) {
				continue // the list of refs was there
			}
			w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost != (part == "git-upload-pack") {
					return false
				}
				http.Error(rw, "no", status)
				return true
			})
			check := func(method string, err error) {
				t.Helper()
				e := asRPCError(err)
				if e.name() != codeGitFailed || e.Data["reason"] != want || want == gitOther && !strings.Contains(e.Message, strconv.Itoa(status)) || strings.Contains(e.Message, "could not be reached") ||
					want == gitOther && strings.Contains(e.Message, "try again later") != (status == 429 || status >= 500) {
					t.Errorf("%s, %d to %s: error is %v (%v), want the reason %s and the status in the message", method, status, part, err, e.Data["reason"], want)
				}
			}
			_, err := w.try(cloneParams{URL: url})
			check("vcs/clone", err)
			_, err = w.try(cloneParams{URL: url, Name: "installed"})
			check("vcs/clone of an update", err)
			_, err = reader.listRefs(t.Context(), refsParams{URL: &url})
			check("vcs/refs", err)
			w.noTemporaries()
		}
	}
	if after := treeState(t, installed.Path); after != before {
		t.Errorf("the failed updates left\n%s\nwant\n%s", after, before)
	}
}

// A browser's address, which the host redirects to the same one with .git, is
// cloned; other redirects are not followed, and the error has the new URL.
func TestRemoteRedirects(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("group/lib.git", map[string]string{"a": "1"})
	other := newGitServer(t)
	other.repo("lib.git", map[string]string{"a": "1"})
	var mu sync.Mutex
	redirects := map[string]string{} // path to address
	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		path := strings.TrimSuffix(r.URL.Path, "/info/refs")
		to, ok := redirects[path]
		if ok {
			rw.Header().Set("Location", to)
			rw.WriteHeader(http.StatusMovedPermanently)
		}
		return ok
	})
	redirect := func(from, to string) {
		mu.Lock()
		defer mu.Unlock()
		clear(redirects)
		redirects[from] = to
	}
	const suffix = "/info/refs?service=git-upload-pack"
	reader := newGitReader(w.cfg.git, w.cfg.access, w.remotes, w.cfg.log)
	for _, to := range []string{w.server.address("group/lib.git") + suffix, "/group/lib.git" + suffix, "../../lib.git" + suffix} {
		redirect("/group/lib", to)
		for n, url := range []string{w.server.address("group/lib"), w.server.address("group/lib/"), w.server.addressAs("u:p", "group/lib")} {
			action := actionCloned
			if n > 0 {
				action = actionUnchanged
			}
			p := cloneParams{URL: url, Name: "to-" + strconv.Itoa(len(to))}
			w.must(p, action, remote.head())
			if refs, err := reader.listRefs(t.Context(), refsParams{URL: &url}); err != nil || *refs.Head.OID != remote.head() {
				t.Errorf("vcs/refs of %s: got %+v, %v, want %s", url, refs, err, remote.head())
			}
		}
	}
	for _, test := range []struct{ from, to, want string }{
		{"/group/lib", other.URL + "/group/lib.git" + suffix, other.URL + "/group/lib.git"},
		{"/group/lib", w.server.addressAs("me:s3cret", "new/lib.git") + suffix, w.server.address("new/lib.git")},
		{"/group/lib", "/login?return=lib&token=s3cret", w.server.address("login")},
		{"/group/lib.git", "/group/lib.git.git" + suffix, ""}, // followed, and not there
		{"/group/lib.git", "/group/lib" + suffix, w.server.address("group/lib")},
		{"/group/lib", "file:///etc/passwd", ""},
	} {
		redirect(test.from, test.to)
		url := w.server.address(strings.TrimPrefix(test.from, "/"))
		_, err := w.try(cloneParams{URL: url, Name: "moved"})
		_, err2 := reader.listRefs(t.Context(), refsParams{URL: &url})
		for _, err := range []error{err, err2} {
			if test.want == "" && test.to[0] == '/' {
				wantGitFailure(t, err, gitNotFound)
				continue
			}
			wantGitFailure(t, err, gitMoved)
			if err != nil && (!strings.HasSuffix(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret")) {
				t.Errorf("%s to %s: error is %v, want the new URL %s in it", test.from, test.to, err, test.want)
			}
		}
	}
	// A second redirect is not followed.
	mu.Lock()
	redirects = map[string]string{"/x": "/x.git" + suffix, "/x.git": "/x.git.git" + suffix}
	mu.Unlock()
	_, err := w.try(cloneParams{URL: w.server.address("x")})
	wantGitFailure(t, err, gitMoved)
	if want := w.server.address("x.git.git"); err != nil && !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error is %v, want the new URL %s in it", err, want)
	}
	if n := len(other.requests()); n != 0 {
		t.Errorf("the other host was asked %d times, want never", n)
	}
}

// Git uses the proxy that the link uses, however the variable is written. (curl
// ignores HTTP_PROXY in capitals.)
func TestRemoteThroughProxy(t *testing.T) {
	skipShort(t, "it takes about a second")
	for name, test := range map[string]struct {
		env       map[string]string // PROXY is the proxy's URL
		throughIt bool
	}{
		"capitals":             {map[string]string{"HTTP_PROXY": "PROXY"}, true},
		"small letters":        {map[string]string{"http_proxy": "PROXY"}, true},
		"capitals come first":  {map[string]string{"HTTP_PROXY": "PROXY", "http_proxy": "http://127.0.0.1:1"}, true},
		"the proxy of https":   {map[string]string{"HTTPS_PROXY": "PROXY"}, false},
		"excluded":             {map[string]string{"HTTP_PROXY": "PROXY", "NO_PROXY": "lib.test"}, false},
		"excluded by a domain": {map[string]string{"HTTP_PROXY": "PROXY", "no_proxy": "a.test, *.lib.test"}, false},
		"excluded with a port": {map[string]string{"HTTP_PROXY": "PROXY", "NO_PROXY": "a.test:80, *.lib.test:80"}, false},
		"another port":         {map[string]string{"HTTP_PROXY": "PROXY", "NO_PROXY": "git.lib.test:8080"}, true},
		"others are excluded":  {map[string]string{"HTTP_PROXY": "PROXY", "NO_PROXY": "*.a.test"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := newGitServer(t)
			remote := server.repo("lib", map[string]string{"a": "1"})
			proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
				if r.In.URL.Host != "git.lib.test" {
					t.Errorf("the proxy was asked for %s, want an absolute URL at git.lib.test (RFC 9112, 3.2.2)", r.In.URL)
				}
				r.Out.URL.Scheme, r.Out.URL.Host = "http", server.host()
			}})
			defer proxy.Close()
			for _, key := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
				t.Setenv(key, strings.Replace(test.env[key], "PROXY", proxy.URL, 1))
			}
			w := &cloneWorld{t: t, server: server, workDir: realTempDir(t)}
			w.open()
			url := "http://git.lib.test/lib"
			r, err := w.try(cloneParams{URL: url})
			if !test.throughIt {
				wantGitFailure(t, err, gitNetwork) // the host does not exist (RFC 6761, 6.2)
			} else if err != nil || *r.Commit != remote.head() {
				t.Errorf("got %+v, %v, want a clone through the proxy", r, err)
			}
		})
	}
}

// curl does not know the entries of NO_PROXY that net/http knows.
func TestNoProxyEntries(t *testing.T) {
	for _, row := range []struct{ given, port, want string }{
		{"", "80", ""},
		{"*", "80", "*"},
		{" a.test , .b.test,", "443", "a.test,.b.test"},
		{"*.a.test,*.b.test:443,c.test:80,d.test:443", "443", ".a.test,.b.test,d.test"},
		{"10.0.0.0/8,::1,[::2]:80,[::3]:81,1.2.3.4:80", "80", "10.0.0.0/8,::1,::2,1.2.3.4"},
	} {
		if got := noProxyFor(row.given, row.port); got != row.want {
			t.Errorf("%q at port %s: got %q, want %q", row.given, row.port, got, row.want)
		}
	}
}

func TestCloneConnectionRefused(t *testing.T) {
	w := newCloneWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, err = w.try(cloneParams{URL: "http://" + address + "/x"})
	wantGitFailure(t, err, gitNetwork)
}
