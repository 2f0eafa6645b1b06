package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxLinkHops bounds the symlinks followed in one path, as Linux does.
const maxLinkHops = 40

// maxPathDepth bounds the elements of one path. Each is looked up from its
// root, so the work grows with the square of the depth; real trees have fewer
// than 50.
const maxPathDepth = 256

// access checks paths against the directories that a daemon may read. Every
// path from the wire goes through it.
type access struct {
	workDir string  // absolute path, symlinks resolved; "" without one
	roots   []*root // longest real path first
	temp    *tempDirs
	began   time.Time   // the zero of quickRoot.pause
	noQuick atomic.Bool // the system has no quick look-ups
	views   keptViews   // of repositories

	replaced replacements // of repositories, by vcs/clone

	mu      sync.Mutex
	secrets []string     // guarded by mu: absolute paths of files and directories that no method may read
	denied  []deniedPath // guarded by mu
}

// root is one allowed directory, held open: renaming or replacing the directory
// later does not change what is allowed.
type root struct {
	given  string // absolute and clean path, as the operator wrote it
	places *dirPlaces

	opened chan struct{} // closed when the fields below are set
	real   string        // the path with symlinks resolved
	dir    *os.Root
	quick  quickRoot
	err    error
}

// openAccess opens the allowed directories, including the work dir if there is
// one. They must exist. A directory whose file system does not answer within
// openTime counts as stuck, like the requests that read it, until it is open.
func openAccess(allowed []string, workDir string) (*access, error) {
	a := &access{temp: &tempDirs{}, began: time.Now()}
	if workDir != "" {
		r, err := a.add(workDir)
		if err == nil {
			<-r.opened // no daemon works without it
			err = r.err
		}
		if err != nil {
			return nil, fmt.Errorf("opening the work dir: %w", err)
		}
		a.workDir, a.temp.workDir = r.real, r.real
	}
	limit := time.After(openTime)
	var err error
	for _, dir := range allowed {
		_, addErr := a.add(dir)
		err = errors.Join(err, addErr)
	}
	for _, r := range a.roots {
		select {
		case <-r.opened:
			err = cmp.Or(err, r.err)
		case <-limit:
			limit = time.After(0) // for the others too
			r.places.strand(false)
			go func() { // ends when the file system answers
				<-r.opened
				r.places.recover()
			}()
		}
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("opening an allowed directory: %w", err)
	}
	sortStableBy(a.roots, func(x, y *root) int { return len(y.name()) - len(x.name()) })
	return a, nil
}

// add begins to open a directory.
func (a *access) add(path string) (*root, error) {
	given, err := filepath.Abs(plainPath(path))
	if err != nil {
		return nil, err
	}
	r := &root{given: given, places: newDirPlaces(), opened: make(chan struct{})}
	a.roots = append(a.roots, r)
	go func() { // ends when the file system answers
		defer close(r.opened)
		if r.real, r.err = filepath.EvalSymlinks(given); r.err == nil {
			r.dir, r.err = os.OpenRoot(r.real)
		}
		if r.err == nil {
			r.openQuick()
		}
	}()
	return r, nil
}

// isOpen reports whether the directory is open; its other fields may only be read
// then.
func (r *root) isOpen() bool {
	select {
	case <-r.opened:
		return r.err == nil
	default:
		return false
	}
}

// name returns the path of the directory, as far as it is known.
func (r *root) name() string {
	if r.isOpen() {
		return r.real
	}
	return r.given
}

func (a *access) close() {
	a.views.close()
	for _, r := range a.roots {
		if !r.isOpen() {
			continue
		}
		_ = r.dir.Close() // only read
		if r.quick.file != nil {
			_ = r.quick.file.Close() // only read
		}
	}
}

