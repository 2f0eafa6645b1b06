package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A reference in packed-refs can have a name that is too long for a file. It is
// listed, and it can be named as a revision and by HEAD.
func TestLongRefNamesAreShownAndResolved(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a": "a\n"})
	first := r.head()
	second := r.commit("second", map[string]string{"b": "b\n"})
	branch := "topic/" + strings.Repeat("b", 300)
	deep := strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 100)+"/", 15), "/")
	tag := strings.Repeat("t", 251)
	r.git("pack-refs", "--all")
	packed := fmt.Sprintf("%s refs/heads/%s\n%s refs/heads/%s\n%s refs/tags/%s\n", second, branch, first, deep, first, tag)
	path := filepath.Join(r.dir, ".git", "packed-refs")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(old, packed...), 0o644); err != nil {
		t.Fatal(err)
	}
	g, f := newTestGitReader(t, dir), fsOn(t, dir)
	for _, p := range []refsParams{{pathParam: at(r.dir)}, {URL: new("file://" + filepath.ToSlash(r.dir))}} {
		got, err := g.listRefs(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]string{}
		for _, ref := range got.Refs {
			names[ref.Name] = ref.OID
		}
		if names["refs/heads/"+branch] != second || names["refs/heads/"+deep] != first || names["refs/tags/"+tag] != first {
			t.Errorf("got %d references %.300q, want the long ones among them", len(names), asJSON(t, got.Refs))
		}
	}
	for rev, want := range map[string]string{branch: second, "refs/heads/" + branch: second, "heads/" + deep: first, branch + "~1": first, branch + "^{commit}": second, tag: first, "tags/" + tag + "^0": first} {
		got, err := g.manifest(t.Context(), manifestParams{pathParam: at(r.dir), Commit: &rev})
		if err != nil || *got.Commit != want {
			t.Errorf("%.60s… as a revision: got %s, %v, want %s", rev, asJSON(t, got.Commit), err, want)
		}
	}
	_, err = g.manifest(t.Context(), manifestParams{pathParam: at(r.dir), Commit: new(branch + "x")})
	wantFailure(t, err, codeCommitNotFound)

	for _, target := range []string{"refs/heads/" + branch, "refs/heads/" + deep} {
		if err := os.WriteFile(filepath.Join(r.dir, ".git", "HEAD"), []byte("ref: "+target+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{true: first, false: second}[strings.HasSuffix(target, deep)]
		info, err := g.info(t.Context(), infoParams{at(r.dir)})
		if err != nil || info.Branch == nil || "refs/heads/"+*info.Branch != target || info.Head == nil || *info.Head != want || info.LastCommit == nil || info.Dirty.Staged != map[bool]int{true: 1, false: 0}[want == first] {
			t.Errorf("HEAD at %.60s…: got %.500s, %v, want the branch at %s", target, asJSON(t, info), err, want)
		}
		log, err := g.history(t.Context(), logParams{pathParam: at(r.dir)})
		if err != nil || len(log.Commits) == 0 || log.Commits[0].OID != want {
			t.Errorf("HEAD at %.60s…: got the log %.300s, %v, want %s first", target, asJSON(t, log), err, want)
		}
		scan, err := f.repoScan(t.Context(), repoScanParams{Paths: []string{r.dir}})
		if err != nil || len(scan.Repos) != 1 || scan.Repos[0].Head == nil || *scan.Repos[0].Head != want || scan.Repos[0].LastCommitAt == nil {
			t.Errorf("HEAD at %.60s…: got the scan %.500s, %v, want %s", target, asJSON(t, scan), err, want)
		}
		refs, err := g.listRefs(t.Context(), refsParams{pathParam: at(r.dir)})
		if err != nil || refs.Head.Ref == nil || *refs.Head.Ref != target {
			t.Errorf("HEAD at %.60s…: got %.300s, %v, want it by name", target, asJSON(t, refs.Head), err)
		}
	}
}
