package main

import (
	"strings"
	"testing"
)

func TestParseRemoteURL(t *testing.T) {
	needsUnixPaths(t)
	for _, c := range []struct{ text, url, key, name string }{
		{"https://Example.ORG/g/lib.git", "https://example.org/g/lib.git", "https://example.org/g/lib", "lib"},
		{"HTTPS://user:tok%40en@example.org.:443/g/lib/", "https://example.org/g/lib/", "https://example.org/g/lib", "lib"},
		{"https://t@example.org/g/lib.git/", "https://example.org/g/lib.git/", "https://example.org/g/lib", "lib"},
		{"http://127.0.0.1:0080/x", "http://127.0.0.1/x", "http://127.0.0.1/x", "x"},
		{"http://[::1]:3000/x", "http://[::1]:3000/x", "http://[::1]:3000/x", "x"},
		{"https://h/a%20b/c%2Bd", "https://h/a%20b/c%2Bd", "https://h/a%20b/c%2bd", "c+d"},
		{"ssh://git@h:2222/x/y.git", "ssh://git@h:2222/x/y.git", "ssh://git@h:2222/x/y", "y"},
		{"https://h/a/b.git%20x", "https://h/a/b.git%20x", "https://h/a/b.git%20x", "b.git x"},
		{"https://h/g/lib%2Egit/", "https://h/g/lib%2Egit/", "https://h/g/lib", "lib"},
		{"ssh://h/~u/y", "ssh://h/~u/y", "ssh://h/~u/y", "y"},
		{"git@h:g/lib.git", "git@h:g/lib.git", "ssh://git@h/~/g/lib", "lib"},
		{"git@[::1]:lib", "git@[::1]:lib", "ssh://git@[::1]/~/lib", "lib"},
		{"file:///srv/a%20b.git", "file:///srv/a%20b.git", "file:///srv/a%20b", "a b"},
		{"/srv/x y/.git", "file:///srv/x%20y/.git", "file:///srv/x%20y", "x y"},
		{"/srv/../srv/100%", "file:///srv/100%25", "file:///srv/100%25", "100%"},
		{"file://localhost/srv/x", "file:///srv/x", "file:///srv/x", "x"},
	} {
		u, err := parseRemoteURL(c.text)
		if err != nil {
			t.Errorf("%s: %v, want no error", c.text, err)
			continue
		}
		if u.String() != c.url || u.key() != c.key || u.defaultName() != c.name {
			t.Errorf("%s: url %s, key %s, name %s, want url %s, key %s, name %s", c.text, u, u.key(), u.defaultName(), c.url, c.key, c.name)
		}
	}
}

// Only addresses of the same repository have the same key.
func TestRemoteEquality(t *testing.T) {
	needsUnixPaths(t)
	groups := [][]string{
		{"https://h/a/b", "https://H:443/a/b.git", "https://h/a/b/", "https://h/a/b.git/", "https://user:token@h/a/b", "https://h/%61/b", "https://h//a/b/.git"},
		{"https://h/a%2Fb", "https://h/a%2fb.git"},
		{"http://h/a/b", "http://h:80/a/b"},
		{"https://h:8443/a/b"}, {"https://h/A/b"}, {"https://h/a/b.git.git"}, {"https://h/~/a"},
		{"git@h:a", "git@H:a.git", "git@h:a/", "git@h:~/a", "ssh://git@h/~/a", "ssh://git@h:22/~/a.git"},
		{"git@h:/a", "git@h:/a.git", "ssh://git@h/a", "ssh://git@h:22/a/"},
		{"x@h:a"}, {"y@h:a"}, {"x@h:/a", "ssh://x@h/a"}, {"ssh://h/a"}, {"ssh://git@h:2222/a"}, {"git@h:~u/a", "ssh://git@h/~u/a"},
		{"/srv/a", "file:///srv/a", "file://localhost/srv/a/.git", "/srv/./a.git"}, {"/srv/a%2Fb"}, {"/srv/a/b"}, {"/srv/A"},
	}
	group := map[string]int{}
	for n, texts := range groups {
		for _, text := range texts {
			u, err := parseRemoteURL(text)
			if err != nil {
				t.Errorf("%s: got %v, want no error", text, err)
				continue
			}
			key := u.key()
			if known, ok := group[key]; ok && known != n {
				t.Errorf("%s: got the key %s of %s, want one of its own", text, key, groups[known][0])
			} else if !ok && text != texts[0] {
				t.Errorf("%s: got the key %s, want that of %s", text, key, texts[0])
			}
			group[key] = n
		}
	}
}

