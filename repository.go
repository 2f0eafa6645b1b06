package main

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
)

const (
	// maxSmallFile bounds HEAD, commondir, a .git file, alternates: names and
	// paths.
	maxSmallFile = 64 << 10
	// maxAlternateDepth is how deep git itself follows alternates.
	maxAlternateDepth = 5
	// maxObjectDepth is how deep the directories below objects go:
	// info/commit-graphs and some room.
	maxObjectDepth = 4
	// maxSymrefHops bounds symbolic references to symbolic references, as git
	// does.
	maxSymrefHops = 5
)

// inspector answers what a caller asks about repositories of the machine. It
// never writes to one, and nothing in one runs a program or leads outside the
// allowed directories.
type inspector struct {
	git      *gitRunner
	access   *access
	remotes  *remotes
	log      *slog.Logger
	listings listingCache
}

func newInspector(git *gitRunner, access *access, remotes *remotes, log *slog.Logger) *inspector {
	return &inspector{git: git, access: access, remotes: remotes, log: log}
}

// methods are the inspector's rows of the method table.
func (i *inspector) methods() []*method {
	return []*method{
		newMethod("vcs/info", "What a repository is and how it stands.", i.info),
		newMethod("vcs/refs", "The references of a repository or a remote.", i.listRefs),
		newMethod("vcs/log", "The commits that a revision leads to.", i.history),
		newMethod("index/manifest", "The files of a commit.", i.manifest),
		newMethod("index/readBlobs", "The contents of many files of a commit at once.", i.readBlobs),
		newMethod("index/diff", "What differs between two commits.", i.diff),
	}
}

// repository is one that may be inspected: its work tree, its git directory
// and all its objects lie in allowed directories.
type repository struct {
	access  *access
	top     place  // the work tree, or the bare repository itself
	prefix  string // where the caller's path lies below top, "" for top itself
	bare    bool
	gitDir  place // a linked worktree has its own
	common  place // what all worktrees of the repository share
	objects place

	config   gitSettings
	refs     []gitRef // direct ones, sorted by name
	symrefs  map[string]string
	headRef  string // what HEAD names, "" when detached
	head     string // the commit id of HEAD, "" without commits
	shallow  []byte // the ids of the commits whose parents are cut off, a line each
	sha256   bool
	hasParts bool // a partial clone: some blobs are not here
}

// notRepository is the answer for a path that belongs to no repository.
func notRepository(path string) *rpcError {
	return failure(codeRepoNotFound, "%s: not in a git repository that this daemon may read", showName(path))
}

// openRepository finds the repository that p belongs to: the one at p, or in a parent
// directory that is allowed too. A directory with a .git counts before a bare
// repository below it, as with git's safe.bareRepository=explicit: a bare one
// inside somebody's work tree came with its files.
func openRepository(a *access, p pathParam) (*repository, error) {
	start, err := a.resolve(p)
	if err == nil {
		_, err = a.stat(start)
	}
	if e, ok := errors.AsType[*rpcError](err); ok && e.name() == codeSourceNotFound {
		return nil, failure(codeRepoNotFound, "%s", e.Message)
	}
	if err != nil {
		return nil, err
	}
	var found *repository
	for dir, ok := start, true; ok; dir, ok = parentOf(a, dir) {
		r, err := repositoryAt(a, dir)
		if err != nil {
			return nil, err
		}
		if r != nil && (found == nil || !r.bare) {
			found = r
		}
		if r != nil && !r.bare {
			break
		}
	}
	if found == nil {
		return nil, notRepository(start.abs)
	}
	rel, err := filepath.Rel(found.top.abs, start.abs)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, notRepository(start.abs)
	}
	if rel != "." {
		found.prefix = filepath.ToSlash(rel)
	}
	// Inside a git directory there is nothing to list by path.
	for part := range strings.SplitSeq(found.prefix, "/") {
		if strings.EqualFold(part, ".git") || part != "" && found.bare {
			return nil, failure(codeRepoNotFound, "%s: lies inside a git directory: give the path of the repository", showName(start.abs))
		}
	}
	if err := found.read(); err != nil {
		return nil, err
	}
	return found, nil
}

