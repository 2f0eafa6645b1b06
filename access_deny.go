package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// deniedPath is a file or directory that no method may read, although it may
// lie below an allowed directory: a file with a token or a key, or the
// workspace of a scheduler with the work dirs of other daemons. What lies below
// a directory is denied too, except for the daemon's own work dir.
type deniedPath struct {
	names []string // absolute: as given, and with symlinks resolved
}

// deny denies path, which need not exist, to every method.
func (a *access) deny(path string) {
	given, err := filepath.Abs(plainPath(path))
	if err != nil {
		given = filepath.Clean(path)
	}
	d := deniedPath{names: []string{given, realPath(given)}}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.denied = append(a.denied, d)
	a.secrets = append(a.secrets, given)
}

// realPath resolves the symlinks in the part of a path that exists.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(realPath(parent), filepath.Base(path))
}

// covers reports whether a denied path is abs or contains it. It compares the
// text of the path, in which no symlink is left.
func (a *access) covers(abs string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.denied {
		for _, name := range d.names {
			if a.coveredBy(name, abs) {
				return true
			}
		}
	}
	return false
}

// coveredBy reports whether the denied path name is abs or contains it. The work
// dir is not covered by what is denied around it, but by what is denied inside.
func (a *access) coveredBy(name, abs string) bool {
	return isWithin(name, abs) && (a.workDir == "" || !isWithin(a.workDir, abs) || isWithin(a.workDir, name))
}

// isWithin reports whether path is dir or lies below it. Both are clean and
// absolute.
func isWithin(dir, path string) bool {
	rest, ok := cutPath(path, dir)
	return ok && (rest == "" || os.IsPathSeparator(rest[0]) || os.IsPathSeparator(dir[len(dir)-1]))
}

// isDeniedDir reports whether info is a denied directory under another name: on
// a file system that ignores case, or mounted at a second place.
func (a *access) isDeniedDir(info fs.FileInfo) bool {
	a.mu.Lock()
	denied := slices.Clone(a.denied)
	a.mu.Unlock()
	for _, d := range denied {
		if s, err := os.Stat(d.names[0]); err == nil && os.SameFile(s, info) {
			return true
		}
	}
	return false
}

// deniedBelow returns the denied paths below dir, relative to it and separated
// by slashes.
func (a *access) deniedBelow(dir string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var below []string
	for _, d := range a.denied {
		for _, name := range d.names {
			if rel, err := filepath.Rel(dir, name); err == nil && rel != "." && filepath.IsLocal(rel) {
				below = append(below, filepath.ToSlash(rel))
			}
		}
	}
	slices.Sort(below)
	return slices.Compact(below)
}

// isSecret reports whether info is one of the daemon's own files or a denied
// one, whatever symlink, hard link or mount led to it.
func (a *access) isSecret(info fs.FileInfo) bool {
	if !info.Mode().IsRegular() && !info.IsDir() {
		return false
	}
	a.mu.Lock()
	secrets := slices.Clone(a.secrets)
	a.mu.Unlock()
	for _, path := range secrets {
		// Stat each time: the file is replaced when it changes.
		if s, err := os.Stat(path); err == nil && os.SameFile(s, info) {
			return true
		}
	}
	return false
}

// deniesBelow reports whether covers can be true for a path below dir, which is not
// denied itself. A walk asks once instead of for each file.
func (a *access) deniesBelow(dir string) bool { return len(a.deniedBelow(dir)) > 0 }

// hides reports whether a directory must not be shown or entered, by its path
// or by its identity.
func (a *access) hides(abs string, id fileID, secrets []fileID) bool {
	return a.covers(abs) || id.known() && slices.Contains(secrets, id)
}

// hasSecretName reports whether an element of path names one of the daemon's
// own files, under a temporary name too.
func hasSecretName(path string) bool {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, ".") && !strings.Contains(path, "/.") {
		return false // as almost always
	}
	for part := range strings.SplitSeq(path, "/") {
		// A temporary file that replaces one has more dots in front. EqualFold,
		// because file systems on macOS and Windows ignore case.
		bare := strings.TrimLeft(part, ".")
		if prefix := secretPrefix[1:]; len(bare) < len(part) && len(bare) >= len(prefix) && strings.EqualFold(bare[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}
