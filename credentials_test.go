package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// setToken stores a token for a host through config/setAuth.
func (w *cloneWorld) setToken(host, token string) {
	w.t.Helper()
	text, _ := json.Marshal(token) // a string always marshals
	r, err := w.cfg.credentials.setAuth(w.t.Context(), setAuthParams{Host: host, Protocol: "http", Token: text})
	if err != nil || !r.Stored || r.Username != "oauth2" {
		w.t.Fatalf("setAuth: %+v, %v, want it stored for oauth2", r, err)
	}
}

func (w *cloneWorld) stored() string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.workDir, credentialsFileName))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

const oddToken = `a/b:c@d%e+f#g?h i'"$x\`

// A stored token works with special characters in it and in the path of the
// work dir, after a restart, and after a single 401.
func TestCredentialsStored(t *testing.T) {
	t.Parallel()
	w := &cloneWorld{t: t, server: newGitServer(t), workDir: filepath.Join(realTempDir(t), "we ird's \"q\" $x")}
	if err := os.Mkdir(w.workDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.workDir, credentialsFileName+".lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	w.server.requireAuth("oauth2", oddToken)
	p := cloneParams{URL: w.server.address("lib")}
	_, err := w.try(p)
	wantGitFailure(t, err, gitAuth)
	advice := fmt.Sprintf("call config/setAuth with the host %q, the protocol \"http\" and a valid token", w.server.host())
	if !strings.Contains(err.Error(), advice) { // setToken below follows it
		t.Errorf("the error does not say what to do: %v, want %s", err, advice)
	}
	w.setToken(strings.ToUpper(w.server.host()), oddToken)
	w.must(p, actionCloned, remote.head())
	before := w.stored()
	if want := "http://oauth2:a%2fb%3ac%40d%25e%2bf%23g%3fh%20i%27%22%24x%5c@" + strings.Replace(w.server.host(), ":", "%3a", 1) + "\n"; before != want {
		t.Errorf("stored %q, want %q", before, want)
	}
	w.stop()
	w.wait()
	w.open()
	w.must(p, actionUnchanged, remote.head())

	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "" {
			return false
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		user, password, _ := r.BasicAuth()
		encoded := strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
		http.Error(rw, "you sent "+encoded+"\nthat is "+user+":"+password+"\nor "+percentEncode(password), http.StatusUnauthorized)
		return true
	})
	_, err = w.try(p)
	wantGitFailure(t, err, gitAuth)
	wantNoSecret(t, err, oddToken)
	if !strings.Contains(fmt.Sprint(asRPCError(err).Data["stderr"]), "remote: you sent "+redacted) {
		t.Errorf("the server's words are missing: %v, want them with %s in place of the token", asRPCError(err).Data, redacted)
	}
	if after := w.stored(); after != before {
		t.Errorf("a 401 changed the store to %q, want %q", after, before)
	}
	w.server.setHook(nil)
	w.must(p, actionUnchanged, remote.head())
}

// wantNoSecret checks that no part of an error that leaves the daemon contains
// the token.
func wantNoSecret(t *testing.T, err error, token string) {
	t.Helper()
	out, _ := json.Marshal(asRPCError(err)) // it consists of strings and numbers
	text := string(out) + err.Error()
	for _, form := range []string{token, percentEncode(token), base64.StdEncoding.EncodeToString([]byte("oauth2:" + token))} {
		if strings.Contains(text, form) {
			t.Errorf("the error holds the token: %s, want it hidden", text)
		}
	}
}

// A token in the URL is used and not kept anywhere, and while git runs no
// argument list contains it.
func TestCredentialsInURL(t *testing.T) {
	skipShort(t, "clones several times; TestCredentialsStored has the same secrets")
	t.Parallel()
	for _, userinfo := range []string{"oauth2:s3cretT0ken%2fx", "s3cretT0ken%2fx"} {
		w := newCloneWorld(t)
		remote := w.server.repo("lib", map[string]string{"a": "1"})
		user, password, _ := strings.Cut(userinfo, ":")
		w.server.requireAuth(strings.ReplaceAll(user, "%2f", "/"), strings.ReplaceAll(password, "%2f", "/"))
		var mu sync.Mutex
		var seen []string
		w.server.setHook(func(http.ResponseWriter, *http.Request) bool {
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // there is none without /proc
			mu.Lock()
			defer mu.Unlock()
			for _, file := range files {
				if text, err := os.ReadFile(file); err == nil {
					seen = append(seen, string(text))
				}
			}
			return false
		})
		r := w.must(cloneParams{URL: w.server.addressAs(userinfo, "lib")}, actionCloned, remote.head())
		if r.URL != w.server.address("lib") {
			t.Errorf("the result's url is %s, want %s", r.URL, w.server.address("lib"))
		}
		mu.Lock()
		for _, line := range seen {
			if strings.Contains(line, "s3cretT0ken") {
				t.Errorf("an argument list holds the token: %q, want it in none", line)
			}
		}
		mu.Unlock()
		err := filepath.WalkDir(w.workDir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if strings.Contains(string(data), "s3cretT0ken") {
				t.Errorf("%s holds the token, want it in no file", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		_, err = w.try(cloneParams{URL: w.server.addressAs(userinfo+"wrong", "lib")})
		wantGitFailure(t, err, gitAuth)
		if strings.Contains(fmt.Sprint(err, asRPCError(err).Data), "s3cretT0ken") {
			t.Errorf("the error holds the token: %v, want it hidden", err)
		}
	}
}

// A token in the user's place of a URL is hidden, however short a token may be,
// where the server repeats it.
func TestCredentialsLoneTokenIsHidden(t *testing.T) {
	t.Parallel()
	const token = "s3cretT0ken1" // of minLoneToken bytes
	if len(token) != minLoneToken {
		t.Fatalf("minLoneToken is %d, want %d", minLoneToken, len(token))
	}
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1"})
	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		user, _, _ := r.BasicAuth()
		http.Error(rw, "no access for <"+user+">", http.StatusUnauthorized)
		return true
	})
	_, err := w.try(cloneParams{URL: w.server.addressAs(token, "lib")})
	wantGitFailure(t, err, gitAuth)
	if said := fmt.Sprint(err, asRPCError(err).Data); strings.Contains(said, token) || !strings.Contains(said, "<"+redacted+">") {
		t.Errorf("the error is %s, want %s in place of the token", said, redacted)
	}
}

// A server that answers 401 once, to a repository that needs no token.
func TestCredentialsFlaky401(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	w.setToken("other.localhost", "t0ken")
	before := w.stored()
	w.server.setHook(answerOnce("info/refs", http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Basic realm="git"`}}, ""))
	p := cloneParams{URL: w.server.address("lib")}
	_, err := w.try(p)
	wantGitFailure(t, err, gitAuth)
	w.must(p, actionCloned, remote.head())
	if w.stored() != before || len(w.server.authorizations()) != 0 {
		t.Errorf("the store is %q, sent was %q, want %q and nothing", w.stored(), w.server.authorizations(), before)
	}
}

