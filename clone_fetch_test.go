package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTreeGuardCounts(t *testing.T) {
	out := "040000 tree " + strings.Repeat("a", 40) + "       -\tdir\x00" +
		"100644 blob " + strings.Repeat("b", 40) + "      12\tdir/a\tb\nc\x00" +
		"160000 commit " + strings.Repeat("c", 40) + "       -\tsub\x00" +
		"100755 blob " + strings.Repeat("d", 40) + "     BAD\tx\x00"
	for size := range len(out) { // every way of cutting the stream
		g := &treeGuard{maxFiles: 10, maxBytes: 100}
		for rest := out; rest != ""; {
			n := min(size+1, len(rest))
			if _, err := g.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if g.files != 3 || g.dirs != 1 || g.bytes != 12 || g.missing != 1 {
			t.Fatalf("cut at %d: %+v", size, g)
		}
	}
}

func FuzzTreeGuard(f *testing.F) {
	f.Add([]byte("100644 blob aa 12\tx\x00"))
	f.Add([]byte("100644 blob aa 99999999999999999999\tx\x00"))
	f.Add([]byte(strings.Repeat("x", maxTreeHeader+1)))
	f.Add([]byte(strings.Repeat("040000 tree aa -\tx\x00", 4)))
	f.Add([]byte("100644 blob aa -5\tx\x00"))
	f.Add([]byte("100644 blob aa 50\tx\x00100644 blob aa 9223372036854775807\tx\x00"))
	f.Fuzz(func(t *testing.T, out []byte) {
		g := &treeGuard{maxFiles: 3, maxBytes: 100}
		_, err := g.Write(out)
		if err == nil && (g.files > 3 || g.dirs > 3 || g.bytes > 100 || g.bytes < 0) || len(g.header) > maxTreeHeader {
			t.Errorf("%+v passed", g)
		}
		if err != nil && !errors.Is(err, errTreeLimit) && !errors.Is(err, errTreeCorrupt) {
			t.Error(err)
		}
	})
}

// A few hundred bytes that stand for ten million files.
func TestCloneGitBomb(t *testing.T) {
	skipShort(t, "makes a tree of millions of files; TestTreeGuardCounts has the same subject")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("bomb", map[string]string{"a": "1"})
	entry := "100644 blob " + remote.git("rev-parse", "HEAD:a")
	for range 7 {
		var tree strings.Builder
		for i := range 10 {
			fmt.Fprintf(&tree, "%s\tf%d\n", entry, i)
		}
		id, err := remote.tryGit(tree.String(), "mktree")
		if err != nil {
			t.Fatal(err)
		}
		entry = "040000 tree " + strings.TrimSpace(id)
	}
	remote.git("update-ref", "refs/heads/main", remote.git("commit-tree", "-m", "bomb", strings.Fields(entry)[2]))
	_, err := w.try(cloneParams{URL: w.server.address("bomb")})
	wantGitFailure(t, err, gitTooLarge)
	w.noTemporaries()
}
