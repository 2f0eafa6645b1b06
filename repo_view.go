package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxIndexFile bounds the index that is copied for a status: about five million
// files.
const maxIndexFile = 512 << 20

// gitView is a temporary git directory that stands for a repository's own, so
// that git never runs with the repository's configuration or hooks,
// which could start programs: fsmonitor, hooks, filters, textconv, external
// diffs, aliases, promisor remotes, includes. References and, for a status, the
// index are copied, and the objects are those of the repository. Of its
// configuration only values that control how files are compared are taken over,
// each of them checked.
type gitView struct {
	kept *keptView
	dir  string // kept.temp.path
	repo *repository
	view gitViewKind
}

// gitViewKind selects what git sees of a repository in a view.
type gitViewKind int

const (
	// objectsView has no work tree, so git reads no attributes or mailmap from
	// one.
	objectsView gitViewKind = iota
	// attributesView has the work tree with its attributes, and no index.
	attributesView
	// indexView has the work tree, its ignore rules and the index.
	indexView
)

// gitView returns a view of the repository; the caller gives it back with remove. A
// view of a repository without a work tree is always an objectsView.
func (r *repository) gitView(view gitViewKind) (*gitView, error) {
	if r.work.abs == "" {
		view = objectsView
	}
	v := &gitView{repo: r, view: view}
	if view == objectsView {
		if v.kept = r.access.views.takeFor(r); v.kept != nil {
			v.dir = v.kept.temp.path
			return v, nil
		}
	}
	files, err := v.files()
	if err != nil {
		return nil, err
	}
	key := fingerprint(r.gitDir.abs, r.work.abs, strconv.Itoa(int(view)))
	var index fileFacts
	if view == indexView {
		index = r.indexFacts()
	}
	if v.kept = r.access.views.take(key, files, index); v.kept != nil {
		v.dir = v.kept.temp.path
		r.access.views.fit(v)
		return v, nil
	}
	temp, err := r.access.temp.make(inspectTemp)
	if err != nil {
		return nil, err
	}
	v.kept, v.dir = &keptView{key: key, files: files, index: index, temp: temp}, temp.path
	if err := v.write(files); err != nil {
		temp.remove()
		return nil, err
	}
	r.access.views.keep(v.kept)
	r.access.views.fit(v)
	return v, nil
}

// remove ends the use of the view.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func (v *gitView) remove() { v.repo.access.views.give(v.kept) }

// command returns a git command that runs in the view.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func (v *gitView) command(args ...string) gitCommand {
	c := gitCommand{
		args:   args,
		dir:    v.dir,
		gitDir: v.dir,
	}
	if v.repo.objects.abs != "" {
		c.env = []string{"GIT_OBJECT_DIRECTORY=" + v.repo.objects.abs}
	}
	if v.view != objectsView {
		c.dir, c.workTree = v.repo.work.abs, v.repo.work.abs
	}
	return c
}

// files returns the files of the view but for the index.
func (v *gitView) files() (map[string]string, error) {
	r := v.repo
	files := map[string]string{
		"config":      v.config(),
		"packed-refs": packedRefs(r.refs),
		"HEAD":        r.head + "\n",
	}
	switch {
	case r.headRef != "":
		files["HEAD"] = "ref: " + r.headRef + "\n"
	case r.head == "":
		files["HEAD"] = "ref: refs/heads/main\n" // git requires a HEAD
	}
	if len(r.shallow) > 0 {
		files["shallow"] = string(r.shallow)
	}
	for name, target := range r.symrefs {
		files[name] = "ref: " + target + "\n"
	}
	if v.view != objectsView {
		// An attribute may name a filter, but the program is configuration.
		for _, name := range []string{"attributes", "exclude", "sparse-checkout"} {
			from := r.common
			if name == "sparse-checkout" {
				from = r.gitDir // each work tree has its own
			}
			text, err := r.optional(from, filepath.Join("info", name), maxConfigFile)
			if e, ok := errors.AsType[*rpcError](err); ok && e.Data["reason"] == gitCorrupt {
				continue // not a regular file: git would wait for it
			}
			if err != nil {
				return nil, err
			}
			if text != nil {
				files["info/"+name] = string(text)
			}
		}
		// Git must not count what no method may read.
		for _, path := range r.access.deniedBelow(r.work.abs) {
			files["info/exclude"] += "\n/" + escapeIgnore(path)
		}
	}
	return files, nil
}

// write fills the directory of a new view.
func (v *gitView) write(files map[string]string) error {
	if v.view == indexView {
		if err := v.copyIndex(); err != nil {
			return err
		}
	}
	for _, name := range []string{"refs", "objects"} {
		if err := os.Mkdir(filepath.Join(v.dir, name), 0o700); err != nil {
			return fmt.Errorf("creating a temporary git directory: %w", err)
		}
	}
	for name, text := range files {
		path := filepath.Join(v.dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			return fmt.Errorf("creating a temporary git directory: %w", err)
		}
	}
	return nil
}

