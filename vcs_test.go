package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allCommits returns the log of all pages.
func allCommits(t *testing.T, g *gitReader, p logParams) []commitEntry {
	t.Helper()
	var commits []commitEntry
	for {
		page, err := g.history(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		commits = append(commits, page.Commits...)
		if p.Cursor = page.NextCursor; p.Cursor == nil {
			return commits
		}
	}
}

func TestLogEqualsGitLogOverAllPages(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	everyFormat(t, func(t *testing.T, dir string, initArgs ...string) {
		r, _, _ := newOddRepo(t, dir, initArgs...)
		r.git("commit", "-q", "--allow-empty", "--author=Zo\u00eb \"Q\" B <zoe@example.org>", "--date=1999-12-31T23:59:59-05:00", "-m", "  odd subject \u2603  \n\nline 1\nline 2\n\ttab")
		g := newTestGitReader(t, dir)
		all := allCommits(t, g, logParams{pathParam: at(dir), Limit: new(2)})
		var got, parents []string
		for _, c := range all {
			got = append(got, c.OID)
			parents = append(parents, strings.Join(c.Parents, " "))
		}
		if want := strings.Fields(r.git("log", "--format=%H")); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if want := strings.Split(strings.TrimSuffix(r.output("", "log", "--format=%P"), "\n"), "\n"); !slices.Equal(parents, want) {
			t.Errorf("parents %q, want %q", parents, want)
		}
		if c := all[0]; c.Subject != "  odd subject \u2603" && c.Subject != "odd subject \u2603" || c.Body != "line 1\nline 2\n\ttab" || c.Author != (commitPerson{"Zo\u00eb \"Q\" B", "zoe@example.org", "2000-01-01T04:59:59Z"}) {
			t.Errorf("first: %s, want the odd subject, body and author as git shows them", asJSON(t, c))
		}
	})
}

func TestLogFilters(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, nil)
	for n := range 6 {
		r.write(fmt.Sprintf("sub/f%d", n%2), fmt.Sprint(n))
		r.git("add", "-A")
		r.env = []string{fmt.Sprintf("GIT_COMMITTER_DATE=2024-01-0%dT12:00:00Z", n+1)}
		r.git("commit", "-q", "--author=Author "+string(rune('A'+n))+" <a.b@example.org>", "-m", fmt.Sprint(n))
	}
	g := newTestGitReader(t, dir)
	text := func(s string) *string { return &s }
	for _, c := range []struct {
		name string
		p    logParams
		want string
	}{
		{"file", logParams{pathParam: at(dir), File: text("sub/f1")}, "531"},
		{"file below a directory", logParams{pathParam: at(filepath.Join(dir, "sub")), File: text("f0")}, "420"},
		{"no such file", logParams{pathParam: at(dir), File: text("sub/*")}, ""},
		{"magic file", logParams{pathParam: at(dir), File: text(":(icase)SUB")}, ""},
		{"author", logParams{pathParam: at(dir), Author: text("Author C")}, "2"},
		{"author is no regular expression", logParams{pathParam: at(dir), Author: text("Author .")}, ""},
		{"since", logParams{pathParam: at(dir), Since: text("2024-01-05T00:00:00Z")}, "54"},
		{"until", logParams{pathParam: at(dir), Until: text("2024-01-02T14:00:00+02:00")}, "10"},
		{"since the beginning", logParams{pathParam: at(dir), Since: text("0001-01-01T00:00:00Z")}, "543210"},
		{"until before git", logParams{pathParam: at(dir), Until: text("1900-01-01T00:00:00Z")}, ""},
		{"until the end", logParams{pathParam: at(dir), Until: text("9999-01-01T00:00:00Z")}, "543210"},
		{"ref", logParams{pathParam: at(dir), Ref: text("HEAD~4")}, "10"},
	} {
		c.p.Limit = new(2)
		var got strings.Builder
		for _, commit := range allCommits(t, g, c.p) {
			got.WriteString(commit.Subject)
		}
		if got.String() != c.want {
			t.Errorf("%s: %q, want %q", c.name, got.String(), c.want)
		}
	}
	for param, p := range map[string]logParams{
		"file":   {File: text("../x")},
		"since":  {Since: text("yesterday")},
		"until":  {Until: text("--all")},
		"author": {Author: text("a\nb")},
		"limit":  {Limit: new(0)},
	} {
		p.pathParam = at(dir)
		_, err := g.history(t.Context(), p)
		wantInvalid(t, err, param)
	}
	page, err := g.history(t.Context(), logParams{pathParam: at(dir), Limit: new(1)})
	if err != nil {
		t.Fatal(err)
	}
	r.commit("one more", nil)
	_, err = g.history(t.Context(), logParams{pathParam: at(dir), Limit: new(1), Cursor: page.NextCursor})
	wantFailure(t, err, codeConflict)
}