// An encoded slash is part of a name and separates nothing.
func TestDefaultNameOfAnEncodedSlash(t *testing.T) {
	for text, want := range map[string]string{
		"https://h/b%2Fc": "b%2fc", "https://h/a/b%2fc.git": "b%2fc", "https://h/a%2Fb/c": "c", "https://h/x%20y": "x y", "git@h:b%2Fc": "b%2Fc", "https://h/a/.git": "a", "https://h/.git": "",
	} {
		u, err := parseRemoteURL(text)
		if err != nil || u.defaultName() != want {
			t.Errorf("%s: got the name %q, %v, want %q", text, u.defaultName(), err, want)
		}
	}
	if checkRepoName("b%2fc") == nil {
		t.Error("the name b%2fc was accepted, want an error that asks for a name")
	}
}

// An encoded slash is a part of its segment (RFC 3986, 2.2), which is then not a valid name.
func TestCloneNameOfEncodedSlash(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	for _, last := range []string{"b%2Fc", "b%2fc.git", "b%2F", "%2Fc", "a%2Fb%2Fc/"} {
		_, err := w.try(cloneParams{URL: w.server.address(last)})
		wantInvalid(t, err, "name")
	}
	if n := len(w.server.requests()); n != 0 {
		t.Errorf("the server was asked %d times, want never", n)
	}
}

func TestParseRemoteURLRefuses(t *testing.T) {
	for _, text := range []string{
		"", "-x", "--upload-pack=touch x", "ext::sh -c touch%20x", "fd::17/x", "git://h/x", "ftp://h/x", "javascript:x", "relative/path", "./x", "h:p", "C:x",
		"https://", "https:///x", "https://h", "https://h/", "https://h:0/x", "https://h:65536/x", "https://h:/x", "https://h:x/x", "https://h/x?q", "https://h/x#f",
		"https://h/a/../b", "https://h/a/%2e%2e/b", "https://h/-x", "https://h/a b", "https://h/a\nb", "https://h/a%0ab", "https://h/a%0db", "https://h/a%00", "https://h\\x/y",
		"https://u%0a:p@h/x", "https://h_/\"x", "https://é.org/x", "https://-h/x", "https://a..b/x", "https:h/x", "https://[::1%25eth0]/x",
		"ssh://-oProxyCommand=x/y", "ssh://-u@h/x", "ssh://u:p@h/x", "ssh://a$b@h/x", "-oProxyCommand=x:y", "u@-h:x", "u@h:", "u@h:-x", "u@h:../x", "u:p@h:x", "u@h::x",
		"file://h/x", "file:relative", "file://u@/x", "file:///a%0ab", "file:///x?q", "https://" + strings.Repeat("x/", maxURLLength),
	} {
		u, err := parseRemoteURL(text)
		if err == nil {
			t.Errorf("%q was taken as %s, want an error", text, u)
			continue
		}
		wantInvalid(t, err, "url")
	}
}

// An error must not repeat a URL, because it may contain a token.
func TestParseRemoteURLErrorsHideIt(t *testing.T) {
	for _, text := range []string{"https://s3cret@h:x/y", "https://u:s3cret@h/%zz", "https://s3cret@/x", "s3cret", "git://s3cret@h/x", "u:s3cret@h:x", "https://s3cret@h/a b"} {
		if _, err := parseRemoteURL(text); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v, want an error without the password", text, err)
		}
	}
}