// A redirect to another host is reported and not followed, because the token is
// for the first host.
func TestCredentialsRedirect(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	other := newGitServer(t)
	other.repo("lib", map[string]string{"a": "1"})
	w.server.repo("lib", map[string]string{"a": "1"})
	w.server.requireAuth("oauth2", "s3cret")
	w.setToken(w.server.host(), "s3cret")
	before := w.stored()
	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		http.Redirect(rw, r, other.URL+r.URL.RequestURI(), http.StatusFound)
		return true
	})
	_, err := w.try(cloneParams{URL: w.server.address("lib")})
	wantGitFailure(t, err, gitMoved)
	if n := len(other.requests()); n != 0 {
		t.Errorf("the other host was asked %d times, want never", n)
	}
	if w.stored() != before {
		t.Error("the store has changed, want the same")
	}
}

func TestCredentialsSetAuth(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	c := w.cfg.credentials
	token := json.RawMessage(`"t0ken"`)
	for _, bad := range []struct {
		p     setAuthParams
		param string
	}{
		{setAuthParams{Token: token}, "host"},
		{setAuthParams{Host: "h", URL: "https://h/x", Token: token}, "host"},
		{setAuthParams{Host: "h/x", Token: token}, "host"},
		{setAuthParams{Host: "https://h", Token: token}, "host"},
		{setAuthParams{Host: "u@h", Token: token}, "host"},
		{setAuthParams{Host: "h:0", Token: token}, "host"},
		{setAuthParams{Host: "h\n", Token: token}, "host"},
		{setAuthParams{Host: "h"}, "token"},
		{setAuthParams{Host: "h", Token: json.RawMessage(`""`)}, "token"},
		{setAuthParams{Host: "h", Token: json.RawMessage(`5`)}, "token"},
		{setAuthParams{Host: "h", Token: json.RawMessage(`"a\nb"`)}, "token"},
		{setAuthParams{Host: "h", Token: token, Username: "a\rb"}, "username"},
		{setAuthParams{Host: "h", Token: token, Protocol: "ssh"}, "protocol"},
		{setAuthParams{Host: "example.org", Token: token, Protocol: "http"}, "protocol"},
		{setAuthParams{URL: "http://example.org/x", Token: token}, "protocol"},
		{setAuthParams{URL: "ssh://h/x", Token: token}, "url"},
	} {
		_, err := c.setAuth(t.Context(), bad.p)
		wantInvalid(t, err, bad.param)
	}
	for _, good := range []setAuthParams{
		{Host: "Example.ORG:443", Token: token},
		{Host: "example.org:8443", Token: token, Username: "me"},
		{URL: "http://[::1]:3000/x", Token: token},
		{Host: "example.org", Token: json.RawMessage(`"other"`), Username: "me"},
	} {
		if _, err := c.setAuth(t.Context(), good); err != nil {
			t.Error(err)
		}
	}
	want := []authEntry{{"http", "[::1]:3000", "oauth2"}, {"https", "example.org", "me"}, {"https", "example.org:8443", "me"}}
	if got, err := c.list(); err != nil || !slices.Equal(got, want) {
		t.Errorf("list is %v, %v, want %v", got, err, want)
	}
	r, err := c.setAuth(t.Context(), setAuthParams{Host: "example.org", Token: json.RawMessage("null")})
	if err != nil || r.Stored {
		t.Errorf("removing: %+v, %v, want no error and nothing stored", r, err)
	}
	if got, err := c.list(); err != nil || len(got) != 2 {
		t.Errorf("list is %v, %v after removing one, want two entries", got, err)
	}
	for _, name := range []string{credentialsFileName, configFileName} {
		info, err := os.Stat(filepath.Join(w.workDir, name))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v, want the mode 0600", name, info, err)
		}
		_, err = w.cfg.access.resolvePath(name)
		wantFailure(t, err, codeAccessDenied)
	}
}