// allowed returns the real paths of the allowed directories, sorted.
func (a *access) allowed() []string {
	var paths []string
	for _, r := range a.roots {
		paths = append(paths, r.name())
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// keepSecret denies the file at path to every method, whatever name, symlink or
// hard link leads to it.
func (a *access) keepSecret(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.secrets = append(a.secrets, path)
}

// renameParam returns err with the name of the parameter that it is about, if it
// is an error for the parameter path.
func renameParam(err error, name string) error {
	e, ok := errors.AsType[*rpcError](err)
	if !ok || e.Code != codeInvalidParams || e.Data["param"] != "path" {
		return err
	}
	renamed := invalidParam(name, "%s", "")
	renamed.Message += strings.TrimPrefix(e.Message, invalidParam("path", "%s", "").Message)
	return renamed
}

// pathParam is a path from the wire: absolute, or relative to the work dir. A
// path that is not valid UTF-8 is sent as path_base64.
type pathParam struct {
	Path       string `json:"path,omitempty" doc:"absolute, or relative to the work dir; either path or path_base64 is required"`
	PathBase64 string `json:"path_base64,omitempty" doc:"base64 of the path, instead of path, if it is not valid UTF-8"`
}

// text returns the bytes of the path. The error is -32602 if it is empty,
// contains a NUL, is not valid base64 or cannot name a file on this system. name is the name of the parameter.
func (p pathParam) text(name string) (string, error) {
	path := p.Path
	if p.PathBase64 != "" {
		if path != "" {
			return "", invalidParam(name, "give either %s or %s_base64, not both", name, name)
		}
		raw, err := base64.StdEncoding.DecodeString(p.PathBase64)
		if err != nil {
			return "", invalidParam(name+"_base64", "is not valid base64")
		}
		path, name = string(raw), name+"_base64"
	}
	switch {
	case path == "":
		return "", invalidParam(name, "must not be empty")
	case strings.IndexByte(path, 0) >= 0:
		return "", invalidParam(name, "must not contain a NUL byte")
	}
	path, err := systemPath(path)
	return path, renameParam(err, name)
}

// resolvedPath is a path inside an allowed directory, with symlinks resolved.
type resolvedPath struct {
	root *root
	rel  string // relative to the root, "." for the root itself
	abs  string // absolute path, symlinks resolved
}

// denied is the error for every path outside the allowed directories and for
// every secret. It is the same whether the path exists or not, so that a caller
// learns nothing about files outside.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func denied() *rpcError {
	return failure(codeAccessDenied, "the path is outside the directories that this daemon may read (see config/get, allowed_paths)")
}

// notFound is the error for an allowed path that does not exist.
func notFound(path string) *rpcError {
	return failure(codeSourceNotFound, "%s: no such file or directory", showName(path))
}

// resolve resolves a path from the wire. Every symlink in it is followed, and
// the result must lie inside an allowed directory. Elements at the end that do
// not exist are kept as they are. No file outside is ever accessed.
func (a *access) resolve(p pathParam) (resolvedPath, error) {
	path, err := p.text("path")
	if err != nil {
		return resolvedPath{}, err
	}
	return a.resolvePath(path)
}

// resolvePath is resolve for a path that has been checked by text.
func (a *access) resolvePath(path string) (resolvedPath, error) {
	if !filepath.IsAbs(path) {
		if a.workDir == "" {
			return resolvedPath{}, failure(codeNotConfigured, "the path is relative and the daemon has no work dir: give an absolute path or start it with --work-dir")
		}
		path = filepath.Join(a.workDir, path)
	}
	return a.follow(filepath.Clean(path))
}

// follow resolves an absolute, clean path element by element from its root, as
// the kernel does: the target of a symlink replaces its name, and ".." in it
// goes up from the directory that was really reached. os.Root alone cannot do
// this, because it refuses absolute symlinks even to an allowed directory.
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
			return a.found(r, at)
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
			// This leads out of the root, perhaps into another one. The text
			// decides: nothing outside is accessed.
			r, rest = a.enter(filepath.Join(append([]string{r.real, ".."}, rest...)...))
			if r == nil {
				return resolvedPath{}, denied()
			}
			continue
		case hasSecretName(name):
			return resolvedPath{}, denied()
		}
		next := filepath.Join(at, name)
		if abs := filepath.Join(r.real, next); a.covers(abs) {
			// The daemon's own work dir may lie in there.
			full := filepath.Join(append([]string{abs}, rest...)...)
			if a.workDir == "" || a.workDir == r.real || !isWithin(a.workDir, full) {
				return resolvedPath{}, denied()
			}
			r, rest = a.enter(full)
			at = "."
			continue
		}
		info, err := lstatIn(r.dir, next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return a.missing(r, next, rest)
		case err != nil:
			return resolvedPath{}, a.wireError(err, filepath.Join(r.real, next))
		case info.IsDir() && a.isDeniedDir(info):
			return resolvedPath{}, denied()
		case linkMode(r.dir, next, info.Mode())&fs.ModeSymlink == 0:
			long, err := longName(r.dir, next)
			if err != nil {
				return resolvedPath{}, a.wireError(err, filepath.Join(r.real, next))
			}
			if long != name {
				rest = append([]string{long}, rest...)
				continue
			}
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
		target = onVolume(target, r.real)
		if !filepath.IsAbs(target) {
			rest = append(strings.Split(filepath.ToSlash(target), "/"), rest...)
			continue
		}
		// An absolute target starts again, possibly at another root. What
		// follows it is cleaned as text.
		r, rest = a.enter(filepath.Join(append([]string{target}, rest...)...))
		if r == nil {
			return resolvedPath{}, denied()
		}
		at = "."
	}
}

