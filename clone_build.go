package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	// targetRef receives the fetched object. It is outside refs/heads, so that no
	// branch of the remote can collide with it (feat against feat/sub).
	targetRef = "refs/daemon/target"
	// originHead names the remote's default branch (git-remote(1), set-head).
	originHead = "refs/remotes/origin/HEAD"
	// cloneAttributes is .git/info/attributes of a clone, which counts before
	// every .gitattributes (gitattributes(5)): each file is its blob, byte for
	// byte, whatever the attributes of this commit or of the one before say, and
	// no filter runs.
	cloneAttributes = "* -text -ident !eol !filter !working-tree-encoding\n"
)

// cloneFacts describe a repository in the store. They are read once, without git.
type cloneFacts struct {
	origin   string // key of the remote that it was cloned from
	head     headState
	refs     map[string]string // by full name, but for symbolic ones
	symrefs  map[string]string
	shallow  string // the commits where the history is cut off, "" when it is complete
	sha256   bool
	config   string // the text
	settings gitSettings
	objects  []string // packs and loose objects, below .git
	packs    int
	stamp    cloneStamp
	// pristine means that the git directory holds nothing but what the cloner
	// wrote there, so that its index can be trusted; checkWithGit looks at its flags.
	pristine bool
}

// readFacts reads the repository at the name. errRepoCorrupt means that it is
// none that can be worked with.
func (r *clonedRepo) readFacts() (*cloneFacts, error) {
	f, err := r.readRepository()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRepoCorrupt, err)
	}
	if err := r.scanGitDir(f); err != nil {
		return nil, err
	}
	return f, nil
}

// readRepository returns all facts but those that scanGitDir finds.
func (r *clonedRepo) readRepository() (*cloneFacts, error) {
	at, err := r.cfg.access.within(r.store.path(r.name))
	if err != nil {
		return nil, err
	}
	repo, err := workTreeAt(r.cfg.access, at)
	if err == nil && repo == nil {
		err = notRepository(at.abs)
	}
	if err == nil {
		err = repo.read()
	}
	if err != nil {
		return nil, err
	}
	config, err := repo.optional(repo.gitDir, "config", maxConfigFile)
	if err != nil {
		return nil, err
	}
	address, _ := repo.config.get("remote", "origin", "url")
	origin, err := parseRemoteURL(address)
	if err != nil {
		return nil, err
	}
	branch, _ := strings.CutPrefix(repo.headRef, "refs/heads/")
	f := &cloneFacts{
		origin: origin.key(), head: headState{commit: repo.head, branch: branch}, refs: map[string]string{}, symrefs: repo.symrefs,
		shallow: string(repo.shallow), sha256: repo.sha256, config: string(config), settings: repo.config,
	}
	for _, ref := range repo.refs {
		f.refs[ref.name] = ref.oid
	}
	return f, nil
}

// scanGitDir finds the objects of the repository at the name, and whether
// anything is in its git directory that the cloner did not write. A link in it
// is errRepoCorrupt: git would follow it and write wherever it leads.
func (r *clonedRepo) scanGitDir(f *cloneFacts) error {
	git := r.name + "/.git"
	attributes, err := r.store.root.ReadFile(git + "/info/attributes")
	f.pristine = err == nil && string(attributes) == cloneAttributes
	f.stamp = r.store.stamp(git)
	return r.store.walk(git, func(p string, d fs.DirEntry) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(p, git), "/")
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			return fmt.Errorf("%w: %s is a link", errRepoCorrupt, p)
		case d.IsDir(), !d.Type().IsRegular():
			f.pristine = f.pristine && d.IsDir()
		case isObjectFile(rel):
			f.objects = append(f.objects, rel)
			if strings.HasSuffix(rel, ".pack") {
				f.packs++
			}
		case strings.HasPrefix(rel, "refs/") && isRefName(rel):
		default:
			f.pristine = f.pristine && slices.Contains([]string{"HEAD", "config", "index", "info/attributes", "packed-refs", "shallow"}, rel)
		}
		return nil
	})
}

// isObjectFile reports whether name, below .git, is a pack, a file that belongs
// to one, or a loose object (gitrepository-layout(5)).
func isObjectFile(name string) bool {
	if pack, ok := strings.CutPrefix(name, "objects/pack/pack-"); ok {
		id, ext, _ := strings.Cut(pack, ".")
		return isObjectID(id) && slices.Contains([]string{"pack", "idx", "rev", "bitmap", "keep", "mtimes"}, ext)
	}
	loose, ok := strings.CutPrefix(name, "objects/")
	first, rest, _ := strings.Cut(loose, "/")
	return ok && len(first) == 2 && isObjectID(first+rest)
}

