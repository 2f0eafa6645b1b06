package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// callAll calls every method on a path, as a caller would, and returns the
// results as JSON, and the errors, by method.
func callAll(t *testing.T, g *gitReader, path string) (answers map[string]string, errs map[string]error) {
	t.Helper()
	params := map[string]map[string]any{
		"vcs/info":        {},
		"vcs/refs":        {},
		"vcs/log":         {"file": "f"},
		"index/manifest":  {},
		"index/readBlobs": {"files": []string{"f", "secret"}},
		"index/diff":      {"from": "HEAD~1"},
		"vcs/diff":        {},
		"vcs/blame":       {"file": "f"},
	}
	answers, errs = map[string]string{}, map[string]error{}
	for _, m := range g.methods() {
		p, known := params[m.name]
		if !known {
			t.Fatalf("no params for %s, want params for each method", m.name)
		}
		p["path"] = path
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := m.call(t.Context(), data)
		errs[m.name] = err
		if err == nil {
			answers[m.name] = asJSON(t, answer)
		}
	}
	return answers, errs
}

// hostileRepo is a repository with two commits and an edit that keeps the size,
// below an allowed directory; outside is next to that directory.
type hostileRepo struct {
	*testRepo
	allowed, outside string
	marker           string // the file that an attack creates
}

func newHostileRepo(t *testing.T) *hostileRepo {
	t.Helper()
	needsShell(t) // the attacks are shell commands
	dir := realTempDir(t)
	h := &hostileRepo{allowed: filepath.Join(dir, "allowed"), outside: filepath.Join(dir, "outside"), marker: filepath.Join(dir, "marker")}
	h.testRepo = newTestRepoAt(t, filepath.Join(h.allowed, "repo"), nil)
	for n := range 2 {
		h.write("f", fmt.Sprintf("line %d\n", n))
		h.commit("c", nil)
	}
	h.write("f", "line 9\n")
	return h
}

// attack returns a program that creates the marker; as a filter it copies its
// input.
func (h *hostileRepo) attack() string {
	script := filepath.Join(h.allowed, "attack.sh")
	writeProgram(h.t, script, "touch '"+h.marker+"'\ncat\n")
	return script
}

func (h *hostileRepo) wasAttacked() bool {
	_, err := os.Stat(h.marker)
	return err == nil
}

