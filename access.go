package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// maxLinkHops bounds the symbolic links followed in one path, as Linux does.
const maxLinkHops = 40

// maxPathDepth bounds the names in one path. Each is looked up from its root
// on, so the work grows with the square; real trees stay under 50.
const maxPathDepth = 256

// secretPrefix begins the names of the daemon's own files: credentials and
// configuration. No method reads, lists or writes them by a caller's path.
const secretPrefix = ".git-daemon."

// access knows the directories that a daemon may read. It is the one place
// that turns a path from the wire into a file.
type access struct {
	workDir string  // absolute, links resolved; "" without one
	roots   []*root // longest real path first

	mu      sync.Mutex
	secrets []string // under mu: absolute paths of files that nobody may read
}

// root is one allowed directory, held open: a directory that is renamed and
// replaced later does not change what is allowed.
type root struct {
	dir   *os.Root
	given string // absolute and clean, as the operator wrote it
	real  string // the same with links resolved
}

// openAccess opens the allowed directories; the work dir, if any, is one of
// them. They must exist.
func openAccess(allowed []string, workDir string) (*access, error) {
	a := &access{}
	if workDir != "" {
		real, err := a.add(workDir)
		if err != nil {
			return nil, fmt.Errorf("opening the work dir: %w", err)
		}
		a.workDir = real
	}
	for _, dir := range allowed {
		if _, err := a.add(dir); err != nil {
			a.close()
			return nil, fmt.Errorf("opening an allowed directory: %w", err)
		}
	}
	slices.SortStableFunc(a.roots, func(x, y *root) int { return len(y.real) - len(x.real) })
	return a, nil
}

func (a *access) add(path string) (string, error) {
	given, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(given)
	if err != nil {
		return "", err
	}
	dir, err := os.OpenRoot(real)
	if err != nil {
		return "", err
	}
	a.roots = append(a.roots, &root{dir: dir, given: given, real: real})
	return real, nil
}

func (a *access) close() {
	for _, r := range a.roots {
		_ = r.dir.Close() // nothing was written through it
	}
}

// allowed lists the real paths of the allowed directories.
func (a *access) allowed() []string {
	var paths []string
	for _, r := range a.roots {
		paths = append(paths, r.real)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// keepSecret denies the file at path to every method, by whatever name or link
// it is reached.
func (a *access) keepSecret(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.secrets = append(a.secrets, path)
}

// pathParam is a path from the wire: absolute, or relative to the work dir. A
// path that is not UTF-8 comes as path_base64.
type pathParam struct {
	Path       string `json:"path,omitempty" doc:"absolute, or relative to the work dir; path or path_base64 must be given"`
	PathBase64 string `json:"path_base64,omitempty" doc:"the path in base64, in place of path, where it is not UTF-8"`
}

// text is the path's bytes, checked: -32602 when it is empty, has a NUL or is
// not decodable. name is the parameter's.
func (p pathParam) text(name string) (string, error) {
	path := p.Path
	if p.PathBase64 != "" {
		if path != "" {
			return "", invalidParam(name, "give %s or %s_base64, not both", name, name)
		}
		raw, err := base64.StdEncoding.DecodeString(p.PathBase64)
		if err != nil {
			return "", invalidParam(name+"_base64", "is not base64")
		}
		path, name = string(raw), name+"_base64"
	}
	switch {
	case path == "":
		return "", invalidParam(name, "must not be empty")
	case strings.IndexByte(path, 0) >= 0:
		return "", invalidParam(name, "must not hold a NUL byte")
	}
	return path, nil
}

// resolvedPath is a path inside an allowed directory with its links followed.
type resolvedPath struct {
	root *root
	rel  string // relative to the root, "." for the root itself
	abs  string // absolute, links resolved
}

// denied is the one answer for every path outside the allowed directories and
// for every secret: it does not tell whether the path exists.
func denied() *rpcError {
	return failure(codeAccessDenied, "the path is outside the directories that this daemon may read (see config/get, allowed_paths)")
}

// notFound is the answer for a path that is allowed and not there.
func notFound(path string) *rpcError {
	return failure(codeSourceNotFound, "%s: no such file or directory", showName(path))
}

// resolve finds the place of a path from the wire: inside an allowed directory
// after every symbolic link in it is followed, an absolute one included. What
// is missing at its end is kept as it is; nothing outside is ever looked at.
func (a *access) resolve(p pathParam) (resolvedPath, error) {
	path, err := p.text("path")
	if err != nil {
		return resolvedPath{}, err
	}
	return a.resolvePath(path)
}

// resolvePath is resolve for a path that was checked already.
func (a *access) resolvePath(path string) (resolvedPath, error) {
	if !filepath.IsAbs(path) {
		if a.workDir == "" {
			return resolvedPath{}, failure(codeNotConfigured, "the path is relative and the daemon has no work dir: give an absolute path or start it with --work-dir")
		}
		path = filepath.Join(a.workDir, path)
	}
	return a.follow(filepath.Clean(path))
}

// follow walks the components of an absolute, clean path from its root on, as
// the kernel does: a link's target takes the place of its name, and ".." in it
// leaves the directory that was really reached.
func (a *access) follow(path string) (resolvedPath, error) {
	hops := 0
	r, rest := a.enter(path)
	if r == nil {
		return resolvedPath{}, denied()
	}
	for at := "."; ; {
		if len(rest) > maxPathDepth {
			return resolvedPath{}, invalidParam("path", "is more than %d levels deep", maxPathDepth)
		}
		if len(rest) == 0 {
			return resolvedPath{root: r, rel: at, abs: filepath.Join(r.real, at)}, nil
		}
		name := rest[0]
		rest = rest[1:]
		switch {
		case name == "" || name == ".":
			continue
		case name == ".." && at != ".":
			at = filepath.Dir(at)
			continue
		case name == "..":
			// Out of this root, perhaps into another: nothing out there is looked at.
			r, rest = a.enter(filepath.Join(append([]string{r.real, ".."}, rest...)...))
			if r == nil {
				return resolvedPath{}, denied()
			}
			continue
		case hasSecretName(name):
			return resolvedPath{}, denied()
		}
		next := filepath.Join(at, name)
		info, err := r.dir.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return a.missing(r, next, rest)
		case err != nil:
			return resolvedPath{}, a.wireError(err, filepath.Join(r.real, next))
		case info.Mode()&fs.ModeSymlink == 0:
			at = next
			continue
		}
		if hops++; hops > maxLinkHops {
			return resolvedPath{}, tooManyLinks()
		}
		target, err := r.dir.Readlink(next)
		if err != nil {
			return resolvedPath{}, a.wireError(err, filepath.Join(r.real, next))
		}
		if !filepath.IsAbs(target) {
			rest = append(strings.Split(filepath.ToSlash(target), "/"), rest...)
			continue
		}
		// An absolute target starts anew: it may name a root by a link of its own.
		// What follows it is cleaned as text.
		r, rest = a.enter(filepath.Join(append([]string{target}, rest...)...))
		if r == nil {
			return resolvedPath{}, denied()
		}
		at = "."
	}
}

// enter finds the root of an absolute, clean path and the names below it; nil
// when there is none.
func (a *access) enter(path string) (*root, []string) {
	r, rel := a.find(path)
	if r == nil {
		return nil, nil
	}
	return r, strings.Split(rel, string(filepath.Separator))
}

// missing is the place of a name that is not there. What would follow it stays
// part of the place as long as it leads further down.
func (a *access) missing(r *root, at string, rest []string) (resolvedPath, error) {
	for _, name := range rest {
		if name == ".." {
			break
		}
		if hasSecretName(name) {
			return resolvedPath{}, denied()
		}
		at = filepath.Join(at, name)
	}
	return resolvedPath{root: r, rel: at, abs: filepath.Join(r.real, at)}, nil
}

// find is the innermost allowed directory that holds path, and the rest of the
// path. It looks at the text alone.
func (a *access) find(path string) (*root, string) {
	for _, r := range a.roots {
		for _, base := range []string{r.real, r.given} {
			if rel, err := filepath.Rel(base, path); err == nil && filepath.IsLocal(rel) {
				return r, rel
			}
		}
	}
	return nil, ""
}

// within is the place of an existing absolute path whose links are resolved
// already, as git prints them; an error when it is not allowed.
func (a *access) within(abs string) (resolvedPath, error) { return a.follow(filepath.Clean(abs)) }

// hasSecretName tells whether a component names one of the daemon's own files.
func hasSecretName(path string) bool {
	for part := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		// Equal under the case folding of macOS and Windows too.
		if len(part) >= len(secretPrefix) && strings.EqualFold(part[:len(secretPrefix)], secretPrefix) {
			return true
		}
	}
	return false
}