// carryOver makes a git directory for the new state out of the old one: its
// objects and its index are hard links, refs and configuration are written anew.
// Files that others wrote into the old one, and those of a killed git, are not
// taken over. It does nothing if the new state is begun.
func (r *clonedRepo) carryOver() error {
	if r.temp != "" {
		return nil
	}
	if err := r.makeTemp(); err != nil {
		return err
	}
	git := r.temp + "/.git/"
	for _, dir := range []string{"objects/pack", "objects/info", "refs", "info"} {
		if err := r.store.root.MkdirAll(git+dir, 0o777); err != nil {
			return fmt.Errorf("making a git directory: %w", err)
		}
	}
	files := r.old.objects
	if r.old.pristine {
		files = append(slices.Clone(files), "index")
	}
	for _, name := range files {
		if err := r.store.root.MkdirAll(git+path.Dir(name), 0o777); err != nil {
			return fmt.Errorf("making a git directory: %w", err)
		}
		if err := r.store.linkOrCopy(r.name+"/.git/"+name, git+name); err != nil {
			return err
		}
	}
	head := r.old.head.commit + "\n"
	if r.old.head.commit == "" {
		head = "ref: refs/heads/main\n"
	}
	state := map[string]string{
		"HEAD": head, "packed-refs": packedRefs(refList(r.old.refs)), "info/attributes": cloneAttributes, "config": r.config(r.old.settings, ""),
	}
	if r.old.shallow != "" {
		state["shallow"] = r.old.shallow
	}
	return r.writeFiles(state)
}

// refList sorts refs by name.
func refList(refs map[string]string) []gitRef {
	var list []gitRef
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		list = append(list, gitRef{name: name, oid: refs[name]})
	}
	return list
}

func (r *clonedRepo) makeTemp() (err error) {
	r.temp, err = r.store.temp()
	return err
}

// readFile reads a file of the new state's git directory, "" when it is not
// there.
func (r *clonedRepo) readFile(name string) (string, error) {
	text, err := r.store.root.ReadFile(r.temp + "/.git/" + name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading a repository: %w", err)
	}
	return string(text), nil
}

// writeFiles writes files of the new state's git directory. One that is there is
// replaced, not written to: it may be a hard link to the old state's.
func (r *clonedRepo) writeFiles(files map[string]string) error {
	for name, text := range files {
		at := r.temp + "/.git/" + name
		err := r.store.root.MkdirAll(path.Dir(at), 0o777)
		if err == nil {
			err = r.store.root.RemoveAll(at)
		}
		if err == nil {
			err = r.store.root.WriteFile(at, []byte(text), 0o666)
		}
		if err != nil {
			return fmt.Errorf("writing a repository: %w", err)
		}
	}
	return nil
}

func (r *clonedRepo) usesSHA256() bool {
	if r.old != nil {
		return r.old.sha256
	}
	return r.target.sha256
}

// config returns the whole configuration of a clone: the properties of its file
// system, taken from known, and an origin without credentials. Other settings are
// not taken over, because they could name programs.
func (r *clonedRepo) config(known gitSettings, branch string) string {
	var b strings.Builder
	sha256 := r.usesSHA256()
	version := 0
	if sha256 {
		version = 1
	}
	fmt.Fprintf(&b, "[core]\n\trepositoryformatversion = %d\n\tbare = false\n\tlogallrefupdates = false\n", version)
	// Hard links change a file's ctime, when they are made and when the old state is
	// removed, so it says nothing about an edit.
	b.WriteString("\ttrustctime = false\n")
	for _, name := range []string{"filemode", "symlinks", "ignorecase", "precomposeunicode"} {
		if value, ok := known.get("core", "", name); ok && isPlainValue(value) {
			fmt.Fprintf(&b, "\t%s = %s\n", name, strings.ToLower(value))
		}
	}
	if sha256 {
		b.WriteString("[extensions]\n\tobjectformat = sha256\n")
	}
	fmt.Fprintf(&b, "[remote \"origin\"]\n\turl = %s\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n", quoteConfig(r.remote.String()))
	if branch != "" {
		fmt.Fprintf(&b, "[branch %s]\n\tremote = origin\n\tmerge = %s\n", quoteSubsection(branch), quoteConfig("refs/heads/"+branch))
	}
	return b.String()
}

// setRefs makes refs, HEAD and configuration of the new state those of head.
func (r *clonedRepo) setRefs(head headState) error {
	if err := r.store.root.RemoveAll(r.temp + "/.git/refs"); err != nil {
		return fmt.Errorf("removing refs: %w", err)
	}
	if err := r.store.root.MkdirAll(r.temp+"/.git/refs/heads", 0o777); err != nil {
		return fmt.Errorf("making the directory of refs: %w", err)
	}
	settings, err := r.settings()
	if err != nil {
		return err
	}
	files := map[string]string{
		"HEAD":        head.commit + "\n",
		"packed-refs": packedRefs(refList(r.target.refs(r.target.oid, head.commit))),
		"config":      r.config(settings, head.branch),
	}
	switch {
	case head.branch != "":
		files["HEAD"] = "ref: refs/heads/" + head.branch + "\n"
	case head.commit == "":
		files["HEAD"] = "ref: refs/heads/main\n"
	}
	for name, target := range r.target.symrefs() {
		files[name] = "ref: " + target + "\n"
	}
	return r.writeFiles(files)
}

// linkOrCopy gives a file of the store a second name, or makes a copy where the
// file system has no hard links.
func (s *repoStore) linkOrCopy(from, to string) error {
	if s.root.Link(from, to) == nil {
		return nil
	}
	in, err := s.root.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // git will miss it if it needs it
	}
	if err != nil {
		return fmt.Errorf("copying a file of a repository: %w", err)
	}
	defer in.Close() // only read
	out, err := s.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		_, err = io.Copy(out, in)
		err = errors.Join(err, out.Close())
	}
	if err != nil {
		return fmt.Errorf("copying a file of a repository: %w", err)
	}
	return nil
}
