package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for an event that must come.
const patience = 30 * time.Second

// cloneWorld is a cloner with a work dir, and a server to clone from.
type cloneWorld struct {
	*cloner
	t       *testing.T
	server  *gitServer
	workDir string
	stop    context.CancelFunc
}

// newCloneWorld makes one; allowed are directories that may be cloned from.
func newCloneWorld(t *testing.T, allowed ...string) *cloneWorld {
	t.Helper()
	w := &cloneWorld{t: t, server: newGitServer(t), workDir: realTempDir(t)}
	w.open(allowed...)
	return w
}

// open starts a cloner in the work dir, as a daemon does that starts.
func (w *cloneWorld) open(allowed ...string) {
	w.t.Helper()
	a, err := openAccess(allowed, w.workDir)
	if err != nil {
		w.t.Fatal(err)
	}
	g := newGitRunner(os.Getenv, "")
	creds, err := openCredentials(a, g)
	if err != nil {
		w.t.Fatal(err)
	}
	base, stop := context.WithCancel(context.Background())
	w.stop = stop
	c := newCloner(clonerConfig{
		git: g, access: a, credentials: creds, base: base, maxFiles: 200_000, maxBytes: 10 << 30,
		log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	})
	w.cloner = c
	w.t.Cleanup(func() {
		stop()
		c.wait()
		a.close()
	})
}

func (w *cloneWorld) try(p cloneParams) (cloneResult, error) {
	return w.tryIn(w.t.Context(), p)
}

func (w *cloneWorld) tryIn(ctx context.Context, p cloneParams) (cloneResult, error) {
	params, _ := json.Marshal(p)
	value, err := w.methods()[0].call(ctx, params)
	if err != nil {
		return cloneResult{}, err
	}
	return value.(cloneResult), nil
}

// must clones and checks that the repository is whole and at commit.
func (w *cloneWorld) must(p cloneParams, action cloneAction, commit string) cloneResult {
	w.t.Helper()
	r, err := w.try(p)
	if err != nil {
		w.t.Fatalf("cloning: %v %v", err, asRPCError(err).Data)
	}
	if r.Action != action {
		w.t.Errorf("action is %s, want %s", r.Action, action)
	}
	got := "none"
	if r.Commit != nil {
		got = *r.Commit
	}
	if got != commit {
		w.t.Errorf("commit is %s, want %s", got, commit)
	}
	repo := &testRepo{t: w.t, dir: r.Path, env: []string{"GIT_OPTIONAL_LOCKS=0"}} // leaves the index alone
	if status := repo.git("status", "--porcelain"); status != "" {
		w.t.Errorf("the clone is not clean:\n%s", status)
	}
	repo.git("fsck")
	w.noTemporaries()
	return r
}

