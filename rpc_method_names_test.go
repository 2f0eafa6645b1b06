package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// Names that are not UTF-8 come as U+FFFD and exactly, from every method that
// lists names; the answer is JSON, and the exact name leads back to what it
// names.
func TestNamesThatAreNotUTF8OfEveryMethod(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	const odd, shown = "caf\xe9", "caf\uFFFD"
	top := realTempDir(t)
	dir := filepath.Join(top, odd)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("this file system takes no such name: ", err)
	}
	r := newTestRepoAt(t, filepath.Join(dir, odd+".r"), map[string]string{odd + "/" + odd + ".txt": "needle one\n", "plain": "p \xe9\n"})
	symlinks(t, map[string]string{filepath.Join(dir, odd+".s"): odd + ".r"}) // before the name that is shown of the other
	r.commit("moved", map[string]string{"new/x": "1", odd + ".2": strings.Repeat("the same text in both\n", 20)})
	r.git("mv", odd+".2", odd+".3")
	r.git("branch", odd)
	r.git("commit", "-q", "-m", "subject")
	// Git itself would make UTF-8 of it, guessing Latin-1.
	raw := strings.NewReplacer("author Ada", "author Andr\xe9", "bob@", odd+"@", "subject", "subject \xe9\n\nbody \xff").Replace(r.output("", "cat-file", "commit", "HEAD"))
	r.git("update-ref", "HEAD", strings.TrimSpace(r.output(raw, "hash-object", "-t", "commit", "-w", "--stdin")))
	if _, err := os.Stat(filepath.Join(r.dir, ".git", "refs", "heads", odd)); err != nil {
		t.Fatal(err)
	}
	f, g := fsOn(t, top), newTestGitReader(t, top)
	exactly := func(what, given, given64, wantShown, want string) {
		t.Helper()
		if given != wantShown || !utf8.ValidString(given) || given64 == "" || exactName(t, given, given64) != want {
			t.Errorf("%s: %q and %q, want %q and %q", what, given, given64, wantShown, want)
		}
	}
	exact := func(path string) pathParam { return pathParam{PathBase64: nameBase64(path)} }

	scan, err := f.repoScan(t.Context(), repoScanParams{})
	if err != nil || len(scan.Repos) != 1 || scan.Repos[0].Head == nil || scan.Repos[0].LastCommitAt == nil {
		t.Fatalf("repoScan: %s, %v, want one repository with a head and a date", asJSON(t, scan), err)
	}
	exactly("repoScan", scan.Repos[0].Path, scan.Repos[0].PathBase64, top+"/"+shown+"/"+shown+".r", r.dir)

	for _, respect := range []bool{true, false} {
		files := map[string]string{}
		for p := (globParams{pathParam: exact(r.dir), RespectGitignore: &respect, Limit: new(1)}); ; {
			page, err := f.glob(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range page.Files {
				files[exactName(t, file.Path, file.PathBase64)] = file.Path
			}
			if p.Cursor = page.NextCursor; p.Cursor == nil {
				break
			}
		}
		if len(files) != 4 || files[odd+"/"+odd+".txt"] != shown+"/"+shown+".txt" || files[odd+".3"] != shown+".3" {
			t.Errorf("glob, respect_gitignore %v: %q, want four files, the odd ones with their exact names", respect, files)
		}
	}

	found, err := f.search(t.Context(), searchParams{pathParam: exact(r.dir), Pattern: "needle"})
	if err != nil || len(found.Matches) != 1 {
		t.Fatalf("search: %s, %v, want one match", asJSON(t, found), err)
	}
	exactly("search", found.Matches[0].Path, found.Matches[0].PathBase64, shown+"/"+shown+".txt", odd+"/"+odd+".txt")
	found, err = f.search(t.Context(), searchParams{pathParam: exact(dir), Pattern: "needle"}) // without a repository
	if err != nil || len(found.Matches) != 1 {
		t.Fatalf("search: %s, %v, want one match", asJSON(t, found), err)
	}
	exactly("search without a repository", found.Matches[0].Path, found.Matches[0].PathBase64, shown+".r/"+shown+"/"+shown+".txt", odd+".r/"+odd+"/"+odd+".txt")

	found, err = f.search(t.Context(), searchParams{pathParam: exact(r.dir), Pattern: "p "})
	if err != nil || len(found.Matches) != 1 || found.Matches[0].Text != "p \uFFFD" {
		t.Errorf("search for what is not UTF-8: %s, %v, want one match with U+FFFD", asJSON(t, found), err)
	}

	var entries []dirEntry
	for p := (listDirParams{pathParam: exact(dir), Limit: new(1)}); ; {
		page, err := f.listDir(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		exactly("listDir", page.Path, page.PathBase64, top+"/"+shown, dir)
		entries = append(entries, page.Entries...)
		if p.Cursor = page.NextCursor; p.Cursor == nil {
			break
		}
	}
	if len(entries) != 2 {
		t.Fatalf("listDir: %s, want two entries", asJSON(t, entries))
	}
	exactly("listDir, a directory", entries[0].Name, entries[0].NameBase64, shown+".r", odd+".r")
	exactly("listDir, a link", entries[1].Name, entries[1].NameBase64, shown+".s", odd+".s")
	exactly("listDir, its target", entries[1].Target, entries[1].TargetBase64, shown+".r", odd+".r")

	for _, name := range []string{odd + ".3", odd + ".not there", odd + ".3/below a file"} {
		stat, err := f.stat(t.Context(), statParams{pathParam: exact(filepath.Join(r.dir, name))})
		if err != nil || len(stat.Entries) != 1 || stat.Entries[0].Exists != (name == odd+".3") {
			t.Fatalf("stat: %s, %v, want one entry, there or not as it is", asJSON(t, stat), err)
		}
		exactly("stat", stat.Entries[0].Path, stat.Entries[0].PathBase64, top+"/"+shown+"/"+shown+".r/"+showName(name), r.dir+"/"+name)
	}
	read, err := f.readFile(t.Context(), readFileParams{pathParam: exact(filepath.Join(r.dir, odd, odd+".txt"))})
	if err != nil || string(read.Content) != "needle one\n" {
		t.Fatalf("readFile: %s, %v, want the content of the file", asJSON(t, read), err)
	}
	exactly("readFile", read.Path, read.PathBase64, top+"/"+shown+"/"+shown+".r/"+shown+"/"+shown+".txt", r.dir+"/"+odd+"/"+odd+".txt")

	got := allPages(t, g, manifestParams{pathParam: exact(r.dir), Limit: new(1)})
	if want := splitNUL(r.output("", "ls-tree", "-r", "-l", "-z", "HEAD")); !slices.Equal(got, want) {
		t.Errorf("manifest: %q, want %q", got, want)
	}
	below, err := g.manifest(t.Context(), manifestParams{pathParam: exact(filepath.Join(r.dir, odd))})
	if err != nil || len(below.Files) != 1 {
		t.Fatalf("manifest of a directory: %s, %v, want one file", asJSON(t, below), err)
	}
	exactly("manifest of a directory", below.Files[0].Path, below.Files[0].PathBase64, shown+".txt", odd+".txt")

	blobs, err := g.readBlobs(t.Context(), blobsParams{pathParam: exact(filepath.Join(r.dir, "new")), Files: []string{"x"}})
	if err != nil || *blobs.Blobs[0].Content != "1" {
		t.Errorf("readBlobs below %q: %s, %v, want the content of new/x", r.dir, asJSON(t, blobs), err)
	}
	blobs, err = g.readBlobs(t.Context(), blobsParams{pathParam: exact(r.dir), OIDs: []string{below.Files[0].OID}})
	if err != nil || *blobs.Blobs[0].Content != "needle one\n" {
		t.Errorf("readBlobs by id: %s, %v, want the content of the odd file", asJSON(t, blobs), err)
	}

	diff, err := g.diff(t.Context(), diffParams{pathParam: exact(r.dir), From: "HEAD~1"})
	if err != nil || len(diff.Changes) != 1 || diff.Changes[0].Status != "R" {
		t.Fatalf("diff: %s, %v, want one renamed file", asJSON(t, diff), err)
	}
	exactly("diff", diff.Changes[0].Path, diff.Changes[0].PathBase64, shown+".3", odd+".3")
	exactly("diff, old", diff.Changes[0].OldPath, diff.Changes[0].OldPathBase64, shown+".2", odd+".2")

	patches, err := g.patches(t.Context(), patchParams{pathParam: exact(r.dir), From: new("HEAD~1"), To: new("HEAD")})
	if err != nil || len(patches.Files) != 1 {
		t.Fatalf("patches: %s, %v, want one renamed file", asJSON(t, patches), err)
	}
	exactly("patches", patches.Files[0].Path, patches.Files[0].PathBase64, shown+".3", odd+".3")
	exactly("patches, old", patches.Files[0].OldPath, patches.Files[0].OldPathBase64, shown+".2", odd+".2")
	wantPatch := "diff --git a/" + odd + ".2 b/" + odd + ".3\nsimilarity index 100%\nrename from " + odd + ".2\nrename to " + odd + ".3\n"
	exactly("patches, the patch", *patches.Files[0].Patch, patches.Files[0].PatchBase64, showName(wantPatch), wantPatch)

	for _, p := range []refsParams{{pathParam: exact(r.dir)}, {URL: new("file://" + top + "/link")}} {
		if p.URL != nil {
			symlinks(t, map[string]string{top + "/link": r.dir})
		}
		refs, err := g.listRefs(t.Context(), p)
		if err != nil || len(refs.Refs) != 2 {
			t.Fatalf("refs: %s, %v, want two refs", asJSON(t, refs), err)
		}
		exactly("refs", refs.Refs[0].Name, refs.Refs[0].NameBase64, "refs/heads/"+shown, "refs/heads/"+odd)
	}

	blame, err := g.blame(t.Context(), blameParams{pathParam: exact(r.dir), FileBase64: nameBase64(odd + ".3")})
	if err != nil || len(blame.Lines) != 1 {
		t.Fatalf("blame: %s, %v, want one run", asJSON(t, blame), err)
	}
	exactly("blame", blame.Lines[0].OriginalFile, blame.Lines[0].OriginalFileBase64, shown+".2", odd+".2")

	log, err := g.history(t.Context(), logParams{pathParam: exact(r.dir), Limit: new(1)})
	if err != nil || len(log.Commits) != 1 {
		t.Fatalf("log: %s, %v, want one commit", asJSON(t, log), err)
	}
	if c := log.Commits[0]; c.Author.Name != "Andr\uFFFD" || c.Committer.Email != shown+"@example.org" || c.Subject != "subject \uFFFD" || c.Body != "body \uFFFD" {
		t.Errorf("log: %s, want U+FFFD where a byte is not UTF-8", asJSON(t, log))
	}

	info, err := g.info(t.Context(), infoParams{exact(filepath.Join(r.dir, odd))})
	if err != nil {
		t.Fatal(err)
	}
	exactly("info", info.Path, info.PathBase64, top+"/"+shown+"/"+shown+".r", r.dir)
}
