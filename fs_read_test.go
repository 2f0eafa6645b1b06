package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestReadFile(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"text": "grüße", "with-nul": "a\x00b", "latin": "gr\xfc", "cut": "ab\xe2\x82", "empty": "", "sub/": ""})
	f := fsOn(t, dir)
	for _, test := range []struct {
		name, file     string
		offset, length int64
		content        string
		encoding       string
		used           int
		eof            bool
	}{
		{"whole", "text", 0, 100, "grüße", "utf-8", 7, true},
		{"exact", "text", 0, 7, "grüße", "utf-8", 7, true},
		{"cut in ü", "text", 0, 3, "gr", "utf-8", 2, false},
		{"after it", "text", 2, 3, "ü", "utf-8", 2, false},
		{"from within", "text", 3, 2, "vMM=", "base64", 2, false},
		{"half a character", "text", 2, 1, "ww==", "base64", 1, false},
		{"at the end", "text", 7, 5, "", "utf-8", 0, true},
		{"beyond", "text", 700, 5, "", "utf-8", 0, true},
		{"far beyond", "text", maxReadOffset, 5, "", "utf-8", 0, true},
		{"NUL", "with-nul", 0, 5, "YQBi", "base64", 3, true},
		{"not UTF-8", "latin", 0, 5, "Z3L8", "base64", 3, true},
		{"ends in half a character", "cut", 0, 5, "YWLigg==", "base64", 4, true},
		{"empty", "empty", 0, 5, "", "utf-8", 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(filepath.Join(dir, test.file)), Offset: &test.offset, Length: new(int(test.length))})
			if err != nil {
				t.Fatal(err)
			}
			info, _ := os.Stat(filepath.Join(dir, test.file))
			if string(got.Content) != test.content || got.Encoding != test.encoding || got.Length != test.used || got.EOF != test.eof || got.Size != info.Size() || got.Offset != test.offset {
				t.Errorf("got %+v, want the content, encoding and sizes of the test", got)
			}
		})
	}
	for _, test := range []struct {
		name string
		p    readFileParams
		want string
	}{
		{"directory", readFileParams{pathParam: pathOf(dir + "/sub")}, "param path"},
		{"missing", readFileParams{pathParam: pathOf(dir + "/none")}, "SOURCE_NOT_FOUND"},
		{"below a file", readFileParams{pathParam: pathOf(dir + "/text/x")}, "SOURCE_NOT_FOUND"},
		{"outside", readFileParams{pathParam: pathOf("/etc/passwd")}, "SOURCE_ACCESS_DENIED"},
		{"offset", readFileParams{pathParam: pathOf(dir + "/text"), Offset: new(int64(-1))}, "param offset"},
		{"no length", readFileParams{pathParam: pathOf(dir + "/text"), Length: new(0)}, "param length"},
		{"too long", readFileParams{pathParam: pathOf(dir + "/text"), Length: new(maxReadLength + 1)}, "param length"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := f.readFile(t.Context(), test.p)
			if got := fsCode(err); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// The pages of any length make up the file, and text stays text.
func TestReadFilePages(t *testing.T) {
	dir := realTempDir(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < 300 {
		text.WriteRune([]rune("aü€😀\n\"<")[rng.IntN(7)])
	}
	writeFiles(t, dir, map[string]string{"f": text.String()})
	f := fsOn(t, dir)
	for length := 1; length < 40; length++ {
		var got []byte
		for offset := int64(0); ; {
			page, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + "/f"), Offset: &offset, Length: &length})
			if err != nil {
				t.Fatal(err)
			}
			part := []byte(page.Content)
			if page.Encoding == "base64" {
				part, _ = base64.StdEncoding.DecodeString(string(page.Content))
				if length >= utf8.UTFMax {
					t.Fatalf("length %d: a page of text in base64, want utf-8", length)
				}
			}
			if len(part) != page.Length || !page.EOF && page.Length == 0 {
				t.Fatalf("length %d: %+v, want a page with content", length, page)
			}
			got = append(got, part...)
			if offset += int64(page.Length); page.EOF {
				break
			}
		}
		if string(got) != text.String() {
			t.Errorf("length %d: the pages are not the file, want them to be it", length)
		}
	}
}

