package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// object returns the file of a loose object.
func (r *testRepo) object(rev string) string {
	r.t.Helper()
	oid := r.git("rev-parse", rev)
	return filepath.Join(r.dir, ".git", "objects", oid[:2], oid[2:])
}

// lose deletes loose objects.
func (r *testRepo) lose(revs ...string) {
	r.t.Helper()
	for _, rev := range revs {
		if err := os.Remove(r.object(rev)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// shorten cuts the end of a loose object, which must be long, so that git still
// reads its header.
func (r *testRepo) shorten(rev string) {
	r.t.Helper()
	path := r.object(rev)
	if err := os.Chmod(path, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Truncate(path, 500); err != nil {
		r.t.Fatal(err)
	}
}

// numbers returns a text that does not compress well.
func numbers(seed int) string {
	var b strings.Builder
	for n := range 1000 {
		fmt.Fprintln(&b, (n+seed)*7919%10007)
	}
	return b.String()
}

func TestManifestWithAMissingBlob(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, map[string]string{"a": "a\n", "b": "bb\n", "d/c": "ccc\n", "huge": numbers(1)})
	oid := r.git("rev-parse", "HEAD:a")
	r.lose("HEAD:a")
	r.shorten("HEAD:huge")
	got, err := newTestGitReader(t, dir).manifest(t.Context(), manifestParams{pathParam: at(dir)})
	if err != nil {
		t.Fatalf("got %v, want a list with a size of null", err)
	}
	sizes := map[string]string{}
	for _, f := range got.Files {
		sizes[f.Path] = strings.TrimSpace(asJSON(t, f.Size))
	}
	if want := map[string]string{"a": "null", "b": "3", "d/c": "4", "huge": fmt.Sprint(len(numbers(1)))}; fmt.Sprint(sizes) != fmt.Sprint(want) || got.Files[0].OID != oid {
		t.Errorf("got the sizes %v and the id %s, want %v and %s", sizes, got.Files[0].OID, want, oid)
	}
}

// Blobs that a partial clone has keep their sizes.
func TestManifestOfAPartialClone(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	origin := newTestRepoAt(t, filepath.Join(dir, "origin"), map[string]string{"a": "a\n"})
	origin.commit("second", map[string]string{"b": "bb\n"})
	origin.git("config", "uploadpack.allowFilter", "true")
	clone := &testRepo{t: t, dir: dir}
	clone.git("clone", "-q", "--no-checkout", "--filter=blob:none", "file://"+origin.dir, "clone")
	clone.dir = filepath.Join(dir, "clone")
	clone.output("a\n", "hash-object", "-w", "--stdin")
	got, err := newTestGitReader(t, dir).manifest(t.Context(), manifestParams{pathParam: at(clone.dir)})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Files) != 2 || got.Files[0].Size == nil || *got.Files[0].Size != 2 || got.Files[1].Size != nil {
		t.Errorf("got %s, want the size 2 for a and null for b", asJSON(t, got.Files))
	}
}

func TestMissingTreeIsNotAnEmptyOne(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, map[string]string{"a": "a\n", "d/c": "c\n"})
	r.lose("HEAD:d")
	g := newTestGitReader(t, dir)
	_, err := g.manifest(t.Context(), manifestParams{pathParam: at(filepath.Join(dir, "d"))})
	wantGitFailure(t, err, gitCorrupt)
	_, err = g.manifest(t.Context(), manifestParams{pathParam: at(dir)})
	wantGitFailure(t, err, gitCorrupt)
	_, err = g.history(t.Context(), logParams{pathParam: at(dir), File: new("d")})
	wantGitFailure(t, err, gitCorrupt)
	got, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Files: []string{"a", "d/c"}})
	if err != nil || got.Blobs[0].Error != nil || got.Blobs[1].Error == nil || got.Blobs[1].Error.name() != codeGitFailed {
		t.Errorf("reading a file of a missing directory: got %s, %v, want GIT_FAILED for it", asJSON(t, got), err)
	}
	r.lose("HEAD^{tree}")
	_, err = g.manifest(t.Context(), manifestParams{pathParam: at(dir)})
	wantGitFailure(t, err, gitCorrupt)
	_, err = g.diff(t.Context(), diffParams{pathParam: at(dir), From: "HEAD"})
	wantGitFailure(t, err, gitCorrupt)
}