// config returns the view's configuration: the object format, and those values
// of the repository that git status needs.
func (v *gitView) config() string {
	r := v.repo
	var b strings.Builder
	version := 0
	if r.sha256 {
		version = 1
	}
	fmt.Fprintf(&b, "[core]\n\trepositoryformatversion = %d\n\tbare = %t\n", version, v.view == objectsView)
	for _, name := range []string{"filemode", "ignorecase", "symlinks", "autocrlf", "eol", "sparsecheckout", "sparsecheckoutcone", "precomposeunicode", "trustctime", "checkstat"} {
		if value, ok := r.config.get("core", "", name); ok && isPlainValue(value) {
			fmt.Fprintf(&b, "\t%s = %s\n", name, strings.ToLower(value))
		}
	}
	if r.sha256 {
		b.WriteString("[extensions]\n\tobjectformat = sha256\n")
	}
	// git status compares the current branch with its upstream: two names and a
	// refspec.
	branch, ok := strings.CutPrefix(r.headRef, "refs/heads/")
	if !ok || v.view == objectsView {
		return b.String()
	}
	remote, _ := r.config.get("branch", branch, "remote")
	merge, _ := r.config.get("branch", branch, "merge")
	if isRefName(merge) && isRemoteName(remote) {
		fmt.Fprintf(&b, "[branch %s]\n\tremote = %s\n\tmerge = %s\n", quoteSubsection(branch), quoteConfig(remote), quoteConfig(merge))
		for _, v := range r.config {
			if v.section == "remote" && v.subsection == remote && v.name == "fetch" && strings.IndexByte(v.value, 0) < 0 {
				fmt.Fprintf(&b, "[remote %s]\n\tfetch = %s\n", quoteSubsection(remote), quoteConfig(v.value))
			}
		}
	}
	return b.String()
}

// isPlainValue reports whether a value is one that the copied variables may
// have.
func isPlainValue(value string) bool {
	return slices.Contains([]string{"true", "false", "yes", "no", "on", "off", "1", "0", "input", "lf", "crlf", "native", "default", "minimal"}, strings.ToLower(value))
}

// isRemoteName reports whether name is "." or the name of a configured remote,
// and not a URL.
func isRemoteName(name string) bool {
	return name == "." || isRefName("refs/remotes/"+name)
}

// quoteSubsection quotes a valid reference name for a section header, where
// only quotes and backslashes are special.
func quoteSubsection(name string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
}

// packedRefs returns the text of a packed-refs file.
func packedRefs(refs []gitRef) string {
	var b strings.Builder
	b.WriteString("# pack-refs with: sorted \n")
	for _, ref := range refs {
		b.WriteString(ref.oid)
		b.WriteByte(' ')
		b.WriteString(ref.name)
		b.WriteByte('\n')
	}
	return b.String()
}

// indexFacts describes the index as a file, which git replaces with every change.
func (r *repository) indexFacts() fileFacts {
	p, err := r.access.within(filepath.Join(r.gitDir.abs, "index"))
	if err != nil {
		return fileFacts{}
	}
	info, err := lstatIn(p.root.dir, p.rel)
	if err != nil {
		return fileFacts{}
	}
	return fileFacts{size: info.Size(), mtime: info.ModTime(), info: info}
}

// copyIndex copies the index and, for a split index, the shared index files.
// The index is copied first: git writes the shared file before an index that
// needs it, and deletes it weeks after the last one (git-update-index(1), SPLIT
// INDEX).
func (v *gitView) copyIndex() error {
	r := v.repo
	if err := v.copyFile("index"); err != nil {
		return err
	}
	entries, err := readDir(r.gitDir.root.dir, r.gitDir.rel)
	if err != nil {
		return r.access.wireError(err, r.gitDir.abs)
	}
	for _, e := range entries {
		if id, ok := strings.CutPrefix(e.name, "sharedindex."); ok && isObjectID(id) {
			if err := v.copyFile(e.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyFile copies a file of the git directory, if it exists. It preserves the
// modification time: git compares that of the index with those of the files,
// and compares the content of a file that is not older.
func (v *gitView) copyFile(name string) error {
	r := v.repo
	p, err := r.access.within(filepath.Join(r.gitDir.abs, name))
	if err != nil {
		return err
	}
	switch info, err := p.root.dir.Lstat(p.rel); {
	case err != nil:
		return nil // there is no index before the first git add
	case !info.Mode().IsRegular():
		return notRegular(p.abs)
	}
	from, info, err := r.access.openFile(p)
	if isMissing(err) {
		return nil // removed since
	}
	if err != nil {
		return err
	}
	defer from.Close()
	if info.Size() > maxIndexFile {
		return gitFailure(gitTooLarge, "%s: its index is larger than %d bytes", showName(r.top.abs), maxIndexFile)
	}
	path := filepath.Join(v.dir, name)
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(0o600))
	if err != nil {
		return fmt.Errorf("copying the index: %w", err)
	}
	_, err = io.Copy(to, io.LimitReader(from, maxIndexFile))
	if closed := to.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Chtimes(path, info.ModTime(), info.ModTime())
	}
	if err != nil {
		return fmt.Errorf("copying the index: %w", err)
	}
	return nil
}
