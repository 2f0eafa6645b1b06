//go:build linux || darwin

package main

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// All pages of a listing together cost one run of git, or two, whatever their number,
// and hold what one large page holds.
func TestPagesShareARun(t *testing.T) {
	skipShort(t, "commits dozens of times")
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"a": "0"})
	for n := range 12 {
		repo.commit(fmt.Sprint("commit ", n), map[string]string{fmt.Sprint("file", n): "x"})
	}
	first := repo.git("rev-parse", "HEAD~12")
	g := newTestGitReader(t, repo.dir)
	wrapper := newGitWrapper(t, g.git.path)
	g.git.version()
	g.git.path = wrapper.path()
	limits := []*int{new(100), new(2)}
	starts := func(what, subcommand string, most int) {
		t.Helper()
		started := 0
		all := wrapper.starts()
		for _, line := range all {
			if subcommands([]string{line}) == subcommand {
				started++
			}
		}
		if started > most {
			t.Errorf("%s: git %s was started %d times, want at most %d", what, subcommand, started, most)
		}
	}
	files := newFSService(g.access, g.git, g.log)
	var logs, diffs, names [2][]string
	for i, limit := range limits {
		wrapper.starts()
		p := logParams{pathParam: at(repo.dir), Limit: limit}
		for more := true; more; more = p.Cursor != nil {
			r, err := g.history(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range r.Commits {
				logs[i] = append(logs[i], c.OID)
			}
			p.Cursor = r.NextCursor
		}
		starts("vcs/log", "log", 2) // the first page is a run of its own
		d := diffParams{pathParam: at(repo.dir), From: first, Limit: limit}
		for more := true; more; more = d.Cursor != nil {
			r, err := g.diff(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range r.Changes {
				diffs[i] = append(diffs[i], fmt.Sprint(c.Path, *c.OID, *c.Size))
			}
			d.Cursor = r.NextCursor
		}
		starts("index/diff", "diff-tree", 1)
		glob := globParams{pathParam: at(repo.dir), Limit: limit}
		var kept *nameList
		for more := true; more; more = glob.Cursor != nil {
			r, err := files.glob(t.Context(), glob)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.Files {
				names[i] = append(names[i], f.Path)
			}
			if glob.Cursor = r.NextCursor; glob.Cursor != nil {
				// As if nothing had changed for a while before the list was made.
				list := files.names.lists[0].list.(*nameList)
				list.began = time.Now().Add(clockDifference)
				if kept != nil && kept != list {
					t.Error("fs/glob listed the files again for a page, want the list of the page before")
				}
				kept = list
			}
		}
		starts("fs/glob", "ls-files", 1)
	}
	if len(logs[0]) != 13 || !slices.Equal(logs[0], logs[1]) {
		t.Errorf("vcs/log in pages gave\n%v\nwant\n%v", logs[1], logs[0])
	}
	if len(diffs[0]) != 12 || !slices.Equal(diffs[0], diffs[1]) {
		t.Errorf("index/diff in pages gave\n%v\nwant\n%v", diffs[1], diffs[0])
	}
	if len(names[0]) != 13 || !slices.Equal(names[0], names[1]) {
		t.Errorf("fs/glob in pages gave\n%v\nwant\n%v", names[1], names[0])
	}
	if n := len(files.names.lists); n != 0 {
		t.Errorf("%d lists of files are kept after the last page, want none", n)
	}
	if n := len(g.access.views.logs.kept); n != 0 {
		t.Errorf("%d streams are kept after the last page, want none", n)
	}
}

// A stream that waits for its next page ends with the daemon, and a page that comes
// after its stream was ended is read by another one.
func TestLogStreamEnds(t *testing.T) {
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"a": "0"})
	for n := range 5 {
		repo.git("commit", "-q", "--allow-empty", "-m", fmt.Sprint(n))
	}
	g := newTestGitReader(t, repo.dir)
	page := func(cursor *string) logResult {
		t.Helper()
		r, err := g.history(t.Context(), logParams{pathParam: at(repo.dir), Limit: new(2), Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	second := page(page(nil).NextCursor)
	logs := &g.access.views.logs
	if len(logs.kept) != 1 {
		t.Fatalf("%d streams are kept, want 1", len(logs.kept))
	}
	s := logs.kept[0]
	s.end()
	third := page(second.NextCursor)
	if len(third.Commits) != 2 || third.NextCursor != nil {
		t.Errorf("the last page has %d commits and the cursor %v, want 2 and none", len(third.Commits), third.NextCursor)
	}
	page(page(nil).NextCursor)
	kept := logs.kept
	g.access.views.close()
	for _, s := range kept {
		<-s.ended
	}
	if len(kept) != 1 || len(g.access.views.views) != 0 {
		t.Errorf("%d streams were kept, and %d views are left, want 1 and none", len(kept), len(g.access.views.views))
	}
}