func TestReadBlobsThatAreMissingOrBroken(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, map[string]string{"a": "a\n", "b": numbers(1), "c": "c\n", "d": numbers(2), "e": "e\n", "new\nline": "nl\n"})
	var oids []string
	files := []string{"a", "b", "c", "d", "e", "new\nline", "no such"}
	for _, file := range files[:6] {
		oids = append(oids, r.git("rev-parse", "HEAD:"+file))
	}
	r.lose("HEAD:c", "HEAD:new\nline")
	r.shorten("HEAD:b")
	r.shorten("HEAD:d")
	g := newTestGitReader(t, dir)
	check := func(got blobsResult, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("got %v, want an error for each blob", err)
		}
		for n, want := range []string{"a\n", "GIT_FAILED", "SOURCE_NOT_FOUND", "GIT_FAILED", "e\n", "SOURCE_NOT_FOUND"} {
			b := got.Blobs[n]
			if b.OID == nil || *b.OID != oids[n] {
				t.Errorf("blob %d: got the id %s, want %s", n, asJSON(t, b.OID), oids[n])
			}
			if b.Error != nil && string(b.Error.name()) != want || b.Error == nil && *b.Content != want {
				t.Errorf("blob %d: got %s, want %s", n, asJSON(t, b), want)
			}
			if want == "GIT_FAILED" && b.Error != nil && b.Error.Data["reason"] != gitCorrupt {
				t.Errorf("blob %d: got the reason %v, want %s", n, b.Error.Data["reason"], gitCorrupt)
			}
		}
	}
	check(g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), OIDs: oids}))
	got, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Files: files})
	check(got, err)
	if last := got.Blobs[6]; last.OID != nil || last.Error.name() != codeSourceNotFound {
		t.Errorf("a file that does not exist: got %s, want no id", asJSON(t, last))
	}
}

func TestDiffWithAMissingBlob(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, map[string]string{"same": numbers(3), "edited": numbers(1)})
	r.git("mv", "same", "moved")
	r.git("mv", "edited", "renamed")
	r.commit("second", map[string]string{"renamed": numbers(1) + "more\n"})
	r.lose("HEAD~:edited", "HEAD:renamed")
	got, err := newTestGitReader(t, dir).diff(t.Context(), diffParams{pathParam: at(dir), From: "HEAD~"})
	if err != nil {
		t.Fatalf("got %v, want the changes", err)
	}
	var lines []string
	for _, c := range got.Changes {
		lines = append(lines, c.Status+" "+c.OldPath+" "+c.Path+" "+asJSON(t, c.Size))
	}
	if want := fmt.Sprint([]string{"D  edited null", fmt.Sprintf("R same moved %d", len(numbers(3))), "A  renamed null"}); fmt.Sprint(lines) != want {
		t.Errorf("got %v, want %v", lines, want)
	}
}

func TestReadBlobsByNamesInBase64(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	_, first, _ := newOddRepo(t, dir)
	name := "not utf-8 \xff\xfe"
	encode := func(name string) string { return base64.StdEncoding.EncodeToString([]byte(name)) }
	g := newTestGitReader(t, dir)
	got, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Commit: &first, FilesBase64: []string{encode(name), encode("README.md"), encode("no\xffsuch")}})
	if err != nil {
		t.Fatal(err)
	}
	if b := got.Blobs[0]; b.Error != nil || *b.Content != "u" || b.Path != "not utf-8 \ufffd" || b.PathBase64 != encode(name) {
		t.Errorf("got %s, want the content u with the path and path_base64", asJSON(t, b))
	}
	if b := got.Blobs[1]; b.Error != nil || *b.Content != "# odd\n" || b.Path != "README.md" || b.PathBase64 != "" {
		t.Errorf("got %s, want the content of README.md with its path only", asJSON(t, b))
	}
	if b := got.Blobs[2]; b.Error == nil || b.OID != nil || b.PathBase64 != encode("no\xffsuch") {
		t.Errorf("got %s, want an error", asJSON(t, b))
	}
	for _, p := range []blobsParams{
		{FilesBase64: []string{"%"}}, {FilesBase64: []string{encode("../x")}}, {FilesBase64: []string{encode("a")}, Files: []string{"b"}},
		{FilesBase64: make([]string, maxBlobsAsked+1)},
	} {
		p.pathParam = at(dir)
		_, err := g.readBlobs(t.Context(), p)
		wantInvalid(t, err, "files_base64")
	}
	_, err = g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), FilesBase64: []string{encode(".git-daemon.credentials")}})
	wantFailure(t, err, codeAccessDenied)
}