func TestCredentialsConcurrentSetAuth(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { // ends when it is stored
			_, err := w.cfg.credentials.setAuth(t.Context(), setAuthParams{Host: fmt.Sprintf("h%d.example.org", i%10), Token: json.RawMessage(fmt.Sprintf(`"t%d"`, i))})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := w.cfg.credentials.list(); err != nil || len(got) != 10 {
		t.Errorf("%d entries, %v, want 10 entries", len(got), err)
	}
	if lines := strings.Count(w.stored(), "\n"); lines != 10 {
		t.Errorf("%d lines for 10 hosts: %s, want 10", lines, w.stored())
	}
}

func FuzzParseCredential(f *testing.F) {
	for _, seed := range []string{"https://oauth2:a%2fb@h%3a80", "http://u:p@h/", "x", "https://u@h", "https://:p@h", "https://u:%0a@h", "https://u:p@h\r", "https://u:a%40b%25@h", "https://u:p@h/a/b", "https://:p@h:443/?q#f", "# https://u:p@h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cred, ok := parseCredential(line)
		if !ok {
			return
		}
		again, ok := parseCredential(strings.TrimSuffix(cred.line(), "\n"))
		if !ok || again.host != cred.host || again.username != cred.username || again.token != cred.token {
			t.Errorf("%q does not survive a round trip, want the same back", line)
		}
	})
}

