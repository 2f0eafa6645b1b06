package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What is no URL of a protocol that we speak is refused before any git runs,
// whatever the daemon's own git configuration says.
func TestCloneOfWhatIsNoURL(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	marker := filepath.Join(t.TempDir(), "marker")
	config := filepath.Join(w.workDir, configFileName)
	if err := os.WriteFile(config, []byte("[protocol]\n\tallow = always\n[protocol \"ext\"]\n\tallow = always\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGitReader(w.cfg.git, w.cfg.access, w.remotes, w.cfg.log)
	w.cfg.git.path = filepath.Join(t.TempDir(), "no-git") // an attempt to run it would be another error
	for _, url := range []string{
		"--upload-pack=touch " + marker, "-u", "ext::sh -c touch% " + marker, "ext::touch " + marker, "fd::17/x", "git://127.0.0.1/x", "ftp://127.0.0.1/x", "h:p", "relative/path", "./x", "",
		"http://127.0.0.1/a\nb", "http://127.0.0.1/a%0ab", "http://127.0.0.1/a%0db", "http://127.0.0.1/a b", "http://127.0.0.1\\x/y", "http://\u00fc/x", "ssh://-oProxyCommand=touch/x", "ssh://-x/y", "ssh://-u@127.0.0.1/x", "u@-h:x",
		"-u@127.0.0.1:x", "http://127.0.0.1/" + strings.Repeat("x", maxURLLength),
	} {
		_, err := w.try(cloneParams{URL: url, Name: "x"})
		wantInvalid(t, err, "url")
		_, err = g.listRefs(t.Context(), refsParams{URL: &url})
		wantInvalid(t, err, "url")
	}
	for _, path := range []string{"/etc", "file:///etc", "file:///no/such/place"} {
		_, err := w.try(cloneParams{URL: path, Name: "x"})
		wantFailure(t, err, codeAccessDenied)
		_, err = g.listRefs(t.Context(), refsParams{URL: &path})
		wantFailure(t, err, codeAccessDenied)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a URL became a program")
	}
}

// Should such a URL reach git after all, as the url of a submodule or a
// rewritten one might, git refuses it. The control shows that it would not.
func TestGitSpeaksNoOtherProtocol(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	marker := filepath.Join(dir, "marker")
	repo := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a": "1"})
	g := newGitRunner(os.Getenv, "")
	g.globalConfig = filepath.Join(dir, "config")
	if err := os.WriteFile(g.globalConfig, []byte("[protocol]\n\tallow = always\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ext := "ext::touch " + marker
	ctx, cancel := context.WithTimeout(t.Context(), patience) // fd:: would wait for ever
	defer cancel()
	for _, protocols := range []string{"http", "https", "ssh", "file", ""} {
		for _, url := range []string{ext, "fd::0", "git://127.0.0.1:1/x", "file://" + repo.dir} {
			_, err := g.run(ctx, gitCommand{args: []string{"ls-remote", "--end-of-options", url}, protocols: protocols})
			if protocols == "file" && strings.HasPrefix(url, "file:") {
				if err != nil {
					t.Error(err)
				}
				continue
			}
			if err == nil || !strings.Contains(asRPCError(err).Message, "not allowed") {
				t.Errorf("%q, with %q allowed: %v", url, protocols, err)
			}
		}
	}
	if _, err := os.Stat(marker); err == nil {
		t.Fatal("git ran a program")
	}
	repo.env = []string{"GIT_ALLOW_PROTOCOL=ext"}
	repo.mayFail("ls-remote", ext)
	if _, err := os.Stat(marker); err != nil {
		t.Error("git does not fall for it: this test proves nothing")
	}
}

// A token in the URL, or a stored one, is in no log line and no report of
// progress, however the clone ends.
func TestCloneLogsAndProgressHideTokens(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	const token = "s3cret/T0ken"
	var mu sync.Mutex
	var seen strings.Builder // under mu
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		seen.WriteString(text + "\n")
	}
	w := newCloneWorld(t)
	w.cfg.log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) { note(string(p)); return len(p), nil }), &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.server.repo("lib", map[string]string{"a": "1"})
	w.server.requireAuth("oauth2", token)
	ctx := withProgress(t.Context(), func(p progress) { note(asJSON(t, p)) })
	echo := func(rw http.ResponseWriter, r *http.Request) bool {
		sent := r.Header.Get("Authorization")
		if sent == "" {
			return false // the server asks for it
		}
		rw.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(rw, "you sent "+sent) // a client that went away is no fault of the test
		return true
	}
	inURL := w.server.addressAs("oauth2:"+percentEncode(token), "lib")
	for _, url := range []string{inURL, w.server.address("lib")} {
		for _, hook := range []gitHook{nil, echo, answerOnce("git-upload-pack", http.StatusInternalServerError, nil, token)} {
			w.server.setHook(hook)
			if _, err := w.tryIn(ctx, cloneParams{URL: url, Name: "x" + strings.Repeat("y", len(url))}); err != nil {
				note(asJSON(t, asRPCError(err)))
			}
		}
		w.setToken(w.server.host(), token)
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(seen.String(), "a clone failed") || !strings.Contains(seen.String(), "checkout") {
		t.Errorf("neither a failure nor progress is in what was seen: %s", seen.String())
	}
	for _, form := range secret(token).forms("oauth2") {
		if strings.Contains(seen.String(), form) {
			t.Errorf("%q is in what was seen: %s", form, seen.String())
		}
	}
}

// Trees that git itself would check out, or refuse only while it does.
func TestCloneEvilTreesOfOtherKinds(t *testing.T) {
	skipShort(t, "clones a dozen times, for a second")
	t.Parallel()
	w := newCloneWorld(t)
	literally := func(remote *testRepo, kind, content string) string {
		t.Helper()
		out, err := remote.tryGit(content, "hash-object", "-t", kind, "-w", "--literally", "--stdin")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	for name, entry := range map[string]func(remote *testRepo, blob string) (mode, file, oid string){
		"slash": func(_ *testRepo, blob string) (string, string, string) { return "100644", "a/b", blob },
		"dot-git in a tree": func(r *testRepo, blob string) (string, string, string) {
			return "40000", ".git", r.git("rev-parse", "HEAD^{tree}")
		},
		"symlink .gitmodules": func(r *testRepo, _ string) (string, string, string) {
			return "120000", ".gitmodules", literally(r, "blob", "/etc/passwd")
		},
		"option as a submodule's url": func(r *testRepo, _ string) (string, string, string) {
			return "100644", ".gitmodules", literally(r, "blob", "[submodule \"x\"]\n\tpath = x\n\turl = -u./attack\n")
		},
		"submodule above": func(r *testRepo, _ string) (string, string, string) {
			return "100644", ".gitmodules", literally(r, "blob", "[submodule \"../../x\"]\n\tpath = x\n\turl = https://example.org/x\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			place := fmt.Sprintf("evil%d", len(w.server.requests())) // each test asks
			remote := w.server.repo(place, map[string]string{"a": "1"})
			mode, file, oid := entry(remote, remote.git("rev-parse", "HEAD:a"))
			raw, err := hex.DecodeString(oid)
			if err != nil {
				t.Fatal(err)
			}
			tree := literally(remote, "tree", mode+" "+file+"\x00"+string(raw))
			remote.git("update-ref", "refs/heads/main", remote.git("commit-tree", "-m", "evil", tree))
			_, err = w.try(cloneParams{URL: w.server.address(place), Name: "x"})
			wantGitFailure(t, err, gitCorrupt)
			w.noTemporaries()
			if _, err := os.Lstat(filepath.Join(w.workDir, reposDirName, "x")); err == nil {
				t.Error("a repository is there")
			}
		})
	}
}

// Links in a tree are checked out as they are; nothing is read or written
// through them outside.
func TestCloneLinksInTheTree(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	outside := realTempDir(t)
	writeFiles(t, outside, map[string]string{"precious": "outside", "dir/f": "outside"})
	remote := w.server.repo("lib", map[string]string{"dir/f": "1", "file": "1"})
	symlinks(t, map[string]string{remote.dir + "/link": outside + "/precious", remote.dir + "/root": "/", remote.dir + "/in": "dir/f", remote.dir + "/.gitattributes": outside + "/precious"})
	first := remote.commit("links", nil)
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, first)
	f := newFSService(w.cfg.access, w.cfg.git, w.cfg.log)
	read := func(name string) string {
		got, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(r.Path + "/" + name)})
		if err != nil {
			return fsCode(err)
		}
		return string(got.Content)
	}
	for name, want := range map[string]string{"link": "SOURCE_ACCESS_DENIED", "root/etc/passwd": "SOURCE_ACCESS_DENIED", ".gitattributes": "SOURCE_ACCESS_DENIED", "in": "1"} {
		if got := read(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// What is in the place of a directory and of a file leads outside when the
	// next commit writes them.
	for _, name := range []string{"dir", "file"} {
		if err := os.RemoveAll(r.Path + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	symlinks(t, map[string]string{r.Path + "/dir": outside + "/dir", r.Path + "/file": outside + "/precious"})
	second := remote.commit("second", map[string]string{"dir/f": "2", "dir/new": "2", "file": "2"})
	w.must(p, actionUpdated, second)
	if read("dir/f") != "2" || read("file") != "2" {
		t.Errorf("dir/f is %q, file %q", read("dir/f"), read("file"))
	}
	for name, want := range map[string]string{"precious": "outside", "dir/f": "outside"} {
		if data, err := os.ReadFile(filepath.Join(outside, name)); err != nil || string(data) != want {
			t.Errorf("%s outside is %q, %v", name, data, err)
		}
	}
	if _, err := os.Lstat(outside + "/dir/new"); err == nil {
		t.Error("a file was written outside")
	}
}

// Submodules stay empty directories and LFS pointers pointers; nobody is asked
// for either.
func TestCloneSubmodulesAndLFS(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
	module := w.server.repo("module", map[string]string{"m": "1"})
	remote := w.server.repo("lib", map[string]string{
		"big.bin": pointer, ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
		".lfsconfig":  "[lfs]\n\turl = " + w.server.address("lfs") + "\n",
		".gitmodules": "[submodule \"sub\"]\n\tpath = sub\n\turl = " + w.server.address("module") + "\n",
	})
	remote.git("update-index", "--add", "--cacheinfo", "160000,"+module.head()+",sub")
	remote.git("commit", "-q", "-m", "submodule")
	p := cloneParams{URL: w.server.address("lib")}
	wantLeftOut := func(r cloneResult, want ...leftOut) {
		t.Helper()
		if !slices.Equal(r.LeftOut, want) || r.LeftOut == nil {
			t.Errorf("%s: left_out is %#v, want %#v", r.Action, r.LeftOut, want)
		}
	}
	r := w.must(p, actionCloned, remote.head())
	wantLeftOut(r, leftOutSubmodules, leftOutFilters)
	remote.git("commit", "-q", "--allow-empty", "-m", "more")
	wantLeftOut(w.must(p, actionUpdated, remote.head()), leftOutSubmodules, leftOutFilters)
	wantLeftOut(w.must(p, actionUnchanged, remote.head()), leftOutSubmodules, leftOutFilters)
	if got := w.file(r, "big.bin"); got != pointer {
		t.Errorf("big.bin is %q", got)
	}
	if entries, err := os.ReadDir(filepath.Join(r.Path, "sub")); err != nil || len(entries) != 0 {
		t.Errorf("sub holds %v, %v", entries, err)
	}
	for _, request := range w.server.requests() {
		if !strings.Contains(request, " /lib/") {
			t.Errorf("the server was asked for %s", request)
		}
	}
	remote.git("rm", "-q", "--cached", "sub")
	remote.git("commit", "-q", "-m", "no submodule")
	wantLeftOut(w.must(p, actionUpdated, remote.head()), leftOutFilters)
	remote.git("rm", "-q", "--cached", ".gitattributes")
	remote.git("commit", "-q", "-m", "no filter")
	wantLeftOut(w.must(p, actionUpdated, remote.head()))
	remote.commit("below", map[string]string{"a/b c/.gitattributes": "# filter=x\n\"a b\" -text filter=lfs\n"})
	wantLeftOut(w.must(p, actionUpdated, remote.head()), leftOutFilters)
	wantLeftOut(w.must(cloneParams{URL: p.URL, Ref: "HEAD", Name: "again"}, actionCloned, remote.head()), leftOutFilters)
	wantLeftOut(w.must(cloneParams{URL: w.server.address("module"), Name: "again"}, actionRecloned, module.head()))
}

// A remote that drips, byte after byte, tells git nothing: it is as silent as
// one that hangs.
func TestCloneRemoteDrips(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1"})
	w.remotes.stall = 300 * time.Millisecond
	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return true
			case <-tick.C:
				_, err := io.WriteString(rw, "0")
				if flush, ok := rw.(http.Flusher); ok && err == nil {
					flush.Flush()
				}
			}
		}
	})
	_, err := w.try(cloneParams{URL: w.server.address("lib")})
	wantGitFailure(t, err, gitNetwork)
	url := w.server.address("lib")
	_, err = newGitReader(w.cfg.git, w.cfg.access, w.remotes, w.cfg.log).listRefs(t.Context(), refsParams{URL: &url})
	wantGitFailure(t, err, gitNetwork)
	w.noTemporaries()
}

