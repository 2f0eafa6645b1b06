package main

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxIndexCopy bounds the index that is copied: some five million files.
const maxIndexCopy = 512 << 20

// workTreeOf is the top of the work tree that a directory belongs to, as far up
// as is allowed; "" when it belongs to none.
func (f *files) workTreeOf(at place) string {
	for dir := at.abs; ; dir = filepath.Dir(dir) {
		up, err := f.access.within(dir)
		if err != nil || up.abs != dir {
			return ""
		}
		if f.gitDirOf(dir) != "" {
			return dir
		}
		if filepath.Dir(dir) == dir {
			return ""
		}
	}
}

// workTreeGit makes a git directory that stands for the repository whose work
// tree is top: it has a copy of its index and of info/exclude, and none of its
// configuration, so nothing in it runs a program. The caller removes it.
func (f *files) workTreeGit(top string) (string, error) {
	gitDir := f.gitDirOf(top)
	index, err := f.readIndex(filepath.Join(gitDir, "index"))
	if err != nil {
		return "", err
	}
	idLength := 40
	if text, err := f.readSmall(filepath.Join(f.commonDir(gitDir), "config"), maxRepoConfig); err == nil && parseRepoConfig(text).sha256 {
		idLength = 64
	}
	dir, err := emptyGitDir(idLength)
	if err != nil {
		return "", err
	}
	err = f.copyExclude(gitDir, dir)
	if err == nil && index != nil {
		err = os.WriteFile(filepath.Join(dir, "index"), index, 0o600)
	}
	if err == nil {
		err = f.copySharedIndex(gitDir, dir)
	}
	// A sparse index names directories: what is in them is told by tree objects.
	if objects := f.objectDirs(filepath.Join(f.commonDir(gitDir), "objects"), nil); err == nil && objects != nil {
		err = borrowObjects(dir, strings.Join(objects, "\n")+"\n")
	}
	if err != nil {
		_ = os.RemoveAll(dir) // the first error counts
		return "", fmt.Errorf("copying the index of %s: %w", top, err)
	}
	return dir, nil
}

// copyExclude copies info/exclude, the ignore rules that a repository does not
// share (gitignore(5)), if it is there.
func (f *files) copyExclude(gitDir, to string) error {
	text, err := f.readSmall(filepath.Join(f.commonDir(gitDir), "info", "exclude"), maxIgnoreFile)
	if err != nil {
		return nil // none, or none that may be read
	}
	if err := os.Mkdir(filepath.Join(to, "info"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "info", "exclude"), []byte(text), 0o600)
}

// readIndex reads an index; nil when there is none yet.
func (f *files) readIndex(path string) ([]byte, error) {
	file, err := f.openInside(path)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() // nothing is written
	data, err := io.ReadAll(io.LimitReader(file, maxIndexCopy+1))
	if err == nil && len(data) > maxIndexCopy {
		err = gitFailure(gitTooLarge, "%s: is larger than %d bytes", showName(path), maxIndexCopy)
	}
	return data, err
}

// copySharedIndex copies what a split index is based on (git-update-index(1),
// SPLIT INDEX).
func (f *files) copySharedIndex(gitDir, to string) error {
	at, err := f.access.within(gitDir)
	if err != nil {
		return err
	}
	dir, err := f.access.openDir(at)
	if err != nil {
		return err
	}
	defer dir.close()
	return dir.read(func(name string, _ os.FileMode) error {
		if id, ok := strings.CutPrefix(name, "sharedindex."); !ok || !isObjectID(id) {
			return nil
		}
		data, err := f.readIndex(filepath.Join(gitDir, name))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), data, 0o600)
	})
}

// list asks git which files of a repository are tracked or not ignored. Git
// lists them all for each page; the cursor holds a sum of their names.
func (g *globPage) list(f *files, top string) error {
	gitDir, err := f.workTreeGit(top)
	if err != nil {
		return err
	}
	defer os.RemoveAll(gitDir)
	page := &smallest{after: string(g.cursor.After), most: g.limit}
	sum := uint64(0)
	names := &nulSplitter{each: func(rel string) error {
		if err := g.tick(); err != nil {
			return err
		}
		if strings.HasSuffix(rel, "/") || !safeRel(rel) || !g.filter.file(rel) {
			return nil // a repository inside this one, or not wanted
		}
		hash := fnv.New64a()
		_, _ = io.WriteString(hash, rel) // never fails
		sum += hash.Sum64()              // in any order: git prints untracked files first
		page.add(dirEntryName{key: rel, name: rel})
		return nil
	}}
	_, err = f.git.run(g.ctx, gitCommand{
		args: []string{"ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"},
		dir:  g.abs, gitDir: gitDir, workTree: top, stdout: names,
	})
	if err != nil {
		return errors.Join(names.err, err)
	}
	state := strconv.FormatUint(sum, 36)
	if len(g.cursor.After) > 0 && g.cursor.State != state {
		return staleCursor()
	}
	g.cursor.State = state
	self, err := g.start.info()
	if err != nil {
		return err
	}
	below := &statBelow{start: g.start, dev: self.id.dev}
	defer below.close()
	paths := page.sorted()
	for _, e := range paths {
		if err := g.tick(); err != nil {
			return err
		}
		info, err := below.lstat(e.name)
		if err != nil {
			continue // removed, or behind a link
		}
		if err := g.add(e.name, info); errors.Is(err, errStopWalk) {
			return nil
		}
	}
	if g.more = page.more; g.more {
		g.cursor.After = []byte(paths[len(paths)-1].name)
	}
	return nil
}

// nulSplitter hands on the texts of a NUL-separated stream.
type nulSplitter struct {
	each    func(string) error
	partial []byte
	err     error
}

// maxNulText bounds one text: a path as long as the system takes, and more.
const maxNulText = 64 << 10

func (s *nulSplitter) Write(p []byte) (int, error) {
	n := len(p)
	for s.err == nil {
		before, after, ok := bytes.Cut(p, []byte{0})
		if !ok {
			break
		}
		text := string(append(s.partial, before...))
		s.partial, p = s.partial[:0], after
		s.err = s.each(text)
	}
	if s.err == nil && len(s.partial)+len(p) > maxNulText {
		s.err = fmt.Errorf("reading git's output: a path of over %d bytes", maxNulText)
	}
	if s.err != nil {
		return 0, s.err
	}
	s.partial = append(s.partial, p...)
	return n, nil
}
