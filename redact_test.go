package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func TestSecretIsNotPrinted(t *testing.T) {
	s := secret("s3cret")
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", s, "in", struct{ T secret }{s})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", s, "in", map[string]any{"t": s})
	text, err := json.Marshal(map[string]any{"token": s, "list": []secret{s}})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(text) + fmt.Sprint(s) + fmt.Sprintf("%v %+v %#v %s %q", s, struct{ T secret }{s}, s, s, s)
	if strings.Contains(all, "s3cret") {
		t.Errorf("got %s, want no secret in it", all)
	}
}

func TestRedact(t *testing.T) {
	r := newRedactor().withSecret("oauth2", "to/k:en 1")
	basic := base64.StdEncoding.EncodeToString([]byte("oauth2:to/k:en 1"))
	for _, test := range []struct{ given, want string }{
		{"nothing here", "nothing here"},
		{"https://user:pw@h/r", "https://h/r"},
		{"fatal: unable to access 'https://TOKEN@h/r/': no", "fatal: unable to access 'https://h/r/': no"},
		{"a https://x@h b ssh://git@k/r c", "a https://h b ssh://k/r c"},
		{"https://a@b@h/", "https://h/"},
		{"mail me@example.org", "mail me@example.org"},
		{"Authorization: Basic " + basic, "Authorization: Basic [redacted]"},
		{"authorization: bearer abcdefgh.ijk-lmn", "authorization: bearer [redacted]"},
		{"it is to/k:en 1!", "it is [redacted]!"},
		{"it is to%2Fk%3Aen+1!", "it is [redacted]!"},
		{"it is to%2fk%3aen%201!", "it is [redacted]!"},
	} {
		if got := r.text(test.given); got != test.want {
			t.Errorf("%q became %q, want %q", test.given, got, test.want)
		}
	}
}

// TestRedactPatterns compares the scanner with the patterns that it implements, on
// random texts of the characters that matter to them.
func TestRedactPatterns(t *testing.T) {
	t.Parallel()
	userinfo := regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s'"<>/]*@`)
	header := regexp.MustCompile(`(?i)\b(basic|bearer)\s+[A-Za-z0-9+/_.~=-]{8,}`)
	parts := []string{"https", "://", "a", "1", "+", "@", "@", "/", " ", "'", ":", "Basic", "bearer", "BEARER ", "abcdefgh", "=", "é", "\n", "_", "x\x00"}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var text strings.Builder
		for range random.IntN(14) {
			text.WriteString(parts[random.IntN(len(parts))])
		}
		want := header.ReplaceAllString(userinfo.ReplaceAllString(text.String(), "${1}"), "$1 "+redacted)
		if got := newRedactor().text(text.String()); got != want {
			t.Fatalf("%q became %q, want %q", text.String(), got, want)
		}
	}
}

// FuzzRedact: no form of the secret remains, wherever it occurs.
func FuzzRedact(f *testing.F) {
	f.Add("oauth2", "s3cret-token", "fatal: ", " and so on")
	f.Add("", "a/b:c@d%e+f#g?h i", "https://", "@host/path")
	f.Add("user", "ÄÖÜ-token-ß", "Basic ", "\n")
	f.Add("someone", "a/b:c@d%e+f#g?h i", "sent ", " back")
	f.Fuzz(func(t *testing.T, user, token, before, after string) {
		const short = 8 // such a short token can occur in the text by chance
		if len(token) < short || strings.Contains(redacted, token) {
			t.Skip()
		}
		s := secret(token)
		r := newRedactor().withSecret(user, s)
		for _, form := range []string{token, url.QueryEscape(token), url.PathEscape(token), percentEncode(token), base64.StdEncoding.EncodeToString([]byte(user + ":" + token))} {
			got := r.text(before + form + after)
			rest := strings.ReplaceAll(got, redacted, "\x00")
			for _, f := range append(s.forms(user), form) {
				if strings.Contains(rest, f) && !strings.Contains(before+"\x00"+after, f) {
					t.Fatalf("%q holds %q, want no form of the secret", got, f)
				}
			}
		}
	})
}