// Long messages are cut, so that a page fits a result whatever the messages
// are, and the next page continues after it.
func TestLogOfLargeMessages(t *testing.T) {
	skipShort(t, "writes 60 MiB of messages")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, nil)
	const commits = 60
	var stream strings.Builder
	for n := range commits {
		body := strings.Repeat("\x01", 2*maxCommitField) // six bytes each as JSON
		if n == 0 {
			body = strings.Repeat("x", 4<<20)
		}
		message := fmt.Sprintf("subject %d\n\n%s\n", n, body)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter Bob <bob@example.org> %d +0000\ndata %d\n%s\n", 1_700_000_000+n, len(message), message)
	}
	r.output(stream.String(), "fast-import", "--quiet")
	g := newTestGitReader(t, dir)
	next := commits
	for p := (logParams{pathParam: at(dir), Limit: new(maxLogLimit)}); ; {
		page, err := g.history(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(page)
		if err != nil || len(data) > 12<<20 || len(page.Commits) == 0 {
			t.Fatalf("a page of %d commits has %d bytes, %v, want 1 commit or more in at most 12 MiB", len(page.Commits), len(data), err)
		}
		for _, c := range page.Commits {
			if next--; c.Subject != fmt.Sprint("subject ", next) || len(c.Body) > maxCommitField || len(c.Body) < maxCommitField-100 {
				t.Errorf("%q with %d bytes, want subject %d", c.Subject, len(c.Body), next)
			}
		}
		if p.Cursor = page.NextCursor; p.Cursor == nil {
			break
		}
	}
	if next != 0 {
		t.Errorf("%d commits are missing, want 0", next)
	}
}