// No method runs a program that a repository can make git run. As a control,
// git itself must run it, in the cases where it does.
func TestHostileConfigurationRunsNothing(t *testing.T) {
	skipShort(t, "runs every method on a dozen hostile repositories, for 2 s")
	t.Parallel()
	attacks := map[string]struct {
		set     func(h *hostileRepo, attack string)
		control []string // nil if this git does not run it
	}{
		"fsmonitor": {func(h *hostileRepo, attack string) { h.git("config", "core.fsmonitor", attack) }, []string{"status"}},
		"fsmonitor in an included file": {func(h *hostileRepo, attack string) {
			h.write("../included", "[core]\nfsmonitor = "+attack+"\n")
			h.git("config", "include.path", filepath.Join(h.allowed, "included"))
		}, []string{"status"}},
		"fsmonitor in config.worktree": {func(h *hostileRepo, attack string) {
			h.git("config", "extensions.worktreeConfig", "true")
			h.git("config", "--worktree", "core.fsmonitor", attack)
		}, []string{"status"}},
		"fsmonitor of a submodule": {func(h *hostileRepo, attack string) {
			sub := newTestRepoAt(h.t, filepath.Join(h.allowed, "sub"), nil)
			sub.write("s", "s\n")
			sub.commit("s", nil)
			h.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", sub.dir, "module")
			h.git("commit", "-q", "-m", "module")
			h.git("-C", "module", "config", "core.fsmonitor", attack)
			h.write("module/s", "t\n")
		}, []string{"status"}},
		"hooks": {func(h *hostileRepo, attack string) {
			for _, hook := range []string{"post-index-change", "post-checkout", "reference-transaction", "fsmonitor-watchman"} {
				if err := os.MkdirAll(filepath.Join(h.dir, ".git", "hooks"), 0o755); err != nil {
					h.t.Fatal(err)
				}
				if err := os.Symlink(attack, filepath.Join(h.dir, ".git", "hooks", hook)); err != nil {
					h.t.Fatal(err)
				}
			}
		}, []string{"checkout", "-q", "-f", "HEAD"}},
		"hooksPath": {func(h *hostileRepo, attack string) {
			h.git("config", "core.hooksPath", filepath.Join(h.allowed, "hooks"))
			h.write("../hooks/post-index-change", "#!/bin/sh\n"+attack+" </dev/null\n")
			if err := os.Chmod(filepath.Join(h.allowed, "hooks", "post-index-change"), 0o755); err != nil {
				h.t.Fatal(err)
			}
		}, []string{"checkout", "-q", "-f", "HEAD"}},
		"configured hook": {func(h *hostileRepo, attack string) { // git 2.54 and later
			h.git("config", "hook.x.command", attack)
			h.git("config", "--add", "hook.x.event", "post-index-change")
			h.git("config", "--add", "hook.x.event", "reference-transaction")
		}, nil},
		"external diff": {func(h *hostileRepo, attack string) { h.git("config", "diff.external", attack) }, []string{"diff"}},
		"diff driver": {func(h *hostileRepo, attack string) {
			h.write(".gitattributes", "* diff=x\n")
			h.git("config", "diff.x.command", attack)
		}, []string{"diff"}},
		"textconv": {func(h *hostileRepo, attack string) {
			h.write(".gitattributes", "* diff=x\n")
			h.git("config", "diff.x.textconv", attack)
		}, []string{"log", "-p"}},
		"filter": {func(h *hostileRepo, attack string) {
			h.write(".gitattributes", "* filter=x\n")
			h.commit("attributes", nil)
			h.write("f", "line 8\n")
			for _, name := range []string{"clean", "smudge"} {
				h.git("config", "filter.x."+name, attack)
			}
			h.git("config", "filter.x.required", "true")
		}, []string{"status"}},
		"filter process": {func(h *hostileRepo, attack string) {
			h.write(".git/info/attributes", "* filter=x\n")
			h.git("config", "filter.x.process", attack)
		}, []string{"status"}},
		"signature": {func(h *hostileRepo, attack string) {
			commit := h.output("", "cat-file", "commit", "HEAD")
			commit = strings.Replace(commit, "\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n", 1)
			h.git("update-ref", "HEAD", strings.TrimSpace(h.output(commit, "hash-object", "-t", "commit", "-w", "--stdin")))
			h.git("config", "gpg.program", attack)
			h.git("config", "log.showSignature", "true")
		}, []string{"log"}},
		"alias, pager and editor": {func(h *hostileRepo, attack string) {
			for _, name := range []string{"alias.status", "alias.log"} {
				h.git("config", name, "!"+attack)
			}
			for _, name := range []string{"core.pager", "core.editor", "core.askPass", "credential.helper", "core.alternateRefsCommand", "uploadpack.packObjectsHook"} {
				h.git("config", name, attack)
			}
		}, nil},
		"promisor remote": {func(h *hostileRepo, attack string) {
			h.git("config", "core.repositoryFormatVersion", "1")
			h.git("config", "extensions.partialClone", "origin")
			h.git("config", "remote.origin.promisor", "true")
			h.git("config", "remote.origin.url", "ssh://127.0.0.1/x")
			h.git("config", "core.sshCommand", attack)
			h.git("config", "remote.origin.uploadpack", attack)
			oid := h.git("rev-parse", "HEAD:f")
			if err := os.Remove(filepath.Join(h.dir, ".git", "objects", oid[:2], oid[2:])); err != nil {
				h.t.Fatal(err)
			}
		}, nil},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			h := newHostileRepo(t)
			attack.set(h, h.attack())
			_ = os.Remove(h.marker) // the setup may have run it
			g := newTestGitReader(t, h.allowed)
			_, errs := callAll(t, g, h.dir)
			f := newFSService(g.access, g.git, g.log)
			errs["vcs/diff of commits"] = second(g.patches(t.Context(), patchParams{pathParam: at(h.dir), From: new("HEAD~1"), To: new("HEAD")}))
			errs["fs/glob"] = second(f.glob(t.Context(), globParams{pathParam: at(h.dir)}))
			errs["fs/search"] = second(f.search(t.Context(), searchParams{pathParam: at(h.dir), Pattern: "line"}))
			errs["fs/repoScan"] = second(f.repoScan(t.Context(), repoScanParams{}))
			if h.wasAttacked() {
				t.Fatal("the repository ran a program, want no program of the repository to run")
			}
			for method, err := range errs {
				if err != nil && name != "promisor remote" {
					t.Errorf("%s: %v, want no error", method, err)
				}
			}
			if attack.control != nil {
				_ = h.command(attack.control...).Run() // its exit status does not matter
				if !h.wasAttacked() {
					t.Errorf("git %q does not fall for it: this test proves nothing, want git itself to run the program", attack.control)
				}
			}
		})
	}
}