// noTemporaries checks that nothing but repositories is in the store.
func (w *cloneWorld) noTemporaries() {
	w.t.Helper()
	err := filepath.WalkDir(filepath.Join(w.workDir, reposDirName), func(path string, d os.DirEntry, err error) error {
		base := filepath.Base(path)
		if strings.HasPrefix(base, secretPrefix) || strings.HasPrefix(base, ".tmp-") || strings.HasPrefix(base, ".old-") || strings.HasPrefix(base, "tmp_pack_") || strings.HasSuffix(base, ".lock") {
			w.t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

func (w *cloneWorld) file(r cloneResult, name string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.Path, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

func TestCloneThenUpdate(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("group/lib.git", map[string]string{"a.txt": "1\n", "old/b.txt": "b\n"})
	p := cloneParams{URL: w.server.address("group/lib.git")}
	r := w.must(p, actionCloned, remote.head())
	if r.Name != "lib" || r.URL != p.URL || r.Branch == nil || *r.Branch != "main" || r.IsEmpty || r.Path != filepath.Join(w.workDir, "repos", "lib") {
		t.Errorf("unexpected result %+v", r)
	}
	w.must(p, actionUnchanged, remote.head())

	// Local edits and untracked files go.
	for _, name := range []string{"a.txt", "untracked.txt", "old/b.txt/x"} {
		_ = os.RemoveAll(filepath.Join(r.Path, "old"))
		_ = os.MkdirAll(filepath.Dir(filepath.Join(r.Path, name)), 0o755)
		if err := os.WriteFile(filepath.Join(r.Path, name), []byte("edited"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.must(p, actionUnchanged, remote.head())
	remote.git("rm", "-q", "-r", "old")
	second := remote.commit("second", map[string]string{"a.txt": "2\n", "old": "now a file\n"})
	p.URL = strings.Replace(p.URL, "http://", "HTTP://", 1) + "/"
	r = w.must(p, actionUpdated, second)
	if got := w.file(r, "old"); got != "now a file\n" {
		t.Errorf("old holds %q", got)
	}
	if !r.IsShallow {
		t.Error("depth 1 made no shallow clone")
	}
	clone := &testRepo{t: t, dir: r.Path}
	for _, c := range [][2]string{
		{"refs/heads/main", clone.git("symbolic-ref", "HEAD")},
		{"+refs/heads/*:refs/remotes/origin/*", clone.git("config", "remote.origin.fetch")},
		{"origin/main", clone.git("rev-parse", "--abbrev-ref", "main@{upstream}")},
		{"origin/main", clone.git("rev-parse", "--abbrev-ref", "origin/HEAD")},
		{"refs/heads/main\nrefs/remotes/origin/HEAD\nrefs/remotes/origin/main", clone.git("for-each-ref", "--format=%(refname)")},
	} {
		if c[0] != c[1] {
			t.Errorf("got %q, want %q", c[1], c[0])
		}
	}
}

func TestCloneRefKinds(t *testing.T) {
	skipShort(t, "clones a dozen times, for 2 s")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	first := remote.head()
	remote.git("tag", "light")
	remote.git("tag", "-a", "-m", "x", "v1.0")
	remote.git("tag", "-a", "-m", "x", "tree", "HEAD^{tree}")
	remote.git("branch", "feat")
	second := remote.commit("second", map[string]string{"a": "2"})
	address := w.server.address("lib")
	tree := remote.git("rev-parse", "HEAD^{tree}")
	for _, c := range []struct {
		ref, commit, branch string
	}{
		{"", second, "main"}, {"HEAD", second, "main"}, {"feat", first, "feat"}, {"light", first, ""}, {"v1.0", first, ""},
		{"refs/heads/feat", first, "feat"}, {"refs/tags/v1.0", first, ""}, {first, first, ""}, {strings.ToUpper(first), first, ""}, {second, second, ""},
	} {
		for _, name := range []string{"fresh" + fmt.Sprint(len(c.ref)) + c.branch, "same"} {
			r, err := w.try(cloneParams{URL: address, Ref: c.ref, Name: name})
			if err != nil {
				t.Errorf("%s: %v", c.ref, err)
				continue
			}
			if *r.Commit != c.commit || (r.Branch == nil) != (c.branch == "") || r.Branch != nil && *r.Branch != c.branch {
				t.Errorf("ref %q gave %+v", c.ref, r)
			}
		}
	}
	for _, ref := range []string{"none", first[:10], strings.Repeat("a", 40), tree, "tree"} {
		_, err := w.try(cloneParams{URL: address, Ref: ref, Name: "bad"})
		wantFailure(t, err, codeCommitNotFound)
	}
	for _, ref := range []string{"-x", "a b", "ma*", "a..b", "a:b", "--upload-pack=x", "a@{0}", "x.lock", "@"} {
		_, err := w.try(cloneParams{URL: address, Ref: ref})
		wantInvalid(t, err, "ref")
	}
	w.noTemporaries()
}

func TestCloneDepth(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	for i := range 4 {
		remote.commit("more", map[string]string{"a": fmt.Sprint(i)})
	}
	p := cloneParams{URL: w.server.address("lib"), Depth: new(2)}
	count := func(r cloneResult) string {
		return (&testRepo{t: t, dir: r.Path}).git("rev-list", "--count", "HEAD")
	}
	if r := w.must(p, actionCloned, remote.head()); count(r) != "2" || !r.IsShallow {
		t.Errorf("depth 2 gave %s commits, shallow %v", count(r), r.IsShallow)
	}
	p.Depth = new(3)
	if r := w.must(p, actionUpdated, remote.head()); count(r) != "3" {
		t.Errorf("depth 3 gave %s commits", count(r))
	}
	p.Depth = new(0)
	if r := w.must(p, actionUpdated, remote.head()); count(r) != "5" || r.IsShallow {
		t.Errorf("depth 0 gave %s commits, shallow %v", count(r), r.IsShallow)
	}
	remote.commit("last", nil)
	p.Depth = new(1)
	if r := w.must(p, actionUpdated, remote.head()); count(r) != "6" || r.IsShallow {
		t.Errorf("a full clone became shallow: %s commits, shallow %v", count(r), r.IsShallow)
	}
	for _, depth := range []int{-1, maxDepth + 1} {
		_, err := w.try(cloneParams{URL: p.URL, Depth: &depth})
		wantInvalid(t, err, "depth")
	}
}

func TestCloneUpstreamChanges(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib"), Name: "g/lib"}
	w.must(p, actionCloned, remote.head())

	remote.commit("x", map[string]string{"a": "force"})
	remote.git("commit", "-q", "--amend", "-m", "rewritten")
	w.must(p, actionUpdated, remote.head())

	remote.git("branch", "-m", "main", "trunk")
	if r := w.must(p, actionUpdated, remote.head()); *r.Branch != "trunk" {
		t.Errorf("the renamed default branch gave %s", *r.Branch)
	}
	p.Ref = "main"
	_, err := w.try(p)
	wantFailure(t, err, codeCommitNotFound)

	remote.git("branch", "feat")
	p.Ref = "feat"
	w.must(p, actionUpdated, remote.head())
	remote.git("branch", "-D", "feat")
	remote.git("branch", "feat/sub")
	p.Ref = "feat/sub"
	w.must(p, actionUpdated, remote.head())

	p.Ref = ""
	remote.git("checkout", "-q", "--detach")
	if r := w.must(p, actionUpdated, remote.head()); r.Branch != nil {
		t.Errorf("a detached HEAD gave the branch %s", *r.Branch)
	}
	remote.git("symbolic-ref", "HEAD", "refs/heads/nowhere")
	_, err = w.try(p)
	wantFailure(t, err, codeCommitNotFound)
}

func TestCloneEmptyRepository(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", nil)
	p := cloneParams{URL: w.server.address("lib")}
	if r := w.must(p, actionCloned, "none"); !r.IsEmpty {
		t.Error("an empty repository is not called so")
	}
	w.must(p, actionUnchanged, "none")
	head := remote.commit("first", map[string]string{"a": "1"})
	if r := w.must(p, actionUpdated, head); r.IsEmpty {
		t.Error("a repository with a commit is called empty")
	}
}

func TestCloneSHA256(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"}, "--object-format=sha256")
	p := cloneParams{URL: w.server.address("lib")}
	w.must(p, actionCloned, remote.head())
	w.must(p, actionUpdated, remote.commit("second", map[string]string{"a": "2"}))
}

func TestCloneOtherRemote(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	one := w.server.repo("one", map[string]string{"a": "1"})
	two := w.server.repo("two", map[string]string{"b": "2"})
	w.must(cloneParams{URL: w.server.address("one"), Name: "x"}, actionCloned, one.head())
	_, err := w.try(cloneParams{URL: w.server.address("none"), Name: "x"})
	wantGitFailure(t, err, gitNotFound)
	w.must(cloneParams{URL: w.server.address("one"), Name: "x"}, actionUnchanged, one.head())
	w.must(cloneParams{URL: w.server.address("two"), Name: "x"}, actionRecloned, two.head())
}

func TestCloneNames(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	address := w.server.address("lib")
	w.must(cloneParams{URL: address, Name: "a/b"}, actionCloned, remote.head())
	outside := realTempDir(t)
	if err := os.WriteFile(outside+"/precious", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(w.workDir, "repos", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.workDir, "repos", "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "/abs", ".git", "a//b", "a/", "-x", "a b", "a/b/c/d/e", "x\x00", "é", "a", "a/b/c", "link", "link/x", "file", strings.Repeat("x", 101)} {
		_, err := w.try(cloneParams{URL: address, Name: name})
		wantInvalid(t, err, "name")
	}
	if _, err := os.Stat(outside + "/precious"); err != nil {
		t.Error(err)
	}
	_, err := w.try(cloneParams{URL: w.server.URL + "/%C3%A9"})
	wantInvalid(t, err, "name")
}

// The server's first command: the URL is the working directory.
func TestCloneLocalWorkTree(t *testing.T) {
	needsAnyName(t)
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	dir := filepath.Join(realTempDir(t), "we ird's \"q\" 100% é")
	remote := newTestRepoAt(t, dir, map[string]string{"a": "1"})
	remote.commit("second", map[string]string{"a": "2"})
	writeFiles(t, remote.dir, map[string]string{"a": "uncommitted", "b": "untracked"})
	linked := filepath.Join(dir, "linked")
	remote.git("worktree", "add", "-q", "-b", "side", linked)
	if os.Getuid() == 0 {
		for _, path := range []string{dir, dir + "/.git"} {
			if err := os.Chown(path, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
	w := newCloneWorld(t, dir)
	id, err := os.ReadFile(filepath.Join(dir, ".git/refs/heads/main"))
	if err != nil {
		t.Fatal(err)
	}
	head := strings.TrimSpace(string(id))
	r := w.must(cloneParams{URL: dir, Name: "x"}, actionCloned, head)
	if !r.IsShallow || w.file(r, "a") != "2" {
		t.Errorf("shallow is %v, a holds %q", r.IsShallow, w.file(r, "a"))
	}
	w.must(cloneParams{URL: r.URL, Name: "x"}, actionUnchanged, head)
	if r := w.must(cloneParams{URL: linked}, actionCloned, head); *r.Branch != "side" {
		t.Errorf("the linked worktree is on %s", *r.Branch)
	}
	// A clone of a shallow clone.
	w.must(cloneParams{URL: r.Path, Name: "y", Depth: new(0)}, actionCloned, head)
}

func TestCloneLocalOutside(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	allowed, outside := realTempDir(t), realTempDir(t)
	secret := newTestRepoAt(t, outside+"/secret", map[string]string{"a": "1"})
	inside := func(name string) *testRepo {
		return newTestRepoAt(t, filepath.Join(allowed, name), map[string]string{"a": "1"})
	}
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, path string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(path), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
	}
	write(allowed+"/gitfile/.git", "gitdir: "+secret.dir+"/.git\n")
	link(secret.dir, allowed+"/link")
	link(secret.dir+"/.git", inside("gitlink").dir+"/.git")
	write(inside("commondir").dir+"/.git/commondir", secret.dir+"/.git\n")
	link(secret.dir+"/.git/objects", inside("objects").dir+"/.git/objects")
	link(secret.dir+"/.git/objects/pack", inside("pack").dir+"/.git/objects/pack")
	fanout := "/.git/objects/" + secret.head()[:2]
	link(secret.dir+fanout, inside("fanout").dir+fanout)
	write(inside("alternates").dir+"/.git/objects/info/alternates", secret.dir+"/.git/objects\n")
	write(inside("nested").dir+"/.git/objects/info/alternates", allowed+"/alternates/.git/objects\n")
	w := newCloneWorld(t, allowed)
	for _, path := range []string{secret.dir, "/", "file://" + secret.dir, allowed + "/gitfile", allowed + "/link", allowed + "/gitlink", allowed + "/commondir", allowed + "/objects", allowed + "/pack", allowed + "/fanout", allowed + "/alternates", allowed + "/nested"} {
		_, err := w.try(cloneParams{URL: path, Name: "x"})
		wantFailure(t, err, codeAccessDenied)
	}
	_, err := w.try(cloneParams{URL: allowed + "/none"})
	wantFailure(t, err, codeRepoNotFound)
	_, err = w.try(cloneParams{URL: allowed, Name: "x"})
	wantFailure(t, err, codeRepoNotFound)
}

func TestCloneProgress(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("dir%d/file%d", i%7, i)] = strings.Repeat(fmt.Sprint(i), 100)
	}
	w.server.repo("lib", files)
	var mu sync.Mutex
	var reports []progress
	ctx := withProgress(t.Context(), func(p progress) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, p)
	})
	if _, err := w.tryIn(ctx, cloneParams{URL: w.server.address("lib")}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	phases := ""
	for i, p := range reports {
		if i > 0 && p.Percent < reports[i-1].Percent {
			t.Errorf("percent fell from %d to %d", reports[i-1].Percent, p.Percent)
		}
		if i == 0 || p.Phase != reports[i-1].Phase {
			phases += p.Phase + " "
		}
	}
	if reports[0].Percent != 0 || reports[len(reports)-1].Percent != 100 {
		t.Errorf("went from %d to %d percent", reports[0].Percent, reports[len(reports)-1].Percent)
	}
	phases = strings.Replace(phases, "resolving ", "", 1) // only where the pack has deltas
	if want := "connecting counting compressing receiving checkout done "; phases != want {
		t.Errorf("phases were %q, want %q", phases, want)
	}
}

func TestCloneNeedsWorkDir(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	a, err := openAccess([]string{dir}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	g := newGitRunner(os.Getenv, "")
	creds, err := openCredentials(a, g)
	if err != nil {
		t.Fatal(err)
	}
	c := newCloner(clonerConfig{git: g, access: a, credentials: creds, log: slog.New(slog.DiscardHandler), base: t.Context()})
	_, err = c.clone(t.Context(), cloneParams{URL: dir})
	wantFailure(t, err, codeNotConfigured)
	_, err = creds.setAuth(t.Context(), setAuthParams{Host: "h", Token: json.RawMessage(`"x"`)})
	wantFailure(t, err, codeNotConfigured)
}

// A shallow clone that lost the file that says so is no full clone: it is cloned
// afresh.
func TestCloneLostShallow(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	remote.commit("second", map[string]string{"a": "2"})
	p := cloneParams{URL: w.server.address("lib")}
	for _, depth := range []int{1, 0} {
		p.Depth = &depth
		r, err := w.try(p)
		if err != nil {
			t.Fatal(err)
		}
		if depth == 1 {
			if err := os.Remove(filepath.Join(r.Path, ".git", "shallow")); err != nil {
				t.Fatal(err)
			}
			if r = w.must(p, actionRecloned, remote.head()); !r.IsShallow {
				t.Error("it is not shallow")
			}
		}
	}
	w.must(p, actionUnchanged, remote.head())
}

// Who reads the refs while another branch is checked out finds the old ones or
// the new ones, never none.
func TestCloneRefsAreNeverGone(t *testing.T) {
	skipShort(t, "clones and reads refs for 2 s")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	remote.git("branch", "feat/x")
	remote.git("branch", "feat/y")
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	reads, ended := make(chan string, 1), make(chan struct{})
	go func() { // ends with the updates
		defer close(reads)
		repo := &testRepo{t: t, dir: r.Path}
		for {
			select {
			case <-ended:
				return
			default:
			}
			if refs, err := repo.tryGit("", "for-each-ref", "refs/heads"); err == nil && refs == "" {
				reads <- "no refs"
				return
			}
		}
	}()
	for n := range 12 {
		p.Ref = []string{"feat/x", "main", "feat/y"}[n%3]
		if _, err := w.try(p); err != nil {
			t.Error(err)
		}
	}
	close(ended)
	if problem, ok := <-reads; ok {
		t.Error(problem)
	}
}

// git follows a link in .git and would write where it leads: such a repository
// is cloned afresh, and nothing outside is touched.
func TestCloneLinksInItsGitDirectory(t *testing.T) {
	skipShort(t, "clones a dozen times, for 2 s")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	remote.git("branch", "feat/x")
	p := cloneParams{URL: w.server.address("lib")}
	for _, name := range []string{"refs", "refs/heads", "objects", "objects/pack", "info"} {
		p.Ref = ""
		r, err := w.try(p)
		if err != nil {
			t.Fatal(err)
		}
		place, outside := filepath.Join(r.Path, ".git", name), filepath.Join(realTempDir(t), "outside")
		if err := os.Rename(place, outside); err != nil {
			t.Fatal(err)
		}
		symlinks(t, map[string]string{place: outside})
		before := listTree(t, outside)
		p.Ref = "feat/x"
		w.must(p, actionRecloned, remote.head())
		if after := listTree(t, outside); after != before {
			t.Errorf("%s: outside there was\n%s\nand is\n%s", name, before, after)
		}
	}
}

// listTree names what is below dir, with sizes.
func listTree(t *testing.T, dir string) string {
	t.Helper()
	var names strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&names, path, info.Mode(), info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names.String()
}

// A remote that has lost its commits is cloned as an empty one, without files of the
// old state.
func TestCloneRemoteBecomesEmpty(t *testing.T) {
	skipShort(t, "it clones twice")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	if err := os.RemoveAll(remote.dir); err != nil {
		t.Fatal(err)
	}
	w.server.repo("lib", nil)
	got, err := w.try(p)
	if err != nil || !got.IsEmpty || got.Commit != nil || got.Action != actionRecloned {
		t.Errorf("got %+v, %v, want an empty repository, recloned", got, err)
	}
	names, err := os.ReadDir(r.Path)
	if err != nil || len(names) != 1 {
		t.Errorf("got the files %v, %v, want none but .git", names, err)
	}
	packs, err := os.ReadDir(filepath.Join(r.Path, ".git/objects/pack"))
	if err != nil || len(packs) != 0 {
		t.Errorf("got the packs %v, %v, want none", packs, err)
	}
}