// What git sends for each form of URL, and with each stored line.
func TestCredentialsUserAndToken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		stored   []string // lines; HOST is the server's
		userinfo string
		want     string // user:password, "" for none
	}{
		"empty user in the URL":             {userinfo: ":t0ken", want: ":t0ken"},
		"empty user and a stored token":     {stored: []string{"http://oauth2:other@HOST"}, userinfo: ":t0ken", want: ":t0ken"},
		"user in the URL":                   {stored: []string{"http://oauth2:t0ken@HOST"}, userinfo: "me", want: "me:t0ken"},
		"user in the URL as stored":         {stored: []string{"http://you:no@HOST", "http://me:t0ken@HOST"}, userinfo: "me", want: "me:t0ken"},
		"user in the URL, nothing stored":   {userinfo: "lonet0ken", want: "lonet0ken:"},
		"user with an empty password":       {stored: []string{"http://oauth2:no@HOST"}, userinfo: "lonet0ken:", want: "lonet0ken:"},
		"user and password":                 {stored: []string{"http://me:no@HOST"}, userinfo: "me:t0ken", want: "me:t0ken"},
		"no user":                           {stored: []string{"http://me:t0ken@HOST"}, want: "me:t0ken"},
		"an at sign alone":                  {stored: []string{"http://me:t0ken@HOST"}, userinfo: ":", want: "me:t0ken"},
		"stored with an empty user":         {stored: []string{"http://:t0ken@HOST"}, want: ":t0ken"},
		"stored with an empty password":     {stored: []string{"http://t0ken:@HOST"}, want: "t0ken:"},
		"stored for this path":              {stored: []string{"http://a:no@HOST", "http://b:t0ken@HOST/lib"}, want: "b:t0ken"},
		"stored for another path":           {stored: []string{"http://b:t0ken@HOST/other"}, want: "b:t0ken"},
		"stored for another path and all":   {stored: []string{"http://b:no@HOST/other", "http://a:t0ken@HOST"}, want: "a:t0ken"},
		"stored for another protocol":       {stored: []string{"https://b:no@HOST"}, want: ""},
		"stored with a port, host in caps":  {stored: []string{"http://b:no@LOCALHOST", "http://a:t0ken@HOST"}, want: "a:t0ken"},
		"a comment and a line with CR":      {stored: []string{"# http://a:no@HOST", "http://b:no@HOST\r"}, want: ""},
		"a token with signs of the grammar": {stored: []string{"http://a:t%2f%40%3a%25@HOST"}, want: "a:t/@:%"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newCloneWorld(t)
			remote := w.server.repo("lib", map[string]string{"a": "1"})
			text := strings.ReplaceAll(strings.Join(append(test.stored, ""), "\n"), "HOST", w.server.host())
			writeFiles(t, w.workDir, map[string]string{credentialsFileName: text})
			var mu sync.Mutex
			sent := ""
			w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if header, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Basic "); ok {
					raw, _ := base64.StdEncoding.DecodeString(header) // a header that cannot be decoded counts as a wrong one
					sent = string(raw)
				}
				if sent == test.want {
					return false
				}
				rw.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(rw, "you sent "+sent+" or "+r.Header.Get("Authorization"), http.StatusUnauthorized)
				return true
			})
			r, err := w.try(cloneParams{URL: w.server.addressAs(test.userinfo, "lib")})
			mu.Lock()
			defer mu.Unlock()
			if sent != test.want || err != nil || *r.Commit != remote.head() {
				t.Errorf("git sent %q, result %+v, %v %v, want it to send %q and clone", sent, r, err, asRPCError(err), test.want)
			}
			if err != nil {
				wantNoSecret(t, err, "t0ken")
			}
			if got := w.stored(); got != text {
				t.Errorf("the store is %q, want it unchanged: %q", got, text)
			}
		})
	}
}

