package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tokenHash returns the second field of a token's line.
func tokenHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestParseTokens(t *testing.T) {
	t.Parallel()
	one := tokenHash("one")
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"comments", "# a\n\n  # b\n", ""},
		{"one", "ci " + one + " read,call\n", ""},
		{"patterns", "ci " + one + " daemon machines=lap-*,desk libraries=a?\n", ""},
		{"carriage return", "ci " + one + " read\r\n", ""},
		{"half written", "ci " + one + " read", "no line end"},
		{"two fields", "ci read\n", "line 1: must be NAME"},
		{"a right that does not exist", "ci " + one + " read,write\n", `"write" is not a right`},
		{"an empty right", "ci " + one + " read,\n", "is not a right"},
		{"short hash", "ci sha256:00 read\n", "64 hexadecimal digits"},
		{"another hash", "ci md5:" + one[7:] + " read\n", "64 hexadecimal digits"},
		{"a token in place of its hash", "ci s3cret read\n", "64 hexadecimal digits"},
		{"name", "c/i " + one + " read\n", "a name must have"},
		{"long name", strings.Repeat("n", 65) + " " + one + " read\n", "a name must have"},
		{"name twice", "ci " + one + " read\nci " + tokenHash("two") + " read\n", "line 2: the name ci is used twice"},
		{"token twice", "a " + one + " read\nb " + one + " read\n", "line 2: a and b have the same token"},
		{"unknown field", "ci " + one + " read hosts=a\n", `"hosts" is not`},
		{"field twice", "ci " + one + " read machines=a machines=b\n", "machines is given twice"},
		{"no pattern", "ci " + one + " read machines=\n", "is not a pattern"},
		{"bad pattern", "ci " + one + " read machines=[a\n", "is not a pattern"},
	} {
		_, err := parseTokens([]byte(test.text))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error %v holds the token", test.name, err)
		}
	}
}

func TestTokenRightsAndPatterns(t *testing.T) {
	t.Parallel()
	set, err := parseTokens([]byte("a " + tokenHash("A") + " read,daemon machines=lap-*,desk libraries=l?\nb " + tokenHash("B") + " manage\n" +
		"c " + tokenHash("C") + " read machines=m\nd " + tokenHash("D") + " read libraries=l\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "a", "E", tokenHash("A")} {
		if found := set.find(text); found != nil {
			t.Errorf("find(%q) got %s, want nothing", text, found.name)
		}
	}
	a, b, c, d := set.find("A"), set.find("B"), set.find("C"), set.find("D")
	for _, test := range []struct {
		what      string
		got, want bool
	}{
		{"a reads", a.allows(rightRead), true},
		{"a connects daemons", a.allows(rightDaemon), true},
		{"a calls", a.allows(rightCall), false},
		{"a reads and calls", a.allows(rightRead | rightCall), false},
		{"a: lap-1", a.mayUseMachine("lap-1"), true},
		{"a: desk", a.mayUseMachine("desk"), true},
		{"a: desk2", a.mayUseMachine("desk2"), false},
		{"a: xlap-1", a.mayUseMachine("xlap-1"), false},
		{"a: library l1", a.mayUseLibrary("l1"), true},
		{"a: library l11", a.mayUseLibrary("l11"), false},
		{"c: any library", c.mayUseLibrary("x"), false},
		{"c: a machine", c.mayUseMachine("m"), true},
		{"d: a library", d.mayUseLibrary("l"), true},
		{"d: any machine", d.mayUseMachine("x"), false},
		{"b: any machine", b.mayUseMachine("x"), true},
		{"b: any library", b.mayUseLibrary("x"), true},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %v, want %v", test.what, test.got, test.want)
		}
	}
}

func TestNewTokenLine(t *testing.T) {
	t.Parallel()
	text, line, err := newTokenLine([]string{"ci", "read,call", "libraries=a*"})
	if err != nil {
		t.Fatal(err)
	}
	set, err := parseTokens([]byte(line + "\n"))
	if err != nil || len(text) != 64 || strings.Contains(line, text) {
		t.Fatalf("got %q of %d characters, %v, want a line without the token of 64", line, len(text), err)
	}
	if got := set.find(text); got == nil || got.name != "ci" || got.rights != rightRead|rightCall || got.mayUseLibrary("b") {
		t.Errorf("got %+v, want ci with read,call for a*", got)
	}
	for _, args := range [][]string{nil, {"ci"}, {"c i", "read"}, {"ci", "all"}, {"ci", "read", "x=1"}, {"#ci", "read"}, {"ci", "read\nevil sha256:00 manage"}, {"", "read"}} {
		if _, line, err := newTokenLine(args); err == nil {
			t.Errorf("newTokenLine(%q) got %q, want an error", args, line)
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte("a " + tokenHash("A") + " read,call machines=a*,b libraries=c\n# c\n"))
	f.Add([]byte(fmt.Sprintf("%s sha256:%064d manage\n", "x", 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseTokens(data)
		if err != nil {
			return
		}
		for hash, token := range set {
			// What was parsed can be written and parsed again.
			line := fmt.Sprintf("%s sha256:%x %s", token.name, hash, token.rights)
			if token.machines != nil {
				line += " machines=" + strings.Join(token.machines, ",")
			}
			if token.libraries != nil {
				line += " libraries=" + strings.Join(token.libraries, ",")
			}
			again, err := parseTokens([]byte(line + "\n"))
			if err != nil || fmt.Sprint(again[hash]) != fmt.Sprint(token) {
				t.Errorf("%q: got %v, %v, want %v", line, again[hash], err, token)
			}
		}
	})
}

// testTokens opens a tokens file with one token for each line; the text of each is
// its name in capitals.
func testTokens(t *testing.T, lines ...string) *tokensFile {
	t.Helper()
	var text strings.Builder
	for _, line := range lines {
		name, rest, _ := strings.Cut(line, " ")
		fmt.Fprintf(&text, "%s %s %s\n", name, tokenHash(strings.ToUpper(name)), rest)
	}
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openTokensFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