// isSecret tells whether info is one of the daemon's own files, hard links to
// them included.
func (a *access) isSecret(info fs.FileInfo) bool {
	if !info.Mode().IsRegular() {
		return false
	}
	a.mu.Lock()
	secrets := slices.Clone(a.secrets)
	a.mu.Unlock()
	for _, path := range secrets {
		// Looked up anew each time: the file is replaced when it changes.
		if s, err := os.Stat(path); err == nil && os.SameFile(s, info) {
			return true
		}
	}
	return false
}

// stat describes what is at p.
func (a *access) stat(p resolvedPath) (fs.FileInfo, error) {
	info, err := p.root.dir.Stat(p.rel)
	if err != nil {
		return nil, a.wireError(err, p.abs)
	}
	if a.isSecret(info) {
		return nil, denied()
	}
	return info, nil
}

// openFile opens the regular file or directory at p for reading, never a
// device, socket or pipe: those could block, and reading can have effects.
func (a *access) openFile(p resolvedPath) (*os.File, fs.FileInfo, error) {
	f, err := p.root.dir.OpenFile(p.rel, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, nil, a.wireError(err, p.abs)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = a.wireError(err, p.abs)
	case a.isSecret(info) || isKernelFile(f):
		err = denied()
	case !info.Mode().IsRegular() && !info.IsDir():
		err = invalidParam("path", "is neither a regular file nor a directory")
	default:
		return f, info, nil
	}
	_ = f.Close() // nothing was written
	return nil, nil, err
}

// wireError turns an error of the file system into the answer for the caller.
func (a *access) wireError(err error, path string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), isNotDirectory(err):
		return notFound(path)
	case errors.Is(err, fs.ErrPermission):
		return failure(codeAccessDenied, "%s: the daemon's user may not read it", showName(path))
	case isEscape(err):
		return denied()
	case isNameTooLong(err):
		return invalidParam("path", "a name in it is too long")
	case isLinkLoop(err):
		return tooManyLinks()
	case isNoDevice(err):
		return invalidParam("path", "is neither a regular file nor a directory")
	}
	return fmt.Errorf("reading %s: %w", path, err)
}

func tooManyLinks() *rpcError {
	return invalidParam("path", "has more than %d symbolic links, or a loop of them", maxLinkHops)
}

// isEscape tells of os.Root's refusal, whose error is not exported.
func isEscape(err error) bool {
	e, ok := errors.AsType[*fs.PathError](err)
	return ok && strings.Contains(e.Err.Error(), "escapes from parent")
}