func FuzzParseRemoteURL(f *testing.F) {
	for _, seed := range []string{"https://u:p@h:1/x.git", "git@h:x", "/a/b", "file:///a%20b", "ssh://u@[::1]:22/x", "https://h/%0a", "ext::x", "http://h/a?b#c", "https://h/a%20b%2Fc", "https://user:password@h/x", "/" + strings.Repeat("+", maxURLLength/2)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseRemoteURL(text)
		if err != nil {
			return
		}
		out := u.String()
		if strings.HasPrefix(out, "-") || hasControl(out) || len(u.password) > 3 && u.scheme != "file" && strings.Contains(out, ":"+string(u.password)+"@") {
			t.Errorf("%q became %q, want a URL without a password", text, out)
		}
		again, err := parseRemoteURL(out)
		if err != nil || again.key() != u.key() || again.String() != out {
			t.Errorf("%q became %q, which reads as %q (%v), want the same", text, out, again, err)
		}
	})
}

func TestCheckRef(t *testing.T) {
	for _, good := range []string{"main", "feat/sub", "v1.0", "refs/heads/x", "é", "a@b", "#1"} {
		if err := checkRef(good); err != nil {
			t.Errorf("%q: %v, want no error", good, err)
		}
	}
	for _, bad := range []string{"", "-x", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "a b", "a\x7f", "a\nb", "@", "a@{1}", strings.Repeat("a", maxRefLength+1)} {
		wantInvalid(t, checkRef(bad), "ref")
	}
}

// Git must accept every name that checkRef accepts.
func FuzzCheckRef(f *testing.F) {
	for _, seed := range []string{"main", "a/b", "a..b", "x.lock", "@", "é", "a\x80"} {
		f.Add(seed)
	}
	repo := newTestRepo(f, nil)
	f.Fuzz(func(t *testing.T, ref string) {
		if checkRef(ref) != nil {
			return
		}
		if _, err := repo.tryGit("", "check-ref-format", "refs/heads/"+ref); err != nil {
			t.Errorf("%q is no ref for git, want an error", ref)
		}
	})
}

func TestHostAllowed(t *testing.T) {
	for _, c := range []struct {
		patterns string
		host     string
		want     bool
	}{
		{"", "x", true}, {"example.org", "example.org", true}, {"Example.ORG.", "example.org", true}, {"example.org", "a.example.org", false},
		{"*.example.org", "a.b.example.org", true}, {"*.example.org", "example.org", false}, {"*.example.org", "evilexample.org", false},
		{"a,10.0.0.1", "10.0.0.1", true}, {"::1", "::1", true},
	} {
		var patterns []string
		if c.patterns != "" {
			patterns = strings.Split(c.patterns, ",")
		}
		for _, p := range patterns {
			if err := checkHostPattern(p); err != nil {
				t.Error(err)
			}
		}
		if got := hostAllowed(patterns, c.host); got != c.want {
			t.Errorf("%v allows %s: %v, want %v", patterns, c.host, got, c.want)
		}
	}
	for _, bad := range []string{"", "*", "*.", "a:80", "https://a", "a.*.b", "**.a"} {
		if checkHostPattern(bad) == nil {
			t.Errorf("the pattern %q was taken, want an error", bad)
		}
	}
}

func TestIsPrivateHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "git": true, "127.0.0.1": true, "10.1.2.3": true, "::1": true, "fe80::1": true, "x.local": true, "x.internal": true,
		"0.0.0.0": true, "::ffff:10.0.0.1": true, "LOCALHOST": true, "X.Local.": true, "git.": true,
		"example.org": false, "8.8.8.8": false, "local.org": false, "": false,
	} {
		if isPrivateHost(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}
