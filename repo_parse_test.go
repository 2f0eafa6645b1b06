package main

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// configTexts are configuration files with all the syntax of git-config(1), and
// broken ones.
func configTexts() []string {
	return []string{
		"", "\n# c\n; c\n", "[a]\n\tb = c\n", "[a]b=c", "[A \"Sub.X\"]\nName = Value # comment\n", "[a.B]\nx=1\n[a.b \"c\"]\ny\n",
		"[a]\nx = \"  quoted # ; \" tail  \n", "[a]\nx = a \\\n  b\n", "[a]\nx = \\t\\n\\\\\\\"\\b\n", "[a]\r\nx = 1\r\n", "\ufeff[a]\nx=1\n",
		"[remote \"o\\\"r\\\\i\"]\nurl = https://example.org/x\nfetch = +refs/heads/*:refs/remotes/o/*\n", "[a]\nx =\n", "[a]\nx\n", "[a]\nx = \"\n", "[a\n", "[]\n", "x = 1\n",
		"[a \"b]\n", "[a \"b\" ]\n", "[a]\n1x = 2\n", "[a]\nx y\n", "[a]\nx = \\q\n", "[a] ; c\nx = 1", "[a \"\"]\nx=1\n", "[a]\nx = a  b  c  \n", "[a]\nx-y = \"a\"\"b\"\n",
	}
}

// The values that parseGitConfig reads are those that git reads.
func TestConfigIsReadAsGitDoes(t *testing.T) {
	r := newTestRepoAt(t, realTempDir(t), nil)
	for _, text := range configTexts() {
		settings, err := parseGitConfig(text)
		cmd := r.command("config", "-f", "-", "--no-includes", "-z", "--list")
		cmd.Stdin = strings.NewReader(text)
		out, gitErr := cmd.Output()
		if (err == nil) != (gitErr == nil) {
			t.Errorf("%q: error %v, git's %v, want both or none", text, err, gitErr)
			continue
		}
		if err != nil {
			continue
		}
		var got []string
		for _, v := range settings {
			key := strings.TrimPrefix(v.section+"."+v.name, ".")
			if v.subsection != "" {
				key = v.section + "." + v.subsection + "." + v.name
			}
			got = append(got, key+"\n"+v.value)
		}
		var want []string
		for _, line := range splitNUL(string(out)) {
			if !strings.Contains(line, "\n") {
				line += "\ntrue"
			}
			want = append(want, strings.ReplaceAll(line, "a..x", "a.x"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, git says %q", text, got, want)
		}
	}
}

func FuzzGitConfig(f *testing.F) {
	for _, text := range configTexts() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := parseGitConfig(text)
		if err != nil {
			return
		}
		// A configuration that a view writes is parsed to the same values.
		for _, v := range settings {
			if strings.ContainsAny(v.value, "\x00\r") || strings.ContainsAny(v.subsection, "\n\x00\r") || v.subsection == "" || v.section == "" || strings.Contains(v.section, ".") {
				continue
			}
			again, err := parseGitConfig("[" + v.section + " " + quoteSubsection(v.subsection) + "]\n" + v.name + " = " + quoteConfig(v.value) + "\n")
			if err != nil || len(again) != 1 || again[0] != v {
				t.Fatalf("%+v became %+v, %v, want the same", v, again, err)
			}
		}
	})
}

func FuzzRefs(f *testing.F) {
	id := strings.Repeat("0a", 20)
	f.Add("ref: refs/heads/main\n")
	f.Add(id + "\n")
	f.Add("# pack-refs with: peeled fully-peeled sorted \n" + id + " refs/heads/main\n" + id + " refs/tags/v1\n^" + id + "\n")
	f.Add("ref: refs/heads/main\tHEAD\n" + id + "\tHEAD\n" + id + "\trefs/tags/v1\n" + id + "\trefs/tags/v1^{}\n")
	f.Add("ref: ../../etc/passwd\n")
	f.Add("ref: refs/../../x\n" + id + " refs/heads/a b\n" + id + " refs/heads/x.lock\n" + id + " refs/heads/a..b\n")
	f.Fuzz(func(t *testing.T, text string) {
		oid, target := parseRefFile(text)
		if oid != "" && (target != "" || !isObjectID(oid)) || target != "" && !isRefName(target) {
			t.Errorf("%q: %q, %q, want an id or the name of a ref", text, oid, target)
		}
		refs := parsePackedRefs(text)
		same := func(a, b gitRef) bool { return a.name == b.name && a.oid == b.oid }
		if again := parsePackedRefs(packedRefs(refs)); !slices.EqualFunc(again, refs, same) {
			t.Errorf("%q: written and read: %v, %v, want the same", text, again, refs)
		}
		for _, ref := range refs {
			if !isObjectID(ref.oid) || strings.Contains(ref.name, "..") || strings.ContainsAny(ref.name, "\n\\ ") {
				t.Errorf("%q: took %+v, want an id and a clean name", text, ref)
			}
		}
	})
}

func FuzzTreeEntry(f *testing.F) {
	id := strings.Repeat("0a", 20)
	f.Add([]byte("100644 blob " + id + "     123\ta file"))
	f.Add([]byte("160000 commit " + id + "       -\tmodule"))
	f.Add([]byte("100644 blob " + id + "\ttab\tand\nline"))
	f.Add([]byte("100644 blob " + id + id[:24] + "  9999999999999999999\tx"))
	f.Add([]byte("999999 blob " + id + " 1\tx"))
	f.Add([]byte("\t"))
	f.Fuzz(func(t *testing.T, record []byte) {
		e, err := parseTreeEntry(record)
		if err != nil {
			return
		}
		if len(e.path) == 0 || e.size < -1 || len(e.mode) != 6 {
			t.Fatalf("%q: %+v, want a path, a size and a mode", record, e)
		}
		// Packing and unpacking twice gives the same result.
		l := &listing{}
		for range 2 {
			if err := l.add(e); err != nil {
				return // not a hexadecimal id
			}
		}
		l.seal()
		files := l.files(0, 2)
		if len(files) != 2 || exactName(t, files[1].Path, files[1].PathBase64) != string(e.path) || files[1].OID != strings.ToLower(string(e.oid)) || files[1].Mode != e.mode ||
			(files[1].Size == nil) != (e.size < 0) || e.size >= 0 && *files[1].Size != e.size {
			t.Errorf("%+v became %+v, want the same", e, files)
		}
	})
}

