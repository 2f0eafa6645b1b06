package main

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Most paths of requests are plain: clean, below an allowed directory, without
// symlinks and mounts. The kernel can look such a path up in one step that never
// leaves the directory (openat2(2), RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS,
// RESOLVE_NO_XDEV). Every other path, and every error, is left to follow, which
// knows the reasons.

const (
	// slowLookup is the time from which a quick look-up counts as slow: the file
	// system is not in memory, such as one on the network.
	slowLookup = time.Millisecond
	// slowRead is the same for a look-up and a read, which take 20 to 60 µs from memory:
	// many reads from a disk are faster side by side.
	slowRead = 250 * time.Microsecond
	// slowPause is for how many times its own time a slow one keeps quick look-ups
	// from the directory: those would wait for each other, regular requests run
	// side by side.
	slowPause = 16
	// maxSlow is how many slow look-ups in a row do not count: on a busy machine
	// any of them can be interrupted.
	maxSlow = 1
)

// quickRoot holds what quick look-ups below an allowed directory need.
type quickRoot struct {
	file *os.File // the directory; nil where quick look-ups are not possible
	fd   uintptr  // of the file, which stays open while there are requests: to ask it each time takes a twentieth of a look-up
	// isKernel is set on the kernel's own file systems: their files may be described
	// but not read.
	isKernel bool
	// isRemote is set where a description of a file can be old.
	isRemote bool

	busy  atomic.Bool  // a look-up is running
	slow  int          // slow look-ups in a row; used by the one that is running
	pause atomic.Int64 // no look-up before this time, in ns since access.began
}

// openQuick prepares quick look-ups below r. Without them everything works.
func (r *root) openQuick() {
	file, err := r.dir.Open(".")
	if err != nil {
		return
	}
	r.quick.file, r.quick.fd, r.quick.isKernel, r.quick.isRemote = file, file.Fd(), isKernelFile(file), isRemoteFile(file)
}

// quickPath returns the allowed directory and the relative path of a plain path;
// ok is false for every other one.
func (a *access) quickPath(path string) (r *root, rel string, ok bool) {
	if !filepath.IsAbs(path) {
		if a.workDir == "" || path == "" {
			return nil, "", false
		}
		path = a.workDir + string(filepath.Separator) + path
	}
	for _, r := range a.roots { // as in find
		switch {
		case !r.isOpen():
			if isWithin(r.given, path) {
				return nil, "", false
			}
		case isWithin(r.real, path):
			rel = strings.TrimPrefix(path[len(r.real):], string(filepath.Separator))
			return r, rel, r.quick.file != nil && !a.noQuick.Load() && isPlain(rel) && !hasSecretName(rel) && !a.hasDenied(r, path)
		case r.given != r.real && isWithin(r.given, path):
			return nil, "", false
		}
	}
	return nil, "", false
}

// isPlain reports whether a relative path is clean, not ".", and of a sensible
// depth.
func isPlain(rel string) bool {
	depth := 0
	for name := range strings.SplitSeq(rel, string(filepath.Separator)) {
		if depth++; name == "" || name == "." || name == ".." || depth > maxPathDepth {
			return false
		}
	}
	return strings.IndexByte(rel, 0) < 0
}

// hasDenied reports whether path, which lies below r, or anything below r is
// denied. A denied directory outside r cannot be reached without a mount.
func (a *access) hasDenied(r *root, path string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.denied {
		for _, name := range d.names {
			if isWithin(r.real, name) || a.coveredBy(name, path) {
				return true
			}
		}
	}
	return false
}

// quickStat describes the file at a plain path. If it returns false, stat must
// be asked: for a path that is not plain, a file that may be a secret, a file
// system that is slow, and every error.
func (a *access) quickStat(path string) (info entryInfo, ok bool) {
	r, rel, ok := a.quickPath(path)
	if !ok {
		return info, false
	}
	began := time.Since(a.began)
	if !r.quick.begin(began) {
		return info, false
	}
	info, err := a.describePlain(r, rel)
	r.quick.end(time.Since(a.began), began, slowLookup)
	return info, err == nil
}

// describePlain describes the file at a plain path below r. It returns an error for a
// file that may be a secret.
func (a *access) describePlain(r *root, rel string) (info entryInfo, err error) {
	info, links, err := statBeneath(r.quick.fd, rel)
	if errors.Is(err, errors.ErrUnsupported) {
		a.noQuick.Store(true)
	}
	// A file with one name is no hard link to a secret, which is denied by name.
	if err == nil && info.mode.IsRegular() && links != 1 && (links == 0 || slices.Contains(a.secretIDs(), info.id)) {
		err = denied()
	}
	return info, err
}

// open opens the regular file or directory that a path from the wire names, for
// reading, and describes it.
func (a *access) open(p pathParam) (resolvedPath, *os.File, fs.FileInfo, error) {
	if p.PathBase64 == "" {
		if at, file, info, ok := a.openPlain(p.Path, math.MaxInt64); ok {
			return at, file, info, nil
		}
	}
	at, err := a.resolve(p)
	if err != nil {
		return at, nil, nil, err
	}
	file, info, err := a.openFile(at)
	return at, file, info, err
}

// quickOpen is openPlain for the goroutine that reads requests: it returns false as
// quickStat does. ended must be called when the file was read.
func (a *access) quickOpen(path string, most int64) (at resolvedPath, file *os.File, info fs.FileInfo, ended func(), ok bool) {
	r, _, ok := a.quickPath(path)
	if !ok || r.quick.isRemote {
		return at, nil, nil, nil, false
	}
	began := time.Since(a.began)
	if !r.quick.begin(began) {
		return at, nil, nil, nil, false
	}
	ended = func() { r.quick.end(time.Since(a.began), began, slowRead) }
	if at, file, info, ok = a.openPlain(path, most); !ok {
		ended()
	}
	return at, file, info, ended, ok
}

// openPlain opens the regular file at a plain path, of at most the given size. If it
// returns false, open must look it up element by element.
func (a *access) openPlain(path string, most int64) (at resolvedPath, file *os.File, info fs.FileInfo, ok bool) {
	r, rel, ok := a.quickPath(path)
	if !ok || r.quick.isKernel {
		return at, nil, nil, false
	}
	before, err := a.describePlain(r, rel) // without opening it, which a device or pipe would notice
	if err != nil || !before.mode.IsRegular() || before.size > most {
		return at, nil, nil, false
	}
	file, id, err := openBeneath(r.quick.fd, rel)
	if err != nil {
		return at, nil, nil, false
	}
	if info, err = file.Stat(); err != nil || id != before.id { // it was replaced
		_ = file.Close() // only read
		return at, nil, nil, false
	}
	return resolvedPath{root: r, rel: rel, abs: filepath.Join(r.real, rel)}, file, info, true
}

// begin starts a quick look-up. It returns false while another one runs, which
// then is blocked, and for a while after slow ones. Times are since access.began: to
// ask for more than one at each end would take a part of the look-up.
func (q *quickRoot) begin(now time.Duration) bool {
	return now >= time.Duration(q.pause.Load()) && q.busy.CompareAndSwap(false, true)
}

func (q *quickRoot) end(now, began, slow time.Duration) {
	if took := now - began; took <= slow {
		q.slow = 0
	} else if q.slow++; q.slow > maxSlow {
		q.pause.Store(int64(now + slowPause*took))
	}
	q.busy.Store(false)
}