func TestRefsEqualShowRefOverAllPages(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	everyFormat(t, func(t *testing.T, dir string, initArgs ...string) {
		r, _, _ := newOddRepo(t, dir, initArgs...)
		r.git("pack-refs", "--all")
		r.git("update-ref", "refs/heads/dir/loose", "HEAD")
		r.git("update-ref", "refs/heads/side", "HEAD") // overrides a packed one
		r.git("update-ref", "refs/odd/one", "HEAD~1")
		r.git("tag", "-m", "late", "late")
		g := newTestGitReader(t, dir)
		for _, p := range []refsParams{{pathParam: at(dir)}, {URL: new("file://" + dir)}} {
			var got []string
			p.Limit = new(3)
			for {
				page, err := g.listRefs(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				if *page.Head.Ref != "refs/heads/main" || *page.Head.OID != r.git("rev-parse", "HEAD") {
					t.Errorf("head %s, want main and its commit", asJSON(t, page.Head))
				}
				for _, ref := range page.Refs {
					got = append(got, ref.OID+" "+ref.Name)
					if ref.PeeledOID != nil {
						got = append(got, *ref.PeeledOID+" "+ref.Name+"^{}")
					}
					if kind := strings.Split(ref.Name, "/")[1]; ref.Type != map[string]string{"heads": "branch", "tags": "tag", "remotes": "remote", "odd": "other"}[kind] {
						t.Errorf("%s is a %s, want the type of its directory", ref.Name, ref.Type)
					}
				}
				if p.Cursor = page.NextCursor; p.Cursor == nil {
					break
				}
			}
			if want := strings.Split(r.git("show-ref", "-d"), "\n"); !slices.Equal(got, want) {
				t.Errorf("%q\nwant %q", got, want)
			}
		}
		page, err := g.listRefs(t.Context(), refsParams{pathParam: at(dir), Limit: new(1)})
		if err != nil {
			t.Fatal(err)
		}
		r.git("branch", "another")
		_, err = g.listRefs(t.Context(), refsParams{pathParam: at(dir), Cursor: page.NextCursor})
		wantFailure(t, err, codeConflict)
	})
}

// Every method works on a repository without commits.
func TestRepositoryWithoutCommits(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, nil)
	r.write("new", "n")
	g := newTestGitReader(t, dir)
	info, err := g.info(t.Context(), infoParams{at(dir)})
	if err != nil || info.Head != nil || *info.Branch != "main" || info.LastCommit != nil || info.Dirty.Untracked != 1 {
		t.Errorf("info %s, %v, want the branch main without commits and one new file", asJSON(t, info), err)
	}
	if page, err := g.history(t.Context(), logParams{pathParam: at(dir)}); err != nil || len(page.Commits) != 0 || page.Commits == nil {
		t.Errorf("log %s, %v, want an empty list of commits", asJSON(t, page), err)
	}
	if page, err := g.manifest(t.Context(), manifestParams{pathParam: at(dir)}); err != nil || page.Files == nil || page.Total != 0 || page.Commit != nil {
		t.Errorf("manifest %s, %v, want an empty list of files without a commit", asJSON(t, page), err)
	}
	if page, err := g.listRefs(t.Context(), refsParams{pathParam: at(dir)}); err != nil || page.Refs == nil || len(page.Refs) != 0 || *page.Head.Ref != "refs/heads/main" || page.Head.OID != nil {
		t.Errorf("refs %s, %v, want an empty list of refs and the head of main", asJSON(t, page), err)
	}
	if page, err := g.diff(t.Context(), diffParams{pathParam: at(dir), From: "HEAD"}); err != nil || page.Changes == nil || len(page.Changes) != 0 {
		t.Errorf("diff %s, %v, want an empty list of changes", asJSON(t, page), err)
	}
	if page, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Files: []string{"new"}}); err != nil || page.Blobs[0].Error.name() != codeSourceNotFound {
		t.Errorf("blobs %s, %v, want %s", asJSON(t, page), err, codeSourceNotFound)
	}
	_, err = g.manifest(t.Context(), manifestParams{pathParam: at(dir), Commit: new("main")})
	wantFailure(t, err, codeCommitNotFound)
}

func TestRevisionsOfAllKinds(t *testing.T) {
	skipShort(t, "asks git for dozens of revisions")
	t.Parallel()
	dir := realTempDir(t)
	r, first, second := newOddRepo(t, dir)
	r.git("tag", "tree-tag", "HEAD^{tree}")
	g := newTestGitReader(t, dir)
	log := func(rev string) (string, error) {
		page, err := g.history(t.Context(), logParams{pathParam: at(dir), Ref: &rev, Limit: new(1)})
		if err != nil {
			return "", err
		}
		return page.Commits[0].OID, nil
	}
	for rev, want := range map[string]string{
		"HEAD": second, "main": second, "refs/heads/main": second, "light": second, "annotated": second, "nested": second, "origin": second, "origin/main": second,
		second: second, second[:10]: second, "HEAD~2": first, "HEAD^^": first, "@": second, "main^{commit}": second,
	} {
		if got, err := log(rev); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", rev, got, err, want)
		}
	}
	for _, rev := range []string{"nothing", "HEAD~99", "tree-tag", "blob-tag", strings.Repeat("ab", 20), "abcdef", "HEAD^7", "HEAD^{tree}", "HEAD^{blob}"} {
		_, err := log(rev)
		wantFailure(t, err, codeCommitNotFound)
	}
	for _, rev := range []string{"", "--output=x", "-x", "--all", "^HEAD", "HEAD..HEAD~1", "HEAD...main", ":/second", "HEAD^{/second}", "HEAD:README.md", "a b", "x\ny", "x\x00y", "ma*", "a\\b", "HEAD^@", "HEAD^!", "HEAD^-", "@{1 year ago}", "@{1}", "main@{u}", strings.Repeat("a", maxRevision+1)} {
		_, err := log(rev)
		wantInvalid(t, err, "ref")
	}
}

