package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// maintain runs the steps in the background, round after round, until the test
// calls the returned function. The last round is complete.
func (r *testRepo) maintain(steps func(round int) [][]string) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	// Ends after the round in which stop is called, which waits for it.
	wg.Go(func() {
		for round := 0; ctx.Err() == nil; round++ {
			for _, args := range steps(round) {
				if _, err := r.tryGit("", args...); err != nil {
					r.t.Errorf("maintaining the repository: %v", err)
					return
				}
			}
		}
	})
	stop = func() { cancel(); wg.Wait() }
	r.t.Cleanup(stop)
	return stop
}

func TestInspectionDuringRepack(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a.txt": "needle\n", "sub/b.txt": "b\n"})
	first := r.head()
	stop := r.maintain(func(round int) [][]string {
		var steps [][]string
		// Each commit leaves loose objects, in directories that the repack deletes.
		for n := range 4 {
			steps = append(steps, []string{"commit", "-q", "--allow-empty", "-m", fmt.Sprintf("commit %d of round %d", n, round)})
		}
		return append(steps, []string{"branch", "-f", "topic/deep/er", "HEAD"}, []string{"repack", "-q", "-a", "-d"}, []string{"pack-refs", "--all", "--prune"})
	})
	g, f := newTestGitReader(t, dir), fsOn(t, dir)
	calls := map[string]func() error{
		"vcs/info": func() error { _, err := g.info(t.Context(), infoParams{at(r.dir)}); return err },
		"vcs/refs": func() error { _, err := g.listRefs(t.Context(), refsParams{pathParam: at(r.dir)}); return err },
		"vcs/log":  func() error { _, err := g.history(t.Context(), logParams{pathParam: at(r.dir)}); return err },
		"index/manifest": func() error {
			got, err := g.manifest(t.Context(), manifestParams{pathParam: at(r.dir)})
			if err == nil && len(got.Files) != 2 {
				err = fmt.Errorf("got %d files, want 2", len(got.Files))
			}
			return err
		},
		"index/readBlobs": func() error {
			got, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(r.dir), Files: []string{"a.txt"}})
			if err == nil && got.Blobs[0].Error != nil {
				err = got.Blobs[0].Error
			}
			return err
		},
		"index/diff": func() error {
			_, err := g.diff(t.Context(), diffParams{pathParam: at(r.dir), From: first})
			return err
		},
		"vcs/blame": func() error {
			got, err := g.blame(t.Context(), blameParams{pathParam: at(r.dir), File: "a.txt"})
			if err == nil && (len(got.Lines) != 1 || got.Lines[0].OID != first) {
				err = fmt.Errorf("got %s, want the first commit", asJSON(t, got))
			}
			return err
		},
		"vcs/diff": func() error {
			got, err := g.patches(t.Context(), patchParams{pathParam: at(r.dir), From: &first, To: new("HEAD")})
			if err == nil {
				got, err = g.patches(t.Context(), patchParams{pathParam: at(r.dir)})
			}
			if err == nil && len(got.Files) != 0 {
				err = fmt.Errorf("got %s, want no change", asJSON(t, got.Files))
			}
			return err
		},
		"fs/repoScan": func() error {
			got, err := f.repoScan(t.Context(), repoScanParams{Paths: []string{r.dir}})
			if err == nil && (len(got.Repos) != 1 || got.Repos[0].Head == nil || got.Repos[0].LastCommitAt == nil) {
				err = fmt.Errorf("got %s", asJSON(t, got.Repos))
			}
			return err
		},
	}
	const rounds = 25
	for range rounds {
		for name, call := range calls {
			if err := call(); err != nil {
				t.Errorf("%s during git repack: got %v, want no error", name, err)
			}
		}
	}
	stop()
}

func TestRefsNeverGoBackDuringPackRefs(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a.txt": "a\n"})
	// The commits have their number as message, so that their order is known.
	order := map[string]int{}
	for n := range 60 {
		order[r.git("commit-tree", "-m", strconv.Itoa(n), "HEAD^{tree}")] = n
	}
	ids := make([]string, len(order))
	for id, n := range order {
		ids[n] = id
	}
	// Many others, so that reading them takes a while.
	var many strings.Builder
	for n := range 8_000 {
		fmt.Fprintf(&many, "create refs/heads/many/%d %s\n", n, ids[0])
	}
	r.output(many.String(), "update-ref", "--stdin")
	r.git("pack-refs", "--all", "--prune")
	r.git("update-ref", "refs/tags/moving", ids[0])
	next := 1
	stop := r.maintain(func(int) [][]string {
		steps := [][]string{}
		if next < len(ids) {
			steps = append(steps, []string{"update-ref", "refs/tags/moving", ids[next]})
			next++
		}
		return append(steps, []string{"pack-refs", "--all", "--prune"})
	})
	a := newTestGitReader(t, dir).access
	for last := 0; last < len(ids)-1; {
		repo, err := openRepository(a, at(r.dir))
		if err != nil {
			t.Fatal(err)
		}
		found, known := order[repo.refID("refs/tags/moving")]
		if !known || found < last {
			t.Fatalf("the tag is at commit %d (known: %v) after it was at %d, want it never to go back", found, known, last)
		}
		last = found
	}
	stop()
}

// A repository that is moved away and back is either there or not; no error is
// about a path that the caller did not name.
func TestInspectionOfARepositoryThatVanishes(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a.txt": "a\n", "sub/b.txt": "b\n"})
	r.git("branch", "topic/deep/er")
	away := filepath.Join(dir, "away")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	// Ends when cancel is called, with the repository in its place.
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := errors.Join(os.Rename(r.dir, away), os.Rename(away, r.dir)); err != nil {
				t.Errorf("moving the repository: %v", err)
				return
			}
			for n := range 2000 { // stay for a while, so that calls find it
				if _, err := os.Lstat(r.dir); err != nil || n%100 == 0 && ctx.Err() != nil {
					break
				}
				runtime.Gosched()
			}
		}
	})
	defer func() { cancel(); wg.Wait() }()
	g := newTestGitReader(t, dir)
	calls := map[string]func() error{
		"vcs/info": func() error { _, err := g.info(t.Context(), infoParams{at(r.dir)}); return err },
		"vcs/refs": func() error { _, err := g.listRefs(t.Context(), refsParams{pathParam: at(r.dir)}); return err },
		"vcs/log":  func() error { _, err := g.history(t.Context(), logParams{pathParam: at(r.dir)}); return err },
		"vcs/diff": func() error { _, err := g.patches(t.Context(), patchParams{pathParam: at(r.dir)}); return err },
		"index/manifest": func() error {
			_, err := g.manifest(t.Context(), manifestParams{pathParam: at(r.dir)})
			return err
		},
	}
	const rounds = 60
	for range rounds {
		for name, call := range calls {
			err := call()
			if err == nil {
				continue
			}
			allowed := []errorCode{codeRepoNotFound, codeSourceNotFound, codeGitFailed, codeCommitNotFound}
			if code := asRPCError(err).name(); !slices.Contains(allowed, code) {
				t.Errorf("%s: got %v (%s), want a result or one of %v for the path of the repository", name, err, code, allowed)
			}
		}
	}
}