func FuzzObjectLine(f *testing.F) {
	id := strings.Repeat("0a", 20)
	for _, line := range []string{id + " blob 12", id + " missing", "HEAD^{commit} missing", "abc ambiguous", id + " submodule", id + " blob -1", id + " blob -0", id + " blob +1", id + " blob", "", "a b missing blob 3", "HEAD blob 12"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		o, err := parseObjectLine(line)
		if err == nil && o.oid != "" && !isObjectID(o.oid) {
			t.Errorf("%q: the id %q, want an id", line, o.oid)
		}
		if err == nil && o.oid != "" && line != o.oid+" "+o.kind+" "+strconv.FormatInt(o.size, 10) && !strings.Contains(line, " 0") {
			t.Errorf("%q: %+v, want the fields of the line", line, o)
		}
	})
}

func FuzzChange(f *testing.F) {
	id := strings.Repeat("0a", 20)
	f.Add([]byte(":100644 100755 " + id + " " + id + " M\x00a\x00"))
	f.Add([]byte(":100644 100644 " + id + " " + id + " R087\x00a\x00b\nc\x00"))
	f.Add([]byte(":100644 000000 " + id + " " + strings.Repeat("0", 40) + " D\x00a"))
	f.Add([]byte(":100644 000000 " + id + " " + id + " R\x00a\x00b\x00"))
	f.Add([]byte(":100644 100644 " + id + " " + id + " C100\x00a\x00b\x00"))
	f.Add([]byte(":100644 100644 " + id + " " + id + " M\x00\x00"))
	f.Fuzz(func(t *testing.T, out []byte) {
		r := bufio.NewReader(strings.NewReader(string(out)))
		for {
			c, err := readChange(r)
			if err != nil {
				return
			}
			if c.Path == "" || len(c.Status) != 1 || (c.Score != nil) != (c.OldPath != "") {
				t.Fatalf("%q: %+v, want a path, a status, and a score with the old path", out, c)
			}
		}
	})
}

func FuzzCommit(f *testing.F) {
	id := strings.Repeat("0a", 20)
	f.Add([]byte(id + "\x00" + id + " " + id + "\x00Ada\x00a@b\x0012\x00Bob\x00b@b\x0099999999999999999999\x00subject\x00body\n\x00"))
	f.Add([]byte(id + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + id + "\x00"))
	f.Fuzz(func(t *testing.T, out []byte) {
		r := bufio.NewReaderSize(strings.NewReader(string(out)), 16)
		for {
			c, err := readCommit(r)
			if err != nil {
				return
			}
			if !isObjectID(c.OID) || c.Parents == nil || len(c.Author.At) != len("2006-01-02T15:04:05Z") {
				t.Fatalf("%q: %+v, want ids and dates", out, c)
			}
		}
	})
}

func FuzzStatus(f *testing.F) {
	for _, record := range []string{"# branch.ab +1 -2", "1 M. N... 100644 100644 100644 a b c", "u UU x", "? a", "! a", "1", "# branch.ab x", ""} {
		f.Add([]byte(record))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		var w workStatus
		if err := w.add(record); err == nil && len(record) < 2 {
			t.Errorf("%q was taken, want an error", record)
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add(*pageCursor{Version: cursorVersion, Request: "q", State: "s"}.next(5))
	f.Add(*pageCursor{Version: cursorVersion, Request: "q", State: "s", After: []byte("name")}.text())
	f.Add(*pageCursor{Version: cursorVersion, Request: "q", State: "s", At: 5, After: []byte("name")}.text())
	f.Add(*pageCursor{Version: cursorVersion, Request: "q", State: "s", At: -5, After: []byte("name")}.text())
	f.Add(*pageCursor{Version: cursorVersion, Request: "q", State: "s", At: 5, Total: -5}.text())
	f.Add("")
	f.Add("e30")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := startCursor(&text, "q", "s")
		if err == nil && ((c.At < 1) == (len(c.After) == 0) || c.At < 0 || c.Total < 0 || c.Request != "q" || c.State != "s") {
			t.Errorf("%q: %+v, want one position and the request's own values", text, c)
		}
	})
}

// A field longer than the buffer is complete; one over the limit is cut, and
// the field after it is not lost.
func TestFieldsOfAnyLength(t *testing.T) {
	text := strings.Repeat("a", 100) + "\x00" + strings.Repeat("b", 1000) + "\x00c\x00torn"
	r := bufio.NewReaderSize(strings.NewReader(text), 16)
	for _, want := range []struct {
		field string
		cut   bool
	}{{strings.Repeat("a", 100), false}, {strings.Repeat("b", 100), true}, {"c", false}} {
		field, cut, err := readUntil(r, 0, 100)
		if string(field) != want.field || cut != want.cut || err != nil {
			t.Errorf("%q, %v, %v, want %+v", field, cut, err, want)
		}
	}
	if _, _, err := readUntil(r, 0, 100); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a torn field: %v, want %v", err, io.ErrUnexpectedEOF)
	}
}