// enter returns the root that contains an absolute, clean path and the elements
// below it, or nil if there is none. It waits for a root that is not open yet.
func (a *access) enter(path string) (*root, []string) {
	r, rel := a.find(path)
	if r == nil {
		return nil, nil
	}
	if <-r.opened; r.err != nil {
		return nil, nil
	}
	return r, strings.Split(rel, string(filepath.Separator))
}

// missing returns the path of a name that does not exist. Further elements stay
// part of it as long as they lead downward.
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
	return a.found(r, at)
}

// found returns the path at below r, unless it is denied.
func (a *access) found(r *root, at string) (resolvedPath, error) {
	abs := filepath.Join(r.real, at)
	if a.covers(abs) {
		return resolvedPath{}, denied()
	}
	return resolvedPath{root: r, rel: at, abs: abs}, nil
}

// find returns the innermost allowed directory that contains path and the rest
// of the path. It compares only the text.
func (a *access) find(path string) (*root, string) {
	for _, r := range a.roots {
		for _, base := range []string{r.name(), r.given} {
			if rel, err := filepath.Rel(base, path); err == nil && filepath.IsLocal(rel) {
				return r, rel
			}
		}
	}
	return nil, ""
}

// within resolves an existing absolute path, such as one that git printed or
// that a file contains. It is an error if the path is not allowed.
func (a *access) within(abs string) (resolvedPath, error) {
	abs = filepath.Clean(abs)
	if r, rel, ok := a.quickPath(abs); ok {
		if _, err := a.describePlain(r, rel); err == nil {
			return resolvedPath{root: r, rel: rel, abs: filepath.Join(r.real, rel)}, nil
		}
	}
	return a.follow(abs)
}

// stat returns the FileInfo of the file at p.
func (a *access) stat(p resolvedPath) (fs.FileInfo, error) {
	info, err := statIn(p.root.dir, p.rel)
	if err != nil {
		return nil, a.wireError(err, p.abs)
	}
	if a.isSecret(info) {
		return nil, denied()
	}
	return info, nil
}

// openFile opens the regular file or directory at p for reading. It refuses
// devices, sockets and pipes: opening them can block, and reading them can have
// side effects.
func (a *access) openFile(p resolvedPath) (*os.File, fs.FileInfo, error) {
	before, err := p.root.dir.Stat(p.rel)
	if err != nil {
		return nil, nil, a.wireError(err, p.abs)
	}
	if !before.Mode().IsRegular() && !before.IsDir() {
		return nil, nil, notAFile()
	}
	f, err := p.root.dir.OpenFile(p.rel, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, nil, a.wireError(err, p.abs)
	}
	info, err := f.Stat() // it may have been replaced
	switch {
	case err != nil:
		err = a.wireError(err, p.abs)
	case a.isSecret(info) || isKernelFile(f):
		err = denied()
	case !info.Mode().IsRegular() && !info.IsDir():
		err = notAFile()
	default:
		return f, info, nil
	}
	_ = f.Close() // only read
	return nil, nil, err
}

// wireError converts a file system error to the error for the caller.
func (a *access) wireError(err error, path string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), isNotDirectory(err):
		return notFound(path)
	case errors.Is(err, fs.ErrPermission):
		return failure(codeAccessDenied, "%s: the daemon's user has no permission to read it", showName(path))
	case isEscape(err):
		return denied()
	case isNameTooLong(err):
		return invalidParam("path", "has a name that is too long")
	case isLinkLoop(err):
		return tooManyLinks()
	case isNoDevice(err):
		return notAFile()
	case isShared(err):
		return failure(codeConflict, "%s: another program has it open and lets nobody else read it: close it there, or try again later", showName(path))
	}
	return fmt.Errorf("reading %s: %w", path, err)
}

// notAFile is the error for a pipe, a socket or a device.
func notAFile() *rpcError {
	return invalidParam("path", "is neither a regular file nor a directory")
}

func tooManyLinks() *rpcError {
	return invalidParam("path", "has more than %d symbolic links, or a loop of them", maxLinkHops)
}

// isEscape reports whether err is os.Root's error for a path that leads
// outside; that error is not exported.
func isEscape(err error) bool {
	e, ok := errors.AsType[*fs.PathError](err)
	return ok && strings.Contains(e.Err.Error(), "escapes from parent")
}