func TestShallowRepository(t *testing.T) {
	skipShort(t, "runs every method of git on a shallow clone")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "full"), nil)
	var ids []string
	for n := range 4 {
		r.write("f", fmt.Sprint(n))
		ids = append(ids, r.commit(fmt.Sprint(n), nil))
	}
	r.git("clone", "-q", "--depth=2", "file://"+r.dir, filepath.Join(dir, "shallow"))
	g := newTestGitReader(t, dir)
	path := at(filepath.Join(dir, "shallow"))
	if info, err := g.info(t.Context(), infoParams{path}); err != nil || !info.IsShallow {
		t.Errorf("%s, %v, want a shallow repository", asJSON(t, info), err)
	}
	if commits := allCommits(t, g, logParams{pathParam: path}); len(commits) != 2 || commits[0].IsBoundary || !commits[1].IsBoundary {
		t.Errorf("%s, want 2 commits, the second being the boundary", asJSON(t, commits))
	}
	if commits := allCommits(t, g, logParams{pathParam: at(r.dir)}); len(commits) != 4 || commits[3].IsBoundary {
		t.Errorf("%s, want 4 commits without a boundary: the first has no parents", asJSON(t, commits))
	}
	for _, rev := range []string{ids[1], "HEAD~2", "HEAD~3", "main^^"} {
		_, err := g.manifest(t.Context(), manifestParams{pathParam: path, Commit: &rev})
		wantFailure(t, err, codeCommitNotAvailable)
	}
	for _, rev := range []string{strings.Repeat("ab", 20), "nothing", "nothing~1"} {
		_, err := g.manifest(t.Context(), manifestParams{pathParam: path, Commit: &rev})
		wantFailure(t, err, codeCommitNotFound)
	}
}

func TestPathsAndRepositories(t *testing.T) {
	skipShort(t, "runs every method of git on many paths")
	t.Parallel()
	dir := realTempDir(t)
	r, _, _ := newOddRepo(t, filepath.Join(dir, "repo"))
	r.git("checkout", "-q", "-f", "main")
	r.git("clone", "-q", "--bare", r.dir, filepath.Join(dir, "bare.git"))
	r.git("worktree", "add", "-q", filepath.Join(dir, "linked"), "side")
	r.git("update-index", "--split-index")
	r.write("added too", "x")
	r.git("add", "added too")
	if err := os.MkdirAll(filepath.Join(dir, "plain"), 0o755); err != nil {
		t.Fatal(err)
	}
	g := newTestGitReader(t, dir)
	get := func(path string) infoResult {
		t.Helper()
		got, err := g.info(t.Context(), infoParams{at(path)})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return got
	}
	if got := get(r.dir); got.Path != r.dir || got.Dirty.Staged != 1 {
		t.Errorf("split index: %s, want its directory and 1 staged file", asJSON(t, got))
	}
	if got := get(filepath.Join(dir, "bare.git")); !got.IsBare || got.Dirty != nil || *got.Branch != "main" || *got.DefaultBranch != "main" || got.LastCommit.Subject != "merge" {
		t.Errorf("bare: %s, want a bare repository with the branch main", asJSON(t, got))
	}
	if got := get(filepath.Join(dir, "linked")); *got.Branch != "side" || got.LastCommit.Subject != "side" || *got.Dirty != (dirtyCounts{}) {
		t.Errorf("linked worktree: %s, want the clean branch side", asJSON(t, got))
	}
	r.git("checkout", "-q", "-f", "--detach")
	if got := get(r.dir); got.Branch != nil || got.Head == nil {
		t.Errorf("detached: %s, want a head and no branch", asJSON(t, got))
	}
	for _, path := range []string{"plain", "missing", "repo/.git", "repo/.git/refs", "bare.git/refs", "repo/missing"} {
		_, err := g.info(t.Context(), infoParams{at(filepath.Join(dir, path))})
		wantFailure(t, err, codeRepoNotFound)
	}
	_, err := g.info(t.Context(), infoParams{at("/etc")})
	wantFailure(t, err, codeAccessDenied)
	_, err = g.info(t.Context(), infoParams{})
	wantInvalid(t, err, "path")
}

