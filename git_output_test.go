package main

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

// linesOf returns the lines that a lineWriter passes on when standard error
// comes in pieces of step bytes, and the text that it keeps.
func linesOf(r *redactor, stderr string, step int) (lines []string, tail string) {
	w := &lineWriter{redact: r, each: func(line string) { lines = append(lines, line) }}
	for part := range slices.Chunk([]byte(stderr), max(step, 1)) {
		_, _ = w.Write(part) // never fails
	}
	w.flush()
	return lines, w.tail()
}

func TestLineWriter(t *testing.T) {
	t.Parallel()
	const stderr = "Cloning into 'x'...\nremote: Counting objects:  12% (49/402)        \rremote: \x1b[31mred\x1b[0m \x07words\u009b2J\r\n\n\r" +
		"Receiving objects: 100% (402/402), 812 bytes | 812.00 KiB/s, done.\nfatal: caf\xe9 https://u:p@h/x\nlast"
	want := []string{
		"Cloning into 'x'...", "remote: Counting objects:  12% (49/402)", "remote: [31mred[0m words2J",
		"Receiving objects: 100% (402/402), 812 bytes | 812.00 KiB/s, done.", "fatal: caf\uFFFD https://h/x", "last",
	}
	for _, step := range []int{1, 2, 7, 1000} {
		lines, tail := linesOf(newRedactor(), stderr, step)
		if !slices.Equal(lines, want) {
			t.Errorf("in pieces of %d: %q, want %q", step, lines, want)
		}
		if tail != strings.Join([]string{want[0], want[2], want[4], want[5], ""}, "\n") {
			t.Errorf("in pieces of %d it keeps %q, want the lines that are no progress", step, tail)
		}
	}
	// A line without end is cut, and of many lines the last ones are kept.
	lines, tail := linesOf(newRedactor(), strings.Repeat("x", 10*maxGitLine), 1000)
	if len(lines) != 1 || len(lines[0]) > maxGitLine || len(tail) > maxGitStderr {
		t.Errorf("%d lines, the first of %d bytes, %d kept, want one line and bounds kept", len(lines), len(lines[0]), len(tail))
	}
	_, tail = linesOf(newRedactor(), strings.Repeat("error: one\n", maxGitStderr)+"fatal: last\n", 1000)
	if len(tail) > maxGitStderr || !strings.HasSuffix(tail, "\nfatal: last\n") {
		t.Errorf("%d bytes are kept, at the end %q, want the last line, and at most the bound", len(tail), tail[len(tail)-20:])
	}
}

// No part of a token is passed on, wherever it is in a line and whatever bytes
// it has.
func TestLineWriterHidesSecrets(t *testing.T) {
	t.Parallel()
	const plain = "s3cret-0123456789"
	for _, test := range []struct{ name, token, stderr, want string }{
		{"alone", plain, plain, redacted},
		{"blanks at its end", plain + "  ", "it is " + plain + "  \n", "it is " + redacted},
		{"not UTF-8", "abc\xffdef\xe9ghi", "it is abc\xffdef\xe9ghi!\n", "it is " + redacted + "!"},
		{"a control character of Unicode", "abc\u0085defghi", "it is abc\u0085defghi!\n", "it is " + redacted + "!"},
		{"hidden by control characters", plain, "it is s3\x01cret-\x1b0123456789!\n", "it is " + redacted + "!"},
		{"as a header", plain, "you sent Basic " + base64.StdEncoding.EncodeToString([]byte("oauth2:"+plain)), "you sent Basic " + redacted},
	} {
		lines, tail := linesOf(newRedactor().withSecret("oauth2", secret(test.token)), test.stderr, 3)
		if len(lines) != 1 || lines[0] != test.want || tail != test.want+"\n" {
			t.Errorf("%s: %q, kept %q, want %q in both", test.name, lines, tail, test.want)
		}
	}
	// The end of a cut line can be the start of a token.
	for before := maxGitLine - 2*len(plain); before <= maxGitLine; before += 3 {
		lines, tail := linesOf(newRedactor().withSecret("", plain), strings.Repeat("x", before)+plain+strings.Repeat("x", 100), 1000)
		if all := strings.Join(lines, "") + tail; strings.Contains(all, "s") {
			t.Fatalf("behind %d bytes: …%q, want nothing of the token", before, all[len(all)-40:])
		}
	}
	// One token is a prefix of another.
	r := newRedactor().withSecret("", "short-token").withSecret("", "short-token-and-more")
	if lines, _ := linesOf(r, "short-token-and-more, short-token", 100); lines[0] != redacted+", "+redacted {
		t.Errorf("two tokens: %q, want both hidden", lines)
	}
}

// FuzzLineWriter: the lines are the same in whatever pieces standard error
// comes, they are valid text, and they contain no longer part of a token.
func FuzzLineWriter(f *testing.F) {
	f.Add("s3cret-0123456789", "fatal: ", " and so on\n", 3)
	f.Add("abc\xffdef ghi  ", "remote: \x1b[0m", "\r\nx", 1)
	f.Add("a/b:c@d%e+f#g?h i", "https://", "@host/path", 9)
	f.Fuzz(func(t *testing.T, token, before, after string, step int) {
		const piece = 8 // shorter parts can occur by chance
		if len(token) < piece || strings.ContainsAny(token, "\r\n") || strings.Contains(token, "redact") {
			t.Skip()
		}
		r := newRedactor().withSecret("user", secret(token))
		for _, form := range []string{token, percentEncode(token)} {
			lines, tail := linesOf(r, before+form+after, step)
			if whole, _ := linesOf(r, before+form+after, 1<<20); !slices.Equal(lines, whole) {
				t.Errorf("in pieces %q, in one %q, want them equal", lines, whole)
			}
			others, _ := linesOf(newRedactor(), before+"\n"+after, 1<<20)
			known := strings.Join(others, "\n")
			for _, line := range append(lines, strings.Split(tail, "\n")...) {
				if cleanText(line) != line {
					t.Errorf("%q is not fit to be shown, want clean text", line)
				}
				for at := 0; at+piece <= len(form); at++ {
					if part := form[at : at+piece]; strings.Contains(line, part) && !strings.Contains(known, part) {
						t.Errorf("%q holds %q, want no part of a token", line, part)
					}
				}
			}
		}
	})
}
