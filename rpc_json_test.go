package main

import (
	"bytes"
	"encoding/json"
	"testing"
)

// reflected is v as encoding/json writes it.
func reflected(t *testing.T, v any) string {
	t.Helper()
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

func FuzzAppendJSON(f *testing.F) {
	for _, seed := range []string{"", "a/b.go", "\"\\\n\r\t\b\f\x00\x1f\x7f", "é\u2028\u2029\U0001F600", "\xff\xfe<>&", "\xed\xa0\x80",
		"seven b", "eight by\"", "12345678\\2345678", "1234567\n", "\u00e9\u4e2d\u6587 and ASCII text\t", "1234567\x80"} {
		f.Add(seed, "100644", int64(7))
		f.Add("x", seed, int64(-1))
	}
	f.Fuzz(func(t *testing.T, text, mode string, size int64) {
		if got, want := string(appendJSONString(nil, text)), reflected(t, text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
		if got := string(appendJSONText([]byte(mode), []byte(text))); got != mode+reflected(t, text) {
			t.Errorf("%q appended to %q: got %s", text, mode, got)
		}
		r := manifestResult{Files: []manifestFile{}, Total: size}
		for range max(size%4, 0) {
			file := manifestFile{Path: text, OID: "01ab", Mode: mode, PathBase64: nameBase64(text)}
			if size%2 == 0 {
				file.Size = &size
			}
			r.Files = append(r.Files, file)
			r.Commit, r.NextCursor = &text, &mode
		}
		blobs := blobsResult{Blobs: []blobEntry{{Path: text, Error: failure(codeSourceNotFound, "%s", mode).with("bytes", size)}}}
		for range max(size%4, 0) {
			n := int(size)
			blobs.Blobs = append(blobs.Blobs, blobEntry{OID: &mode, Path: mode, Size: &size, Encoding: "utf-8", Content: &text})
			blobs.NextIndex = &n
		}
		read := &readFileResult{
			Path: text, PathBase64: nameBase64(text), Content: jsonText(text + mode), Encoding: mode,
			Offset: size, Length: len(text), Size: size, EOF: size%2 == 0, Mtime: mode,
		}
		if size%2 == 0 {
			read.Head = &text
		}
		glob, log := &globResult{Files: []globFile{}, Skipped: int(size)}, logResult{Commits: []commitEntry{}}
		for n := range max(size%4, 0) {
			glob.Files = append(glob.Files, globFile{Path: text, PathBase64: nameBase64(text), Size: size, Mtime: mode})
			person := commitPerson{Name: text, Email: mode, At: mode}
			log.Commits = append(log.Commits, commitEntry{
				OID: mode, Parents: append([]string{}, []string{text, mode}[:n%3]...), IsBoundary: n == 1, Author: person, Committer: person, Subject: text, Body: mode,
			})
			glob.NextCursor, glob.Head, log.NextCursor = &mode, &text, &mode
		}
		for _, v := range []any{r, blobs, read, glob, log} {
			var buf bytes.Buffer
			if err := encodeJSON(&buf, v); err != nil {
				t.Fatal(err)
			}
			if want := reflected(t, v); buf.String() != want {
				t.Errorf("got %s\nwant %s", buf.String(), want)
			}
		}
	})
}