// The escaped form of any part fits a message of 16 MiB.
func TestReadFileEscaping(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"controls": strings.Repeat("\x01", maxReadLength), "ff": strings.Repeat("\xff", maxReadLength), "sep": strings.Repeat("\u2028", maxReadLength/3)})
	f := fsOn(t, dir)
	for _, name := range []string{"controls", "ff", "sep"} {
		page, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(filepath.Join(dir, name)), Length: new(maxReadLength)})
		if err != nil {
			t.Fatal(err)
		}
		data, _ := json.Marshal(page)
		if len(data) > 15<<20 || page.Length < 1<<20 {
			t.Errorf("%s: %d bytes of JSON for %d, want at most 15 MiB for at least 1 MiB", name, len(data), page.Length)
		}
	}
}

func TestReadFileSparse(t *testing.T) {
	dir := realTempDir(t)
	file, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 40); err != nil {
		t.Skip("no file of 1 TiB here: ", err)
	}
	page, err := fsOn(t, dir).readFile(t.Context(), readFileParams{pathParam: pathOf(file.Name()), Offset: new(int64(1 << 39)), Length: new(10)})
	if err != nil || page.Length != 10 || page.Size != 1<<40 || page.EOF || page.Encoding != "base64" {
		t.Errorf("got %+v, %v, want 10 bytes in base64 of a file of 1 TiB", page, err)
	}
}

func TestReadFileCancelled(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"f": strings.Repeat("x", 1<<20)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := fsOn(t, dir).readFile(ctx, readFileParams{pathParam: pathOf(dir + "/f")})
	if got := fsCode(err); got != "REQUEST_CANCELLED" {
		t.Errorf("got %q, want REQUEST_CANCELLED", got)
	}
}

// While a file grows and shrinks, each page shows one moment, and reading ends.
func TestReadFileChanging(t *testing.T) {
	needsWholeWrites(t)
	dir := realTempDir(t)
	path := dir + "/f"
	writeFiles(t, dir, map[string]string{"f": strings.Repeat("x", 1000)})
	stop, done := make(chan struct{}), make(chan struct{})
	// Ends when stop is closed; the test waits for done.
	go func() {
		defer close(done)
		for size := int64(0); ; size = (size + 977) % 10_000 {
			select {
			case <-stop:
				return
			default:
				if os.Truncate(path, 0) == nil {
					_ = os.WriteFile(path, bytes.Repeat([]byte("x"), int(size)), 0o644) // the next iteration tries again
				}
			}
		}
	}()
	defer func() { close(stop); <-done }()
	f := fsOn(t, dir)
	for range 300 {
		offset := int64(0)
		for pages := 0; ; pages++ {
			page, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(path), Offset: &offset, Length: new(700)})
			if err != nil || pages > 100 {
				t.Fatalf("page %d: %v, want an end after at most 100 pages", pages, err)
			}
			if strings.Trim(string(page.Content), "x") != "" || len(page.Content) != page.Length || page.Length > 700 || page.Size < offset && page.Length > 0 {
				t.Fatalf("%+v, want a page of the file as it was", page)
			}
			offset += int64(page.Length)
			if page.EOF {
				break
			}
			if page.Length == 0 {
				break // it grew just after the read: the client reads again
			}
		}
	}
}

// The size and the time in each page show that a file was replaced between two
// pages.
func TestReadFileReplaced(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"f": "first, and long\n", "next": "second\n"})
	f := fsOn(t, dir)
	read := func(offset int64) *readFileResult {
		t.Helper()
		page, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + "/f"), Offset: &offset, Length: new(5)})
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	first := read(0)
	later := time.Now().Add(time.Hour)
	if err := errors.Join(os.Chtimes(dir+"/next", later, later), os.Rename(dir+"/next", dir+"/f")); err != nil {
		t.Fatal(err)
	}
	second := read(5)
	if string(first.Content) != "first" || string(second.Content) != "d\n" || first.Size != 16 || second.Size != 7 || !second.EOF || first.Mtime == second.Mtime {
		t.Errorf("%+v, then %+v, want the first file, then the second", first, second)
	}
}
