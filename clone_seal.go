package main

import (
	"context"
	"crypto/sha1" // of git objects
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"
)

const (
	// maxSeals bounds the repositories that are remembered; git checks the others.
	maxSeals = 1000
	// maxSealedDirs bounds the directories that are remembered, with 100 bytes each.
	maxSealedDirs = 200_000
	// maxRacyFile bounds the files that are read to find out whether they are those
	// of their index; git looks at larger ones.
	maxRacyFile = 4 << 20
)

// cloneStamp is a fingerprint of a git directory: the names, sizes and modification
// times of all files in it. It is zero if it is not known.
type cloneStamp [sha256.Size]byte

// stamp returns the fingerprint of a git directory of the store.
func (s *repoStore) stamp(git string) cloneStamp {
	sum := sha256.New()
	err := s.walk(git, func(p string, d fs.DirEntry) error {
		if d.IsDir() {
			return nil
		}
		info, err := s.root.Lstat(p)
		if err == nil {
			fmt.Fprintf(sum, "%s\x00%d %d\n", p[len(git):], info.Size(), info.ModTime().UnixNano()) // a hash takes everything
		}
		return err
	})
	if err != nil {
		return cloneStamp{}
	}
	return cloneStamp(sum.Sum(nil))
}

// cloneSeal holds what is remembered of a repository that was found complete, with the
// index of its commit.
type cloneSeal struct {
	stamp cloneStamp          // of its git directory then
	dirs  map[string]dirStamp // of its work tree, as far as it was old enough; by path
}

// seal remembers a repository.
func (s *repoStore) seal(name string, seal cloneSeal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs := len(seal.dirs)
	for _, other := range s.seals {
		dirs += len(other.dirs)
	}
	if len(s.seals) >= maxSeals || dirs > maxSealedDirs {
		clear(s.seals)
	}
	s.seals[name] = seal
}

// sealOf returns what is remembered of a repository if its git directory still has
// the fingerprint.
func (s *repoStore) sealOf(name string, stamp cloneStamp) (seal cloneSeal, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seal = s.seals[name]
	return seal, stamp != cloneStamp{} && seal.stamp == stamp
}

// newSeal returns the seal of the new state, whose files git has just written or were
// compared.
func (r *clonedRepo) newSeal() cloneSeal {
	seal := cloneSeal{stamp: r.store.stamp(r.temp + "/.git")}
	if index, top, err := r.openTree(r.temp); err == nil {
		_, seal.dirs, _ = index.stamps(top)
		top.close()
	}
	return seal
}

// openTree opens the work tree of the repository called name and reads its index.
func (r *clonedRepo) openTree(name string) (*treeIndex, *dirHandle, error) {
	raw, err := r.store.readRegular(name+"/.git/index", maxIndexFile)
	if err != nil {
		return nil, nil, err
	}
	top, err := openDirBelow(r.store.root, name)
	return newTreeIndex(raw, r.usesSHA256()), top, err
}

// isUntouched is isClean for a sealed repository, without git: it reports whether the
// files at the name have all the sizes, inodes and modification times that the index
// has for them, and no others are there. A file as new as HEAD, which was written just
// after the checkout, could have been edited without a later time: it is read. false
// means only that git must look.
func (r *clonedRepo) isUntouched(ctx context.Context, seal cloneSeal) bool {
	head, err := r.store.root.Lstat(r.name + "/.git/HEAD")
	if err != nil || runtime.GOOS == "windows" || !r.old.pristine || !r.old.settings.isTrue("core", "filemode") || r.old.settings.isTrue("core", "ignorecase") {
		return false
	}
	if symlinks, ok := r.old.settings.get("core", "", "symlinks"); ok && symlinks != "true" {
		return false
	}
	index, top, err := r.openTree(r.name)
	if err != nil {
		return false
	}
	defer top.close()
	if index.isOdd {
		return false
	}
	for name, entry := range index.entries {
		if ctx.Err() != nil || indexMode(entry)>>12 != indexGitlink && !index.has(top, name, entry, head.ModTime()) {
			return false
		}
	}
	dirs, ok := index.hasAll(top, seal.dirs)
	if ok && len(index.entries) > 0 {
		r.live, r.seal = index, cloneSeal{stamp: seal.stamp, dirs: dirs}
	}
	return r.live != nil
}

// has reports whether the file called name in dir is that of the entry; all that are not
// older than since are read.
func (x *treeIndex) has(dir *dirHandle, name string, entry []byte, since time.Time) bool {
	info, err := dir.lstat(name)
	if err != nil {
		return false
	}
	number := func(at int) uint32 { return binary.BigEndian.Uint32(entry[at:]) }
	mode := indexMode(entry)
	switch {
	case number(8) != uint32(info.mtime.Unix()), number(12) != uint32(info.mtime.Nanosecond()),
		number(20) != uint32(info.id.ino), number(36) != uint32(info.size):
		return false
	case mode>>12 == indexFile && info.mode.IsRegular():
		if info.mode&0o100 != 0 != (mode&0o100 != 0) {
			return false
		}
	case mode>>12 != indexSymlink || info.mode&fs.ModeSymlink == 0:
		return false
	}
	return info.mtime.Before(since) || info.size <= maxRacyFile && x.holds(dir, name, info, entry)
}

// holds reports whether a file has the content of its entry (gitformat-pack(5), blobs).
func (x *treeIndex) holds(dir *dirHandle, name string, info entryInfo, entry []byte) bool {
	var sum hash.Hash = sha1.New() // of git objects
	if x.sha256 {
		sum = sha256.New()
	}
	fmt.Fprintf(sum, "blob %d\x00", info.size) // a hash takes everything
	var err error
	if info.mode.IsRegular() {
		var f *os.File
		if f, err = dir.openFile(name); err == nil {
			_, err = io.Copy(sum, f)
			_ = f.Close() // only read
		}
	} else {
		var target string
		target, err = dir.readlink(name)
		_, _ = io.WriteString(sum, target) // a hash takes everything
	}
	return err == nil && string(sum.Sum(nil)) == string(entry[indexIDAt:][:sum.Size()])
}