// A clone that fails never tells of 100 percent.
func TestCloneFailureDoesNotReachTheEnd(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1", "b": "2"})
	w.cfg.maxFiles = 1
	var mu sync.Mutex
	var percents []int
	ctx := withProgress(context.Background(), func(p progress) {
		mu.Lock()
		defer mu.Unlock()
		percents = append(percents, p.Percent)
	})
	_, err := w.tryIn(ctx, cloneParams{URL: w.server.address("lib")})
	wantGitFailure(t, err, gitTooLarge)
	mu.Lock()
	defer mu.Unlock()
	if len(percents) == 0 || !slices.IsSorted(percents) || percents[len(percents)-1] > 99 {
		t.Errorf("percents %v", percents)
	}
}

// A remote with more references than are kept of any output is an answer that
// says so; git is stopped.
func TestRemoteWithTooManyRefs(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	w := newCloneWorld(t)
	page := strings.Repeat(strings.Repeat("a", 40)+"\trefs/heads/"+strings.Repeat("b", 200)+"\n", 1000)
	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "info/refs") {
			return false
		}
		for sent := 0; sent <= maxGitOutput; sent += len(page) { // as a server of plain files does
			if _, err := io.WriteString(rw, page); err != nil {
				break
			}
		}
		return true
	})
	url := w.server.address("lib")
	_, err := newGitReader(w.cfg.git, w.cfg.access, w.remotes, w.cfg.log).listRefs(t.Context(), refsParams{URL: &url})
	wantGitFailure(t, err, gitTooLarge)
}

