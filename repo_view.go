package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxIndexFile bounds the index that is copied for a status: some five million
// files.
const maxIndexFile = 512 << 20

// gitView is a git directory of our own that stands for a repository's: its
// references and, for a status, its index are copies, its objects are the
// repository's. Nothing of the repository's configuration, hooks or attributes
// is in it but the values that say how to compare files, each checked. So
// there is nothing in it that could run a program: no fsmonitor, hook, filter,
// textconv, external diff, alias, promisor remote or include.
type gitView struct {
	dir  string
	repo *repository
	view gitViewKind
}

// gitViewKind is what git sees of a repository in a view.
type gitViewKind int

const (
	// objectsView has no work tree: git reads no attributes or mailmap from one.
	objectsView gitViewKind = iota
	// rulesView has the work tree and what is ignored in it.
	rulesView
	// indexView has the index as well.
	indexView
)

// gitView makes the directory; the caller removes it. A bare repository has but
// its objects to be seen.
func (r *repository) gitView(view gitViewKind) (*gitView, error) {
	dir, err := os.MkdirTemp("", "c4a-inspect-*")
	if err != nil {
		return nil, fmt.Errorf("making a temporary git directory: %w", err)
	}
	if r.bare {
		view = objectsView
	}
	v := &gitView{dir: dir, repo: r, view: view}
	if err := v.fill(); err != nil {
		v.remove()
		return nil, err
	}
	return v, nil
}

// remove deletes the directory.
func (v *gitView) remove() { _ = os.RemoveAll(v.dir) } // what stays is a temporary file

// command is a run of git on the repository.
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
		c.dir, c.workTree = v.repo.top.abs, v.repo.top.abs
	}
	return c
}

func (v *gitView) fill() error {
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
		files["HEAD"] = "ref: refs/heads/main\n" // git needs one
	}
	if len(r.shallow) > 0 {
		files["shallow"] = string(r.shallow)
	}
	for name, target := range r.symrefs {
		files[name] = "ref: " + target + "\n"
	}
	if v.view != objectsView {
		for _, name := range []string{"exclude", "sparse-checkout"} {
			from := r.common
			if name == "sparse-checkout" {
				from = r.gitDir // each worktree has its own
			}
			text, err := r.optional(from, filepath.Join("info", name), maxConfigFile)
			if err != nil {
				return err
			}
			if text != nil {
				files["info/"+name] = string(text)
			}
		}
	}
	if v.view == indexView {
		if err := v.copyIndex(); err != nil {
			return err
		}
	}
	for _, name := range []string{"refs", "objects"} {
		if err := os.Mkdir(filepath.Join(v.dir, name), 0o700); err != nil {
			return fmt.Errorf("making a temporary git directory: %w", err)
		}
	}
	for name, text := range files {
		path := filepath.Join(v.dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			return fmt.Errorf("making a temporary git directory: %w", err)
		}
	}
	return nil
}

// config is the view's configuration: the object format, and of the
// repository's own the values that a status needs.
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
	// Where the current branch's upstream is: two names and a pattern for names.
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

// isPlainValue tells a value of the switches that a view takes over.
func isPlainValue(value string) bool {
	return slices.Contains([]string{"true", "false", "yes", "no", "on", "off", "1", "0", "input", "lf", "crlf", "native", "default", "minimal"}, strings.ToLower(value))
}

// isRemoteName tells the name of a configured remote, or ".", from a URL.
func isRemoteName(name string) bool {
	return name == "." || isRefName("refs/remotes/"+name)
}

// quoteSubsection writes a name that isRefName knows for a section header,
// where only the quote and the backslash are special.
func quoteSubsection(name string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
}

// packedRefs is a packed-refs file.
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

// copyIndex copies the index, and what a split one is based on.
func (v *gitView) copyIndex() error {
	r := v.repo
	names := []string{"index"}
	entries, err := readDir(r.gitDir.root.dir, r.gitDir.rel)
	if err != nil {
		return r.access.wireError(err, r.gitDir.abs)
	}
	for _, e := range entries {
		if id, ok := strings.CutPrefix(e.Name(), "sharedindex."); ok && isObjectID(id) {
			names = append(names, e.Name())
		}
	}
	for _, name := range names {
		if err := v.copyFile(name); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file of the git directory, if it is there. It keeps the
// time: git compares the index's with those of the files, and looks into
// whatever changed in the same moment.
func (v *gitView) copyFile(name string) error {
	r := v.repo
	p, err := r.access.within(filepath.Join(r.gitDir.abs, name))
	if err != nil {
		return err
	}
	if _, err := p.root.dir.Lstat(p.rel); err != nil {
		return nil // no index: nothing was added yet
	}
	from, info, err := r.access.openFile(p)
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