func TestInfoOfAConflictAndSparseCheckout(t *testing.T) {
	skipShort(t, "makes several repositories; TestInfoOfAnEditedRepository has the usual case")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), nil)
	r.write("a/f", "1")
	r.write("b/f", "1")
	r.commit("base", nil)
	r.git("checkout", "-q", "-b", "other")
	r.write("a/f", "2")
	r.commit("other", nil)
	r.git("checkout", "-q", "main")
	r.write("a/f", "3")
	r.commit("ours", nil)
	g := newTestGitReader(t, dir)
	status := func() dirtyCounts {
		t.Helper()
		got, err := g.info(t.Context(), infoParams{at(r.dir)})
		if err != nil {
			t.Fatal(err)
		}
		return *got.Dirty
	}
	r.git("sparse-checkout", "set", "a")
	if got := status(); got != (dirtyCounts{}) {
		t.Errorf("sparse checkout: %+v, want no changes", got)
	}
	r.mayFail("merge", "-q", "other")
	if got := status(); got != (dirtyCounts{Conflicted: 1}) {
		t.Errorf("conflict: %+v, want 1 conflict", got)
	}
}

func TestURLsAreShownWithoutCredentials(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://example.org/a/b.git":           "https://example.org/a/b.git",
		"https://user:s3cret@example.org/a":     "https://example.org/a",
		"https://s3cret@example.org:8443/a":     "https://example.org:8443/a",
		"https://u:s3/cret@example.org/a":       "https://example.org/a",
		"https://example.org/a?token=s3cret":    "https://example.org/a",
		"https://example.org:80/@scope/a":       "https://example.org:80/@scope/a",
		"ssh://git@example.org/a":               "ssh://git@example.org/a",
		"ssh://git:s3cret@example.org/a":        "ssh://example.org/a",
		"git@example.org:a/b":                   "git@example.org:a/b",
		"git:s3cret@example.org:a/b":            "example.org:a/b",
		"/srv/a b":                              "/srv/a b",
		"https://user:s3cret@[::1]:8080/a\x1b[": "https://[::1]:8080/a[",
	} {
		if got := withoutCredentials(url); got != want || strings.Contains(got, "s3") {
			t.Errorf("%q: %q, want %q", url, got, want)
		}
	}
}

// A layout that cannot be read is reported, and not taken for an empty
// repository.
func TestRepositoriesThatCannotBeRead(t *testing.T) {
	skipShort(t, "runs every method of git on broken repositories")
	t.Parallel()
	for name, spoil := range map[string]func(r *testRepo){
		"reftable":      func(r *testRepo) { r.git("config", "extensions.refStorage", "reftable") },
		"broken config": func(r *testRepo) { r.write(".git/config", "[core\n") },
		"broken HEAD":   func(r *testRepo) { r.write(".git/HEAD", "ref: ../../x\n") },
		"huge HEAD":     func(r *testRepo) { r.write(".git/HEAD", strings.Repeat("x", maxSmallFile+1)) },
		"broken index":  func(r *testRepo) { r.write(".git/index", "DIRC and nothing") },
	} {
		r := newTestRepoAt(t, realTempDir(t), nil)
		r.write("a", "a")
		r.commit("a", nil)
		spoil(r)
		_, err := newTestGitReader(t, r.dir).info(t.Context(), infoParams{at(r.dir)})
		if err == nil || asRPCError(err).name() != codeGitFailed {
			t.Errorf("%s: %v, want %s", name, err, codeGitFailed)
		}
	}
}
