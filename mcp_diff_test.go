//go:build linux || darwin

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMCPDiff: the pages of git_diff have each file once, patches are whole, and
// the counts alone take less.
func TestMCPDiff(t *testing.T) {
	t.Parallel()
	skipShort(t, "a real daemon and git")
	files := map[string]string{"odd": "a\n", "old.txt": "one\ntwo\nthree\nfour\n", "large.txt": "x\n", "data.bin": "a\x00b"}
	const count = 120
	for n := range count {
		files[fmt.Sprintf("d/%03d.txt", n)] = "before\n"
	}
	repo := newTestRepo(t, files)
	for n := range count {
		files[fmt.Sprintf("d/%03d.txt", n)] = strings.Repeat("after\n", n)
	}
	files["large.txt"], files["data.bin"] = strings.Repeat("line\n", 10_000), "a\x00c"
	delete(files, "old.txt")
	repo.git("mv", "old.txt", "new.txt")
	repo.commit("second", files)
	b := newMCPBench(t, repo.dir)
	path := []any{"path", repo.dir, "from", "HEAD~1", "to", "HEAD"}

	lines, pages := b.pages("git_diff", path...)
	text := "\n" + strings.Join(lines, "\n")
	for n := range count {
		name := fmt.Sprintf("d/%03d.txt", n)
		if got := strings.Count(text, "\nM "+name+" +"); got != 1 || strings.Count(text, "diff --git a/"+name+" ") != 1 {
			t.Errorf("%s: got %d lines of counts, want one and one patch", name, got)
		}
	}
	for _, want := range []string{"R old.txt -> new.txt +0 -0", "M data.bin binary", "M large.txt +10000 -1 (its patch alone is larger than max_bytes: raise it)", "-before\n+after"} {
		if !strings.Contains(text, want) {
			t.Errorf("got no %q in %.3000s", want, text)
		}
	}
	if pages < 3 {
		t.Errorf("got %d pages, want more: the patches have %d bytes", pages, len(text))
	}
	stat, statPages := b.pages("git_diff", append(path, "stat", true)...)
	if len(stat) != count+3 || statPages >= pages {
		t.Errorf("stat: got %d files in %d pages, want %d in fewer than %d", len(stat), statPages, count+3, pages)
	}
	if got := b.text("git_diff", append(path, "files", []string{"large.txt"}, "max_bytes", 100_000)...); !strings.Contains(got, "+line\n+line") {
		t.Errorf("got %.300s, want the patch of a file that fits", got)
	}
	if err := os.WriteFile(filepath.Join(repo.dir, "odd"), []byte("b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := b.text("git_diff", "path", repo.dir); !strings.Contains(got, " to the files on disk]\nM odd +1 -1\n") {
		t.Errorf("got %s, want the change on disk", got)
	}
	for _, test := range []struct {
		more []any
		want string
	}{
		{[]any{"to", "nope"}, "COMMIT_NOT_FOUND"}, {[]any{"cursor", "x"}, "INVALID_PARAMS: cursor"}, {[]any{"max_bytes", 1}, "INVALID_ARGUMENTS: max_bytes"},
		{[]any{"files", []string{"../x"}}, "INVALID_PARAMS: files"},
	} {
		if got := b.refusal("git_diff", append([]any{"path", repo.dir}, test.more...)...); !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("%v: got %s, want %s", test.more, got, test.want)
		}
	}
	if got := b.text("call_method", "method", "vcs/blame", "params", map[string]any{"path": repo.dir, "file": "d/001.txt"}); !strings.Contains(got, `"original_file":"d/001.txt"`) {
		t.Errorf("vcs/blame: got %s, want the commit of each line", got)
	}
}