// parentOf is the directory above, unless that is not allowed.
func parentOf(a *access, dir place) (place, bool) {
	above := filepath.Dir(dir.abs)
	if above == dir.abs {
		return place{}, false
	}
	up, err := a.within(above)
	return up, err == nil && up.abs == above
}

// repositoryAt is the repository whose top is dir, nil when it is none.
func repositoryAt(a *access, dir place) (*repository, error) {
	_, err := dir.root.dir.Lstat(filepath.Join(dir.rel, ".git"))
	if err == nil {
		git, err := gitDirOf(a, dir)
		if err != nil {
			return nil, err
		}
		if r, err := layoutOf(a, dir, git); r != nil || err != nil {
			return r, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !isNotDirectory(err) {
		return nil, a.wireError(err, dir.abs)
	}
	if strings.EqualFold(filepath.Base(dir.abs), ".git") {
		return nil, nil // belongs to the directory above
	}
	r, err := layoutOf(a, dir, dir)
	if r != nil {
		r.bare = true
	}
	return r, err
}

// gitDirOf is what the .git of dir is or, as a file, names
// (gitrepository-layout(5)).
func gitDirOf(a *access, dir place) (place, error) {
	dotGit, err := a.within(filepath.Join(dir.abs, ".git"))
	if err != nil {
		return place{}, err
	}
	info, err := a.stat(dotGit)
	if err != nil || info.IsDir() {
		return dotGit, err
	}
	text, err := a.readSmall(dotGit, maxSmallFile)
	if err != nil {
		return place{}, err
	}
	target, ok := strings.CutPrefix(strings.TrimRight(string(text), "\r\n"), "gitdir: ")
	if !ok || target == "" {
		return place{}, failure(codeRepoNotFound, "%s: its .git file does not name a git directory", showName(dir.abs))
	}
	git, err := a.within(absoluteFrom(dir.abs, target))
	if err != nil {
		return place{}, err
	}
	if r, err := layoutOf(a, dir, git); r == nil || err != nil {
		return place{}, cmpError(err, failure(codeRepoNotFound, "%s: its .git file names a directory that is no git directory", showName(dir.abs)))
	}
	return git, nil
}

// layoutOf tells whether git is a git directory, and where its parts lie; each
// must be allowed. nil when it is none.
func layoutOf(a *access, top, git place) (*repository, error) {
	if _, err := git.root.dir.Lstat(filepath.Join(git.rel, "HEAD")); err != nil {
		return nil, nil
	}
	r := &repository{access: a, top: top, gitDir: git, common: git}
	if text, err := r.optional(git, "commondir", maxSmallFile); err != nil {
		return nil, err
	} else if text != nil {
		if r.common, err = a.within(absoluteFrom(git.abs, strings.TrimRight(string(text), "\r\n"))); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"objects", "refs"} {
		if _, err := r.common.root.dir.Lstat(filepath.Join(r.common.rel, name)); err != nil {
			return nil, nil
		}
		part, err := a.within(filepath.Join(r.common.abs, name))
		if err != nil {
			return nil, err
		}
		if info, err := a.stat(part); err != nil || !info.IsDir() {
			return nil, nil
		}
		if name == "objects" {
			r.objects = part
		}
	}
	return r, nil
}

// read takes in the small files of the repository and checks where its objects
// lie.
func (r *repository) read() error {
	if err := r.checkObjects(r.objects, 0); err != nil {
		return err
	}
	text, err := r.optional(r.common, "config", maxConfigFile)
	if err != nil {
		return err
	}
	if r.config, err = parseGitConfig(string(text)); err != nil {
		return gitFailure(gitCorrupt, "%s: reading its configuration: %v", showName(r.top.abs), err)
	}
	if r.config.isTrue("extensions", "worktreeconfig") {
		if text, err = r.optional(r.gitDir, "config.worktree", maxConfigFile); err != nil {
			return err
		}
		own, err := parseGitConfig(string(text))
		if err != nil {
			return gitFailure(gitCorrupt, "%s: reading its configuration: %v", showName(r.top.abs), err)
		}
		r.config = append(r.config, own...)
	}
	if storage, ok := r.config.get("extensions", "", "refstorage"); ok && !strings.EqualFold(storage, "files") {
		return gitFailure(gitOther, "%s: keeps its references in the %s format, which is not supported: git refs migrate --ref-format=files changes that", showName(r.top.abs), cleanText(storage))
	}
	format, _ := r.config.get("extensions", "", "objectformat")
	r.sha256 = strings.EqualFold(format, "sha256")
	_, r.hasParts = r.config.get("extensions", "", "partialclone")
	for _, v := range r.config {
		r.hasParts = r.hasParts || v.section == "remote" && v.name == "promisor"
	}
	if r.shallow, err = r.optional(r.common, "shallow", maxPackedRefs); err != nil {
		return err
	}
	if err := r.readRefs(); err != nil {
		return err
	}
	return r.readHead()
}

// readHead finds what HEAD names.
func (r *repository) readHead() error {
	text, err := r.optional(r.gitDir, "HEAD", maxSmallFile)
	if err != nil {
		return err
	}
	oid, target := parseRefFile(string(text))
	switch {
	case oid != "":
		r.head = oid
	case target != "":
		r.headRef = target
		r.head = r.refID(target)
	default:
		return gitFailure(gitCorrupt, "%s: its HEAD is neither a reference nor a commit id", showName(r.top.abs))
	}
	return nil
}

// checkObjects makes sure that every link below an objects directory, and
// every alternate of it, stays in the allowed directories.
func (r *repository) checkObjects(objects place, depth int) error {
	if depth > maxAlternateDepth {
		return denied()
	}
	if err := r.checkLinks(objects, maxObjectDepth); err != nil {
		return err
	}
	text, err := r.optional(objects, filepath.Join("info", "alternates"), maxConfigFile)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '"' {
			return failure(codeAccessDenied, "%s: has a quoted line in objects/info/alternates, which this daemon does not follow", showName(r.top.abs))
		}
		alternate, err := r.access.within(absoluteFrom(objects.abs, line))
		if err != nil {
			return err
		}
		if info, err := r.access.stat(alternate); err != nil || !info.IsDir() {
			continue // git goes on without it
		}
		if err := r.checkObjects(alternate, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// checkLinks looks at the names below dir: a pack, an object or a directory of
// them may be a symbolic link, but not to somewhere else. depth bounds the
// directories below dir.
func (r *repository) checkLinks(dir place, depth int) error {
	if depth < 0 {
		return denied()
	}
	f, err := dir.root.dir.Open(dir.rel)
	if err != nil {
		return r.access.wireError(err, dir.abs)
	}
	entries, err := f.ReadDir(-1)
	_ = f.Close() // only read
	if err != nil {
		return r.access.wireError(err, dir.abs)
	}
	for _, e := range entries {
		sub := place{root: dir.root, rel: filepath.Join(dir.rel, e.Name()), abs: filepath.Join(dir.abs, e.Name())}
		isDir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 {
			if sub, err = r.access.within(sub.abs); err != nil {
				return err
			}
			info, err := r.access.stat(sub)
			isDir = err == nil && info.IsDir()
		}
		if isDir {
			if err := r.checkLinks(sub, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// optional reads a file of the repository that may be missing: nil then.
func (r *repository) optional(dir place, name string, most int64) ([]byte, error) {
	p, err := r.access.within(filepath.Join(dir.abs, name))
	if err != nil {
		return nil, err
	}
	data, err := r.access.readSmall(p, most)
	if e, ok := errors.AsType[*rpcError](err); ok && e.name() == codeSourceNotFound {
		return nil, nil
	}
	return data, err
}

// readSmall reads a regular file of at most most bytes; the result is not nil.
func (a *access) readSmall(p place, most int64) ([]byte, error) {
	f, info, err := a.openFile(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.IsDir() {
		return nil, notFound(p.abs)
	}
	data := make([]byte, 0, min(info.Size(), most)+bytesSpare)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case int64(len(data)) > most:
			return nil, gitFailure(gitTooLarge, "%s: is larger than %d bytes", showName(p.abs), most)
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, a.wireError(err, p.abs)
		case len(data) == cap(data):
			data = append(data, 0)[:len(data)]
		}
	}
}

// bytesSpare lets a file of the size it had be read with its end in one go.
const bytesSpare = 1

// absoluteFrom is a path as written in a file of dir.
func absoluteFrom(dir, path string) string {
	path = filepath.FromSlash(path)
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// cmpError is err, or the other where it is nil.
func cmpError(err error, other *rpcError) error {
	if err != nil {
		return err
	}
	return other
}