// What old and foreign tools wrote is cloned where git clone does it; git clone does
// not look at the form of objects unless it is told to.
func TestCloneHarmlessMistakes(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	tree, blob := remote.git("rev-parse", "HEAD^{tree}"), remote.git("rev-parse", "HEAD:a")
	unhex := func(oid string) string {
		t.Helper()
		raw, err := hex.DecodeString(oid)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	raw := unhex(blob)
	write := func(kind, content string) string {
		t.Helper()
		out, err := remote.tryGit(content, "hash-object", "-t", kind, "-w", "--literally", "--stdin")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	const who = "A <a@b> 1700000000 +0000"
	commit := func(tree, author, committer string) string {
		return write("commit", "tree "+tree+"\n"+author+committer+"\nmessage\n")
	}
	tag := func(content string) string {
		return write("tag", "object "+remote.head()+"\n"+content+"\nmessage\n")
	}
	good := "author " + who + "\ncommitter " + who + "\n"
	for name, oid := range map[string]string{
		"badDate":                 commit(tree, "author A <a@b> x +0000\n", "committer "+who+"\n"),
		"zeroPaddedDate":          commit(tree, "author A <a@b> 0170000000 +0000\n", "committer "+who+"\n"),
		"badDateOverflow":         commit(tree, "author A <a@b> 99999999999999999999 +0000\n", "committer "+who+"\n"),
		"badTimezone":             commit(tree, "author A <a@b> 1700000000 +00x\n", "committer "+who+"\n"),
		"missingEmail":            commit(tree, "author A 1700000000 +0000\n", "committer "+who+"\n"),
		"missingSpaceBeforeEmail": commit(tree, "author A<a@b> 1700000000 +0000\n", "committer "+who+"\n"),
		"missingSpaceBeforeDate":  commit(tree, "author A <a@b>1700000000 +0000\n", "committer "+who+"\n"),
		"badEmail":                commit(tree, "author A <a@b <c>> 1700000000 +0000\n", "committer "+who+"\n"),
		"multipleAuthors":         commit(tree, "author "+who+"\nauthor "+who+"\n", "committer "+who+"\n"),
		"missingAuthor":           commit(tree, "", "committer "+who+"\n"),
		"zeroPaddedFilemode":      commit(write("tree", "0100644 a\x00"+raw), "author "+who+"\n", "committer "+who+"\n"),
		"duplicateEntries":        commit(write("tree", "100644 a\x00"+raw+"100644 a\x00"+raw), "author "+who+"\n", "committer "+who+"\n"),
		"treeNotSorted":           commit(write("tree", "100644 b\x00"+raw+"100644 a\x00"+raw), "author "+who+"\n", "committer "+who+"\n"),
		"missingNameBeforeEmail":  commit(tree, "author <a@b> 1700000000 +0000\n", "committer "+who+"\n"),
		"badName":                 commit(tree, "author A> <a@b> 1700000000 +0000\n", "committer "+who+"\n"),
		"missingCommitter":        commit(tree, "author "+who+"\n", ""),
		"nulInCommit":             write("commit", "tree "+tree+"\n"+good+"\nmess\x00age\n"),
		"extraHeader":             commit(tree, good, "x y\n"),
		"badFilemode":             commit(write("tree", "100600 a\x00"+raw), good, ""),
		"badFilemode-777":         commit(write("tree", "100777 a\x00"+raw), good, ""),
		"badParentSha1":           commit(tree, "parent x\n", good),
		"missingTree":             write("commit", good+"\nmessage\n"),
		"badTreeSha1":             write("commit", "tree x\n"+good+"\nmessage\n"),
		"nullSha1":                commit(write("tree", "160000 m\x00"+strings.Repeat("\x00", 20)), good, ""),
		"gitattributesLineLength": commit(write("tree", "100644 .gitattributes\x00"+unhex(write("blob", "a"+strings.Repeat(" x", 2000)+"\n"))), good, ""),
		"tag-good":                tag("type commit\ntag v1\ntagger " + who + "\n"),
		"tag-missingTaggerEntry":  tag("type commit\ntag v1\n"),
		"tag-badTagName":          tag("type commit\ntag a..b\ntagger " + who + "\n"),
		"tag-badTagger":           tag("type commit\ntag v1\ntagger A<a@b> 017 +x\n"),
		"tag-extraHeaderEntry":    tag("type commit\ntag v1\ntagger " + who + "\nx y\n"),
		"tag-missingTagEntry":     tag("type commit\ntagger " + who + "\n"),
		"tag-missingTypeEntry":    tag("tag v1\ntagger " + who + "\n"),
		"tag-badType":             tag("type x\ntag v1\ntagger " + who + "\n"),
	} {
		kind := "refs/heads/"
		if strings.HasPrefix(name, "tag-") {
			kind = "refs/tags/"
		}
		writeFiles(t, remote.dir, map[string]string{".git/" + kind + name: oid + "\n"}) // git would look at the object
		_, refused := remote.tryGit("", "-c", "advice.detachedHead=false", "clone", "-q", "--depth=1", "--branch="+name, "file://"+remote.dir, filepath.Join(t.TempDir(), "judge"))
		r, err := w.try(cloneParams{URL: w.server.address("lib"), Ref: name, Name: name})
		remote.git("update-ref", "--no-deref", "-d", kind+name)
		if (err == nil) != (refused == nil) {
			t.Errorf("%s: got %+v, %v, want the outcome of git clone, %v", name, r, err, refused)
		}
	}
}

// What a remote calls its refs is not held against the limits of our params.
func TestCloneLongRefName(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	branch := "feature/" + strings.Repeat("a", 200) + "/" + strings.Repeat("b", 200)
	remote.git("branch", "-m", "main", branch)
	p := cloneParams{URL: w.server.address("lib")}
	for _, p.Ref = range []string{"", branch, "refs/heads/" + branch} {
		r, err := w.try(p)
		if err != nil || r.Branch == nil || *r.Branch != branch {
			t.Errorf("ref %q: got %+v, %v, want the branch %s", p.Ref, r, err, branch)
		}
	}
	w.must(p, actionUpdated, remote.commit("second", map[string]string{"a": "2"}))
}
