package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The records are the same however the stream is cut into pieces.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("a\x00b\nc\x00"), 1)
	f.Add([]byte("\x00\x00tail"), 3)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		var got []string
		err := readRecords(bufio.NewReaderSize(bytes.NewReader(stream), min(max(size, 1), 1<<16)), func(record []byte) error {
			got = append(got, string(record))
			return nil
		})
		if len(stream) > maxPathField {
			return
		}
		want := strings.Split(string(stream), "\x00")
		torn := want[len(want)-1] != ""
		if want = want[:len(want)-1]; !slices.Equal(got, want) || torn != errors.Is(err, io.ErrUnexpectedEOF) || !torn && err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
}

// No .gitignore and no path makes the parser or the matcher fail, and a rule
// gives the same result each time.
func FuzzIgnore(f *testing.F) {
	f.Add("*.log\n!keep.log\n/build/\n", "a/b.log", true)
	f.Add("\\ \r\n[!a-\n**/x/**\n\xff", "x/y", false)
	f.Add("x", "# end", false)
	f.Fuzz(func(t *testing.T, text, path string, isDir bool) {
		rules := ignoreRulesOf(text)
		first := rules.ignored(path, isDir)
		if first != ignoreRulesOf(text+"\n# end").ignored(path, isDir) {
			t.Errorf("%q, %q: a comment changes the answer, want the same", text, path)
		}
		if ignoreRulesOf(text+"\n!**").ignored(path, isDir) {
			t.Errorf("%q, %q: ignored although all is taken back, want false", text, path)
		}
	})
}

// Any part of any file can be decoded to the same bytes, and its JSON is not
// larger than estimated.
func FuzzEncodePart(f *testing.F) {
	f.Add([]byte("gr\xc3\xbc\xc3"), false)
	f.Add([]byte("a\x00\xe2\x80\xa8<\\\""), true)
	f.Fuzz(func(t *testing.T, data []byte, atEnd bool) {
		content, encoding, used := encodePart(data, atEnd)
		got := []byte(content)
		if encoding == "base64" {
			got, _ = base64.StdEncoding.DecodeString(string(content))
		} else if !utf8.Valid(content) || slices.Contains(content, 0) {
			t.Errorf("%q is no text, want UTF-8 without NUL", content)
		}
		if used > len(data) || !slices.Equal(got, data[:used]) || used == 0 && len(data) > 0 || atEnd && used < len(data) {
			t.Errorf("%q: %q, %d bytes, want the bytes of the data", data, got, used)
		}
		text := strings.ToValidUTF8(string(data), "?")
		if out, err := json.Marshal(text); err != nil || len(out) > jsonSize(text) {
			t.Errorf("%q: %d bytes of JSON, %d reckoned with, want at most as many", text, len(out), jsonSize(text))
		}
		if n := fitJSON([]byte(text), 30); n < len(text) {
			if out, err := json.Marshal(text[:n]); err != nil || len(out) > 30 || !utf8.ValidString(text[:n]) {
				t.Errorf("%q cut at %d: %s, want at most 30 bytes of UTF-8", text, n, out)
			}
		}
	})
}

func ignoreRulesOf(text string) *ignoreRules {
	var none *ignoreRules
	rules, _ := none.add("", text)
	return rules
}