// setAuth leaves the lines alone that it did not write.
func TestCredentialsForeignLinesStay(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	foreign := []string{
		"# my tokens\n", "\n", "https://u:p@h.example/group/project.git\n", "HTTPS://u:p@h.example\n", "ftp://u:p@h.example\n",
		"https://u:p@h.example\r\n", "http://u:p@h.example:80%2Fx\n", "https://u%zz:p@h.example\n", "https://u@h.example\n", "https://u:p@other.example", // without a line feed
	}
	text := strings.Join(foreign, "")
	writeFiles(t, w.workDir, map[string]string{credentialsFileName: text})
	set := func(token string) {
		t.Helper()
		if _, err := w.cfg.credentials.setAuth(t.Context(), setAuthParams{Host: "h.example", Token: json.RawMessage(token)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ token, want string }{
		{`"first"`, text + "\nhttps://oauth2:first@h.example\n"},
		{`"second"`, text + "\nhttps://oauth2:second@h.example\n"},
		{"null", text + "\n"},
		{"null", text + "\n"},
	} {
		if set(step.token); w.stored() != step.want {
			t.Errorf("after the token %s the store is %q, want %q", step.token, w.stored(), step.want)
		}
	}
	want := []authEntry{{"https", "h.example", "u"}, {"https", "other.example", "u"}}
	if got, err := w.cfg.credentials.list(); err != nil || !slices.Equal(got, want) {
		t.Errorf("list is %v, %v, want %v", got, err, want)
	}
}

// A store that cannot be read is an error and not an empty store: setAuth would
// overwrite the other tokens.
func TestCredentialsUnreadableStore(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	if err := os.Mkdir(filepath.Join(w.workDir, credentialsFileName), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := w.cfg.credentials.setAuth(t.Context(), setAuthParams{Host: "h", Token: json.RawMessage(`"x"`)})
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want an error other than a missing file", err)
	}
}

// TestCredentialsHardLink: a hard link to the file is denied while it is the
// current file, and empty afterward.
func TestCredentialsHardLink(t *testing.T) {
	t.Parallel()
	work := realTempDir(t)
	a, err := openAccess(nil, work)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	c, err := openCredentials(a, newGitRunner(os.Getenv, ""))
	if err != nil {
		t.Fatal(err)
	}
	set := func(token string) {
		t.Helper()
		if err := c.set(credential{protocol: "https", host: "h.example", username: "u", token: secret(token)}); err != nil {
			t.Fatal(err)
		}
	}
	set("first-s3cret")
	link := filepath.Join(work, "link")
	if err := os.Link(c.path, link); err != nil {
		t.Skip("the file system has no hard links: " + err.Error())
	}
	p, err := a.resolvePath(link)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.openFile(p); asRPCError(err).name() != codeAccessDenied {
		t.Errorf("the living file: %v, want %s", err, codeAccessDenied)
	}
	// The list of known hosts may be the user's own, and ssh writes it later.
	knownHosts, knownLink := filepath.Join(work, knownHostsFileName), filepath.Join(work, "known-hosts-link")
	writeFiles(t, work, map[string]string{knownHostsFileName: "h ssh-ed25519 AAAA"})
	if err := os.Link(knownHosts, knownLink); err != nil {
		t.Fatal(err)
	}
	if p, err = a.resolvePath(knownLink); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.openFile(p); asRPCError(err).name() != codeAccessDenied {
		t.Errorf("opening a hard link to the known hosts: %v, want %s", err, codeAccessDenied)
	}
	set("second-s3cret")
	if data, err := os.ReadFile(link); err != nil || len(data) != 0 {
		t.Errorf("the old file: %q, %v, want it emptied", data, err)
	}
	if all, err := c.lines(); err != nil || !slices.Equal(all, []string{"https://u:second-s3cret@h.example\n"}) {
		t.Errorf("%v, %v, want the second token alone", all, err)
	}
	// The configuration file keeps its identity across a restart.
	configLink := filepath.Join(work, "config-link")
	if err := os.Link(c.configPath, configLink); err != nil {
		t.Fatal(err)
	}
	if _, err := openCredentials(a, newGitRunner(os.Getenv, "")); err != nil {
		t.Fatal(err)
	}
	if p, err = a.resolvePath(configLink); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.openFile(p); asRPCError(err).name() != codeAccessDenied {
		t.Errorf("the configuration by a hard link: %v, want %s", err, codeAccessDenied)
	}
}