// A blob that is missing in a partial clone cannot be read, and is not fetched.
func TestPartialClone(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	h.git("config", "remote.origin.promisor", "true")
	oid := h.git("rev-parse", "HEAD:f")
	if err := os.Remove(filepath.Join(h.dir, ".git", "objects", oid[:2], oid[2:])); err != nil {
		t.Fatal(err)
	}
	g := newTestGitReader(t, h.allowed)
	page, err := g.manifest(t.Context(), manifestParams{pathParam: at(h.dir)})
	if err != nil || len(page.Files) != 1 || page.Files[0].Size != nil || page.Files[0].OID != oid {
		t.Errorf("%s, %v, want one file, its id and no size", asJSON(t, page), err)
	}
	blobs, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(h.dir), Files: []string{"f"}})
	if err != nil || blobs.Blobs[0].Error == nil {
		t.Errorf("%s, %v, want an error of the blob", asJSON(t, blobs), err)
	}
}

// A repository is denied if any part of it leads outside the allowed
// directories.
func TestRepositoryThatLeadsOutsideIsDenied(t *testing.T) {
	skipShort(t, "runs every method on a dozen repositories")
	t.Parallel()
	move := func(h *hostileRepo, part string) string {
		from, to := filepath.Join(h.dir, filepath.FromSlash(part)), filepath.Join(h.outside, filepath.Base(part))
		if err := os.MkdirAll(h.outside, 0o755); err != nil {
			h.t.Fatal(err)
		}
		if err := os.Rename(from, to); err != nil {
			h.t.Fatal(err)
		}
		return to
	}
	link := func(h *hostileRepo, part string) {
		if err := os.Symlink(move(h, part), filepath.Join(h.dir, filepath.FromSlash(part))); err != nil {
			h.t.Fatal(err)
		}
	}
	for name, set := range map[string]func(h *hostileRepo){
		"gitfile":         func(h *hostileRepo) { h.write(".git", "gitdir: "+move(h, ".git")+"\n") },
		"gitfile, dotted": func(h *hostileRepo) { move(h, ".git"); h.write(".git", "gitdir: ../../outside/.git\n") },
		"git directory":   func(h *hostileRepo) { link(h, ".git") },
		"HEAD":            func(h *hostileRepo) { link(h, ".git/HEAD") },
		"config":          func(h *hostileRepo) { link(h, ".git/config") },
		"objects":         func(h *hostileRepo) { link(h, ".git/objects") },
		"refs":            func(h *hostileRepo) { link(h, ".git/refs") },
		"index":           func(h *hostileRepo) { link(h, ".git/index") },
		"packed-refs":     func(h *hostileRepo) { h.git("pack-refs", "--all"); link(h, ".git/packed-refs") },
		"an object": func(h *hostileRepo) {
			oid := h.git("rev-parse", "HEAD")
			link(h, ".git/objects/"+oid[:2]+"/"+oid[2:])
		},
		"objects of one prefix": func(h *hostileRepo) { link(h, ".git/objects/"+h.git("rev-parse", "HEAD")[:2]) },
		"packs":                 func(h *hostileRepo) { h.git("repack", "-q", "-a", "-d"); link(h, ".git/objects/pack") },
		"commondir": func(h *hostileRepo) {
			h.write(".git/commondir", move(h, ".git/objects")+"/..\n")
			move(h, ".git/refs")
		},
		"alternates": func(h *hostileRepo) {
			h.write(".git/objects/info/alternates", filepath.Join(h.outside, "objects")+"\n")
			newTestRepoAt(h.t, h.outside, nil)
		},
		"nested alternates": func(h *hostileRepo) {
			inner := newTestRepoAt(h.t, filepath.Join(h.allowed, "inner"), nil)
			inner.write(".git/objects/info/alternates", "# one that is not there, and one that is\n"+h.allowed+"/nowhere\n../../../../outside\n")
			h.write(".git/objects/info/alternates", "../../../inner/.git/objects\n")
		},
		"quoted alternates": func(h *hostileRepo) {
			h.write(".git/objects/info/alternates", `"`+h.outside+`"`+"\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostileRepo(t)
			set(h)
			_, errs := callAll(t, newTestGitReader(t, h.allowed), h.dir)
			for method, err := range errs {
				if name == "index" && method != "vcs/info" && method != "vcs/diff" {
					continue // the others do not read it
				}
				if err == nil || asRPCError(err).name() != codeAccessDenied {
					t.Errorf("%s: %v, want %s", method, err, codeAccessDenied)
				}
			}
			// If outside is allowed too, the repository is accepted.
			if name == "gitfile" || name == "objects" || name == "packs" {
				if _, err := newTestGitReader(t, h.allowed, h.outside).info(t.Context(), infoParams{at(h.dir)}); err != nil {
					t.Errorf("with the outside allowed: %v, want no error", err)
				}
			}
		})
	}
}

