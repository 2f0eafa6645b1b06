package main

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// An accepted name stays below repos/, does not start with a special character,
// and survives the conversion to the name of an old repository.
func FuzzRepoName(f *testing.F) {
	for _, seed := range []string{"lib", "a/b/c/d", "../x", "/abs", ".git", "a/../b", "-x", "a\\b", "NUL", "a/b.lock", "é", "a\x00", strings.Repeat("x", 101), "a//b", "a/b/c/d/e"} {
		f.Add(seed)
	}
	rule := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}$`)
	f.Fuzz(func(t *testing.T, name string) {
		err := checkRepoName(name)
		if err != nil {
			wantInvalid(t, err, "name")
			return
		}
		if !rule.MatchString(name) || !filepath.IsLocal(filepath.FromSlash(name)) || path.Clean(name) != name || hasSecretName(name) {
			t.Errorf("%q was taken, want a refusal", name)
		}
		if strings.ReplaceAll(strings.ReplaceAll(name, "/", "+"), "+", "/") != name {
			t.Errorf("%q does not survive, want the same name back", name)
		}
	})
}

// An accepted host is only a host, and the line in git's credential store
// applies to exactly that host.
func FuzzAuthHost(f *testing.F) {
	for _, seed := range []string{"example.org", "Example.ORG:443", "[::1]:3000", "127.0.0.1", "u@h", "h/x", "h:0", "h\n", "https://h", "-h", "h:80:90", "[::1%25x]", "é.org", "h?x", "h%0a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cred := credential{protocol: "https", username: "oauth2", token: "t"}
		if err := cred.setHost(setAuthParams{Host: text, Protocol: "https"}); err != nil {
			if asRPCError(err).Code != codeInvalidParams {
				t.Errorf("%q: %v, want invalid params", text, err)
			}
			return
		}
		if cred.host == "" || cred.host[0] == '-' || strings.ContainsAny(cred.host, "/@?#\\%\"'* ") || hasControl(cred.host) || cred.host != strings.ToLower(cred.host) {
			t.Errorf("%q became the host %q, want a host in lower case without odd characters", text, cred.host)
		}
		line := cred.line()
		again, ok := parseCredential(strings.TrimSuffix(line, "\n"))
		if !ok || again != cred || strings.Count(line, "\n") != 1 {
			t.Errorf("%q became the line %q, which reads as %+v, want one line that reads as the same", text, line, again.host)
		}
		u, err := parseRemoteURL("https://" + cred.host + "/x")
		if err != nil || u.credentialHost() != cred.host {
			t.Errorf("%q became %q, which a URL has as %q (%v), want the same in both", text, cred.host, u.credentialHost(), err)
		}
	})
}

// No password is shown, wherever it is in a remote's URL.
func FuzzWithoutCredentials(f *testing.F) {
	f.Add("https", "user", "s3cret-password", "example.org:8443", "a/b.git")
	f.Add("ssh", "git", "s3cret:pass@word", "[::1]", "~u/x")
	f.Add("", "git", "s3cret-password", "h", "a/b")
	f.Add("ftp", "", "p%40ss w\x1bord", "h\xff", "x?y#z")
	f.Fuzz(func(t *testing.T, scheme, user, password, host, rest string) {
		const short = 6 // can occur in the rest by chance
		if len(password) < short || strings.ContainsAny(scheme+user+password+host, "/?#") || strings.ContainsAny(scheme+host, "@") || strings.Contains(rest, "@") {
			t.Skip() // no credentials for any reader of URLs
		}
		text := scheme + "://" + user + ":" + password + "@" + host + "/" + rest
		if scheme == "" {
			if strings.Contains(user+password, "@") {
				t.Skip()
			}
			text = user + ":" + password + "@" + host + ":" + rest
		}
		got := withoutCredentials(text)
		if shown := cleanText(password); len(shown) >= short && strings.Contains(got, shown) && !strings.Contains(cleanText(scheme+"\n"+host+"\n"+rest), shown) {
			t.Errorf("%q became %q, want the password left out", text, got)
		}
		if cleanText(got) != got {
			t.Errorf("%q became %q, which is not fit to be shown, want text that is clean", text, got)
		}
	})
}

// A .git file names a single path.
func FuzzGitFile(f *testing.F) {
	for _, seed := range []string{"gitdir: ../.git/worktrees/x\n", "gitdir: /a b\r\n", "gitdir: ", "gitdir: a\nb", "gitdir: a\x00b", "", "gitdir: \xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target := parseGitFile(text)
		if target == "" {
			return
		}
		if strings.ContainsAny(target, "\x00\n") || parseGitFile("gitdir: "+target+"\n") != target {
			t.Errorf("%q names %q, want one path that reads as the same", text, target)
		}
	})
}

// For any message of git, the reason is a documented one and the summary a
// single short line. Text of a remote that git passes on does not affect the
// reason.
func FuzzGitError(f *testing.F) {
	for _, seed := range []string{
		"fatal: Authentication failed for 'http://h/x/'\n", "remote: error: 403\nfatal: unable to access 'http://h/': The requested URL returned error: 404\n",
		"error: object 12: hasDotgit\nfatal: fsck error in packed object\n", "\n\n", "fatal: " + strings.Repeat("ü", 400), "fatal: caf\xe9",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stderr string) {
		_, text := linesOf(newRedactor(), stderr, 1000)
		reason, summary := classifyGit(text), summarizeGit(text)
		switch reason {
		case gitAuth, gitForbidden, gitNotFound, gitMoved, gitNetwork, gitTimeout, gitDiskFull, gitTooLarge, gitCorrupt, gitOther:
		default:
			t.Errorf("%q: the reason %q, want one of the reasons", stderr, reason)
		}
		if summary == "" || len(summary) > 500 || !utf8.ValidString(summary) || strings.ContainsAny(summary, "\r\n\x1b") {
			t.Errorf("%q: the summary %q, want a line of clean text, at most 500 bytes", stderr, summary)
		}
		for _, words := range []string{"fatal: Authentication failed", "error: 403", "No space left on device", "fsck"} {
			if got := classifyGit(text + "remote: " + words + "\n"); got != reason {
				t.Errorf("%q: a remote made %s of %s, want the same reason whatever a remote says", stderr, got, reason)
			}
		}
	})
}

// A revision resolves as in git, or to no commit; it never causes a failure.
func FuzzRevision(f *testing.F) {
	for _, seed := range []string{"HEAD", "main~1", "v1^{}", "HEAD^{tree}", "main^{commit}^{commit}", "@", "HEAD^0", "HEAD~99999999999999999999", "^HEAD", "a..b", "HEAD@{1}", ":/x", "--all", "caf\xe9", "HEAD^{", "HEAD^{blob}", "main^^{/x}", "v1-0-gabcdef", "v1", "tree", "a b", "HEAD\nHEAD"} {
		f.Add(seed)
	}
	dir := realTempDir(f)
	r := newTestRepoAt(f, dir, map[string]string{"a": "1"})
	r.commit("second", map[string]string{"a": "2"})
	r.git("tag", "-m", "x", "v1")
	r.git("tag", "tree", "HEAD^{tree}")
	g := newTestGitReader(f, dir)
	f.Fuzz(func(t *testing.T, rev string) {
		page, err := g.history(t.Context(), logParams{pathParam: at(dir), Ref: &rev, Limit: new(1)})
		if err != nil && asRPCError(err).Code == codeInvalidParams {
			return
		}
		if err != nil && asRPCError(err).name() != codeCommitNotFound {
			t.Fatalf("%q: %v, want %s", rev, err, codeCommitNotFound)
		}
		unknown := err != nil
		want, err := r.tryGit("", "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
		if unknown {
			if err == nil {
				t.Errorf("%q is no commit, for git %q", rev, want)
			}
			return
		}
		if err != nil || strings.TrimSpace(want) != page.Commits[0].OID {
			t.Errorf("%q is %s, for git %q (%v)", rev, page.Commits[0].OID, want, err)
		}
	})
}

// A path inside a commit names what git finds there, or nothing.
func FuzzBlobPath(f *testing.F) {
	dir := realTempDir(f)
	r, _, _ := newOddRepo(f, dir)
	for _, name := range splitNUL(r.output("", "ls-tree", "-r", "-z", "--name-only", "HEAD")) {
		if !strings.HasPrefix(name, "many/") {
			f.Add(name)
		}
	}
	for _, seed := range []string{"sub", "../x", "/etc/passwd", ".git/config", "sub//deep", "a\x00b", ".git-daemon.x/y", "*", ":(top)README.md", "./README.md", "README.md/", "HEAD:README.md"} {
		f.Add(seed)
	}
	g := newTestGitReader(f, dir)
	f.Fuzz(func(t *testing.T, file string) {
		got, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Files: []string{file}})
		if err != nil {
			if e := asRPCError(err); e.Code != codeInvalidParams && e.name() != codeAccessDenied {
				t.Errorf("%q: %v, want invalid params or %s", file, err, codeAccessDenied)
			}
			return
		}
		want, err := r.tryGit("", "cat-file", "blob", "HEAD:"+file)
		switch b := got.Blobs[0]; {
		case b.Error != nil && b.Error.name() == codeSourceNotFound && err != nil:
		case b.Error == nil && err == nil:
			if text, _ := blobText(want); *b.Content != text {
				t.Errorf("%q holds %q, for git %q, want the same", file, *b.Content, text)
			}
		default:
			t.Errorf("%q: %s, for git %q, %v", file, asJSON(t, got), want, err)
		}
	})
}