// A reference that is a symlink to another file is not read.
func TestReferenceThatLeadsOutsideIsNotListed(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	secret := strings.Repeat("5e", 20)
	if err := os.MkdirAll(filepath.Join(h.outside, "heads"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, name := range map[string]string{"heads/x": "stolen", "heads": "dir"} {
		if path != "heads" {
			if err := os.WriteFile(filepath.Join(h.outside, path), []byte(secret+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(filepath.Join(h.outside, path), filepath.Join(h.dir, ".git", "refs", "heads", name)); err != nil {
			t.Fatal(err)
		}
	}
	answers, errs := callAll(t, newTestGitReader(t, h.allowed), h.dir)
	for method, err := range errs {
		if err != nil || strings.Contains(answers[method], secret) {
			t.Errorf("%s: %s, %v, want an answer without what is outside", method, answers[method], err)
		}
	}
}

// With core.worktree a status would compare, and thereby reveal, files
// elsewhere.
func TestWorktreeElsewhereIsNotLookedAt(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	if err := os.MkdirAll(h.outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if err := os.WriteFile(filepath.Join(h.outside, fmt.Sprint("private", n)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.write("new", "line 9\n") // not in the other directory: its listing would lack the file
	h.git("config", "core.worktree", h.outside)
	got, err := newTestGitReader(t, h.allowed).info(t.Context(), infoParams{at(h.dir)})
	if err != nil || got.Path != h.dir || got.IsBare || got.Dirty != nil {
		t.Errorf("got %s, %v, want the repository without counts", asJSON(t, got), err)
	}
	f := fsOn(t, h.allowed)
	if got := fsGlobAll(t, f, globParams{pathParam: at(h.dir)}); !slices.Equal(got, []string{"f", "new"}) {
		t.Errorf("glob lists %q, want f and new", got)
	}
	if found, err := f.search(t.Context(), searchParams{pathParam: at(h.dir), Pattern: "line"}); err != nil || len(found.Matches) != 2 {
		t.Errorf("search: %s, %v, want two matches", asJSON(t, found), err)
	}
	if control := h.git("status", "--porcelain"); !strings.Contains(control, "private0") {
		t.Errorf("git does not fall for it: %q, want git to read the other directory: else the test proves nothing", control)
	}
}

// The commits of a submodule are read only if all of it is allowed.
func TestSubmodules(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	h := newHostileRepo(t)
	sub := newTestRepoAt(t, filepath.Join(h.allowed, "sub"), nil)
	sub.write("s", "s\n")
	sub.commit("s", nil)
	h.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", sub.dir, "module")
	h.commit("module", nil)
	g := newTestGitReader(t, h.allowed)
	module := filepath.Join(h.dir, "module")
	if got, err := g.info(t.Context(), infoParams{at(module)}); err != nil || got.Path != module || got.LastCommit.Subject != "s" {
		t.Errorf("inside: %s, %v, want the submodule and its commit", asJSON(t, got), err)
	}
	(&testRepo{t: t, dir: module}).commit("moved on", nil)
	unstaged := func() int {
		t.Helper()
		got, err := g.info(t.Context(), infoParams{at(h.dir)})
		if err != nil {
			t.Fatal(err)
		}
		return got.Dirty.Unstaged
	}
	if n := unstaged(); n != 1 {
		t.Errorf("%d changes, want that of the submodule", n)
	}
	if err := os.Rename(filepath.Join(h.dir, ".git", "modules", "module"), filepath.Join(h.allowed, "..", "gone")); err != nil {
		t.Fatal(err)
	}
	h.write("module/.git", "gitdir: ../../../gone\n")
	if n := unstaged(); n != 0 {
		t.Errorf("%d changes: the submodule's git directory outside was read, want 0", n)
	}
	_, err := g.info(t.Context(), infoParams{at(module)})
	wantFailure(t, err, codeAccessDenied)
}

// A bare repository inside a work tree may have come with its files.
func TestBareRepositoryInsideAWorkTree(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	inner := filepath.Join(h.dir, "inner")
	h.git("clone", "-q", "--bare", h.dir, inner)
	// The same with a configuration that claims a work tree.
	for name, value := range map[string]string{"core.bare": "false", "core.worktree": "..", "core.fsmonitor": h.attack()} {
		h.git("-C", inner, "config", name, value)
	}
	answers, errs := callAll(t, newTestGitReader(t, h.allowed), inner)
	wantFailure(t, errs["vcs/blame"], codeSourceNotFound) // f is in the work tree alone
	delete(errs, "vcs/blame")
	for method, err := range errs {
		if err != nil {
			t.Errorf("%s: %v, want no error", method, err)
		}
	}
	if !strings.Contains(answers["vcs/info"], `"path": "`+h.dir+`"`) || !strings.Contains(answers["index/manifest"], `"total": 0`) {
		t.Errorf("taken for a repository: %s, want the work tree alone", answers)
	}
	scan, err := fsOn(t, h.allowed).repoScan(t.Context(), repoScanParams{})
	if err != nil || len(scan.Repos) != 1 || scan.Repos[0].Path != h.dir {
		t.Errorf("the scan found %s, %v, want the work tree alone", asJSON(t, scan), err)
	}
	if h.wasAttacked() {
		t.Error("its configuration ran a program, want none to run")
	}
}

// A directory of a larger repository that is not allowed belongs to no
// repository.
func TestRepositoryAboveTheAllowedDirectory(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	h.write("part/x", "x")
	h.commit("part", nil)
	h.write(".gitignore", "x\n")
	h.git("config", "core.fsmonitor", h.attack())
	part := filepath.Join(h.dir, "part")
	_, errs := callAll(t, newTestGitReader(t, part), part)
	for method, err := range errs {
		if err == nil || asRPCError(err).name() != codeRepoNotFound {
			t.Errorf("%s: %v, want %s", method, err, codeRepoNotFound)
		}
	}
	// For fs/* it is a plain directory without the ignore rules from above.
	f := fsOn(t, part)
	if got := fsGlobAll(t, f, globParams{pathParam: at(part)}); !slices.Equal(got, []string{"x"}) {
		t.Errorf("glob lists %q, want x alone", got)
	}
	if found, err := f.search(t.Context(), searchParams{pathParam: at(part), Pattern: "x"}); err != nil || len(found.Matches) != 1 {
		t.Errorf("search: %s, %v, want one match", asJSON(t, found), err)
	}
	if scan, err := f.repoScan(t.Context(), repoScanParams{}); err != nil || len(scan.Repos) != 0 {
		t.Errorf("the scan found %s, %v, want none", asJSON(t, scan), err)
	}
	if h.wasAttacked() {
		t.Error("the configuration above ran a program, want none to run")
	}
}

// The owner does not matter, because nothing in the configuration takes effect.
func TestRepositoryOfAnotherUser(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	err := filepath.WalkDir(h.dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, 65534, 65534)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, errs := callAll(t, newTestGitReader(t, h.allowed), h.dir)
	for method, err := range errs {
		if err != nil {
			t.Errorf("%s: %v, want no error", method, err)
		}
	}
}

// Values from a caller are never taken for an option, a second command or the
// file of another repository.
func TestHostileParams(t *testing.T) {
	skipShort(t, "asks git for dozens of odd revisions, authors and files")
	t.Parallel()
	h := newHostileRepo(t)
	g := newTestGitReader(t, h.allowed)
	for _, rev := range []string{"--output=" + h.marker, "-O" + h.marker, "--no-index", "--all", "^HEAD", "HEAD..HEAD~1", "HEAD\n--output=" + h.marker, "HEAD\x00", "@{-1}"} {
		for _, err := range []error{
			second(g.manifest(t.Context(), manifestParams{pathParam: at(h.dir), Commit: &rev})),
			second(g.history(t.Context(), logParams{pathParam: at(h.dir), Ref: &rev})),
			second(g.diff(t.Context(), diffParams{pathParam: at(h.dir), From: rev})),
			second(g.diff(t.Context(), diffParams{pathParam: at(h.dir), From: "HEAD", To: &rev})),
			second(g.readBlobs(t.Context(), blobsParams{pathParam: at(h.dir), Files: []string{"f"}, Commit: &rev})),
			second(g.patches(t.Context(), patchParams{pathParam: at(h.dir), From: &rev})),
			second(g.patches(t.Context(), patchParams{pathParam: at(h.dir), To: &rev})),
			second(g.blame(t.Context(), blameParams{pathParam: at(h.dir), File: "f", Commit: &rev})),
		} {
			if err == nil || asRPCError(err).Code != codeInvalidParams {
				t.Errorf("%q: %v, want invalid params", rev, err)
			}
		}
	}
	for _, author := range []string{"--output=" + h.marker, "-p", "x\x00y"} {
		page, err := g.history(t.Context(), logParams{pathParam: at(h.dir), Author: &author})
		if len(page.Commits) != 0 {
			t.Errorf("author %q: %v, want no commit", author, err)
		}
	}
	for _, file := range []string{"--output=" + h.marker, ":!f", ":(top)f", "*", ":(glob)**"} {
		page, err := g.history(t.Context(), logParams{pathParam: at(h.dir), File: &file})
		if err != nil || len(page.Commits) != 0 {
			t.Errorf("file %q: %s, %v, want no commit and no error", file, asJSON(t, page), err)
		}
		diff, err := g.patches(t.Context(), patchParams{pathParam: at(h.dir), Files: []string{file}})
		if err != nil || len(diff.Files) != 0 {
			t.Errorf("file %q: %s, %v, want no patch and no error", file, asJSON(t, diff), err)
		}
		_, err = g.blame(t.Context(), blameParams{pathParam: at(h.dir), File: file})
		wantFailure(t, err, codeSourceNotFound)
	}
	if h.wasAttacked() {
		t.Error("a param became an option, want it taken as text")
	}
}

// The daemon's environment does not affect its git commands, and gives them no
// credentials.
func TestPoisonedEnvironment(t *testing.T) {
	h := newHostileRepo(t)
	other := newTestRepoAt(t, filepath.Join(h.allowed, "other"), map[string]string{"poison": "p"})
	home, trace := filepath.Join(h.allowed, "home"), filepath.Join(h.allowed, "trace")
	w := newCloneWorld(t)
	lib := w.server.repo("lib", map[string]string{"a": "1"})
	w.server.repo("private", map[string]string{"a": "1"})
	attack := h.attack()
	host, _, _ := strings.Cut(w.server.host(), ":")
	writeFiles(t, home, map[string]string{
		".netrc":     "machine " + host + " login oauth2 password s3cret\n",
		".gitconfig": "[core]\n\tfsmonitor = " + attack + "\n[credential]\n\thelper = " + attack + "\n[diff]\n\texternal = " + attack + "\n",
	})
	for name, value := range map[string]string{
		"GIT_DIR": other.dir + "/.git", "GIT_WORK_TREE": other.dir, "GIT_INDEX_FILE": other.dir + "/.git/index", "GIT_OBJECT_DIRECTORY": other.dir + "/.git/objects",
		"GIT_ALTERNATE_OBJECT_DIRECTORIES": other.dir + "/.git/objects", "GIT_COMMON_DIR": other.dir + "/.git", "GIT_NAMESPACE": "x",
		"GIT_EXTERNAL_DIFF": attack, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": attack,
		"GIT_CONFIG_PARAMETERS": "'core.fsmonitor=" + attack + "'", "GIT_CONFIG_GLOBAL": home + "/.gitconfig", "GIT_CONFIG_SYSTEM": home + "/.gitconfig",
		"GIT_ASKPASS": attack, "SSH_ASKPASS": attack, "GIT_SSH": attack, "GIT_SSH_COMMAND": attack, "GIT_PROXY_COMMAND": attack, "GIT_EDITOR": attack, "GIT_PAGER": attack, "PAGER": attack,
		"GIT_TRACE": trace, "GIT_TRACE_CURL": trace, "GIT_TRACE_PACKET": trace, "GIT_TRACE2": trace, "GIT_TEMPLATE_DIR": home, "GIT_EXEC_PATH": home,
		"GIT_ALLOW_PROTOCOL": "ext", "GIT_LITERAL_PATHSPECS": "0", "GIT_ICASE_PATHSPECS": "1", "HOME": home, "XDG_CONFIG_HOME": home, "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de",
	} {
		t.Setenv(name, value)
	}
	g := newTestGitReader(t, h.allowed)
	answers, errs := callAll(t, g, h.dir)
	for method, err := range errs {
		if err != nil || strings.Contains(answers[method], "poison") {
			t.Errorf("%s: %s, %v, want an answer of the right repository", method, answers[method], err)
		}
	}
	if answers["vcs/info"] == "" || !strings.Contains(answers["index/manifest"], `"total": 1`) {
		t.Errorf("another repository was shown: %s, want the right one alone", answers)
	}
	w.cfg.git = newGitRunner(os.Getenv, "")
	w.remotes.git = w.cfg.git
	w.must(cloneParams{URL: w.server.address("lib")}, actionCloned, lib.head())
	w.server.requireAuth("oauth2", "s3cret")
	_, err := w.try(cloneParams{URL: w.server.address("private")})
	wantGitFailure(t, err, gitAuth)
	if sent := w.server.authorizations(); len(sent) != 0 {
		t.Errorf("got credentials %q at the server, want none", sent)
	}
	if _, err := os.Stat(trace); err == nil {
		t.Error("git wrote a trace, want none")
	}
	if h.wasAttacked() {
		t.Error("the environment ran a program, want none to run")
	}
}

func second[T any](_ T, err error) error { return err }

// Temporary git directories are removed in every case, at the latest with the
// daemon.
func TestNothingTemporaryStays(t *testing.T) {
	h := newHostileRepo(t)
	temp := filepath.Join(h.allowed, "..", "temp")
	if err := os.MkdirAll(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", temp)
	g := newTestGitReader(t, h.allowed)
	callAll(t, g, h.dir)
	f := newFSService(g.access, g.git, g.log)
	for _, dir := range []string{h.dir, h.allowed} { // inside a repository and outside
		for _, err := range []error{
			second(f.glob(t.Context(), globParams{pathParam: at(dir)})),
			second(f.search(t.Context(), searchParams{pathParam: at(dir), Pattern: "line"})),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	h.write(".git/index", "not an index")
	if _, err := g.info(t.Context(), infoParams{at(h.dir)}); err == nil {
		t.Error("a broken index went unnoticed, want an error")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.manifest(cancelled, manifestParams{pathParam: at(h.dir)}); err == nil {
		t.Error("a cancelled request was answered, want an error")
	}
	// Cancel while the directory is being created.
	if err := errors.Join(os.Remove(h.dir+"/.git/index"), os.Symlink(temp, h.dir+"/.git/index")); err != nil {
		t.Fatal(err)
	}
	_, err := g.info(t.Context(), infoParams{at(h.dir)})
	wantFailure(t, err, codeAccessDenied)
	if left, err := os.ReadDir(temp); err != nil || len(left) > maxKeptViews {
		t.Errorf("there are %v, %v, want at most the %d views that are kept", left, err, maxKeptViews)
	}
	g.access.views.close() // as at the end of the daemon
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v, want nothing", left, err)
	}
}
