package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
)

const (
	reposDirName = "repos"
	// tempPrefix and oldPrefix begin the names of what is only there while a
	// clone runs. No repository's name begins with a dot.
	tempPrefix = ".tmp-"
	oldPrefix  = ".old-"
	// maxWalked bounds the entries looked at for git's leftovers; a repository
	// has far fewer refs and packs.
	maxWalked = 1_000_000
)

// errWalk ends a walk that met too many entries.
var errWalk = errors.New("too many entries")

// repoStore is <work-dir>/repos. All work on files goes through one os.Root:
// whatever a symbolic link says, nothing outside is changed.
type repoStore struct {
	dir  string // absolute
	root *os.Root

	mu   sync.Mutex
	held map[string]chan struct{} // under mu: names in use; closed on release
}

// openRepoStore makes the directory if need be and clears away what an earlier
// process left in it.
func openRepoStore(workDir string) (*repoStore, error) {
	work, err := os.OpenRoot(workDir)
	if err != nil {
		return nil, fmt.Errorf("opening the work dir: %w", err)
	}
	defer work.Close()
	if err := work.Mkdir(reposDirName, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the directory of repositories: %w", err)
	}
	if info, err := work.Lstat(reposDirName); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("opening the directory of repositories: %s is no directory", filepath.Join(workDir, reposDirName))
	}
	root, err := work.OpenRoot(reposDirName)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of repositories: %w", err)
	}
	s := &repoStore{dir: filepath.Join(workDir, reposDirName), root: root, held: map[string]chan struct{}{}}
	return s, s.clear()
}

// path is the absolute path of a name in the store.
func (s *repoStore) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// clear removes temporaries. An old repository whose successor did not get its
// place is put back. Nothing may be running.
func (s *repoStore) clear() error {
	dir, err := s.root.Open(".")
	if err != nil {
		return fmt.Errorf("clearing temporaries: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("clearing temporaries: %w", err)
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, tempPrefix) {
			errs = append(errs, s.root.RemoveAll(name))
		}
		if !strings.HasPrefix(name, oldPrefix) {
			continue
		}
		_, encoded, _ := strings.Cut(name, "+")
		former := strings.ReplaceAll(encoded, "+", "/")
		if _, err := s.root.Lstat(former); former != "" && checkRepoName(former) == nil && errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, s.root.Rename(name, former))
		} else {
			errs = append(errs, s.root.RemoveAll(name))
		}
	}
	return errors.Join(errs...)
}

// lock waits until nobody works on name, on a repository inside it or on one
// around it, and returns what releases it. Names that differ in case are the
// same: they are on some file systems.
func (s *repoStore) lock(ctx context.Context, name string) (release func(), err error) {
	name = strings.ToLower(name)
	for {
		busy := s.take(name)
		if busy == nil {
			return func() { s.release(name) }, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take holds name, or returns the channel of one that is in its way.
func (s *repoStore) take(name string) (busy chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, ch := range s.held {
		if other == name || strings.HasPrefix(other, name+"/") || strings.HasPrefix(name, other+"/") {
			return ch
		}
	}
	s.held[name] = make(chan struct{})
	return nil
}

func (s *repoStore) release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.held[name])
	delete(s.held, name)
}

// repoState is what stands at a name.
type repoState int

const (
	repoAbsent repoState = iota
	repoPresent
	repoBroken // something that is no repository
)

// look tells what is at name, which the caller has locked. It refuses a
// symbolic link and a place inside or around another repository.
func (s *repoStore) look(name string) (repoState, error) {
	segments := strings.Split(name, "/")
	for i := range segments {
		at := strings.Join(segments[:i+1], "/")
		info, err := s.root.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return repoAbsent, nil
		case err != nil:
			return repoAbsent, fmt.Errorf("looking at the repository's place: %w", err)
		case info.Mode()&fs.ModeSymlink != 0:
			return repoAbsent, invalidParam("name", "%s is a symbolic link in the daemon's directory of repositories: take another name", at)
		case !info.IsDir():
			return repoAbsent, invalidParam("name", "%s is a file in the daemon's directory of repositories: take another name", at)
		case i+1 < len(segments) && s.exists(at+"/.git"):
			return repoAbsent, invalidParam("name", "%s is a repository, and one may not lie inside another: take another name", at)
		}
	}
	if info, err := s.root.Lstat(name + "/.git"); err == nil && info.IsDir() {
		return repoPresent, nil
	}
	inner, err := s.findInside(name)
	if err != nil {
		return repoAbsent, err
	}
	if inner != "" {
		return repoAbsent, invalidParam("name", "it would lie around the repository %s: take another name", inner)
	}
	return repoBroken, nil
}

func (s *repoStore) exists(name string) bool {
	_, err := s.root.Lstat(name)
	return err == nil
}

// findInside is the first repository below name, "" for none.
func (s *repoStore) findInside(name string) (string, error) {
	found := ""
	err := s.walk(name, func(p string, d fs.DirEntry) error {
		switch {
		case d.IsDir() && d.Name() == ".git" && path.Dir(p) != name:
			found = path.Dir(p)
			return fs.SkipAll
		case d.IsDir() && strings.Count(p, "/") > maxNameSegments:
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}

// walk visits what is below name without following links.
func (s *repoStore) walk(name string, visit func(p string, d fs.DirEntry) error) error {
	seen := 0
	err := fs.WalkDir(s.root.FS(), name, func(p string, d fs.DirEntry, err error) error {
		if seen++; seen > maxWalked {
			return errWalk
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(p, d)
	})
	if err != nil {
		return fmt.Errorf("walking through a repository: %w", err)
	}
	return nil
}

// unlock removes what a killed git leaves in the repository at name: its lock
// files, which stop every later command, and half-written packs and objects.
// No git may be running in it. A link in .git is none of git's: git would follow
// it, and write wherever it leads. The error is then errRepoCorrupt.
func (s *repoStore) unlock(name string) error {
	return s.walk(name+"/.git", func(p string, d fs.DirEntry) error {
		base := d.Name()
		inObjects := strings.HasPrefix(p, name+"/.git/objects/")
		switch {
		case d.IsDir():
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			return fmt.Errorf("%w: %s is a link", errRepoCorrupt, p)
		case strings.HasSuffix(base, ".lock") && d.Type().IsRegular(),
			inObjects && (strings.HasPrefix(base, "tmp_") || strings.HasPrefix(base, ".tmp-")):
			if err := s.root.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// temp makes an empty directory for a repository in the making.
func (s *repoStore) temp() (string, error) {
	name := tempPrefix + rand.Text()
	if err := s.root.Mkdir(name, 0o755); err != nil {
		return "", fmt.Errorf("making a temporary directory: %w", err)
	}
	return name, nil
}

// remove deletes a temporary.
func (s *repoStore) remove(temp string) error {
	if err := s.root.RemoveAll(temp); err != nil {
		return fmt.Errorf("removing a temporary directory: %w", err)
	}
	return nil
}

// place moves a complete temporary to name. What stood there is moved aside
// first and removed last: at any moment one of the two is whole, and clear
// puts the old one back after a crash in between.
func (s *repoStore) place(temp, name string) error {
	if parent := path.Dir(name); parent != "." {
		if err := s.root.MkdirAll(parent, 0o755); err != nil {
			return fmt.Errorf("making the repository's directory: %w", err)
		}
	}
	old := ""
	if s.exists(name) {
		old = oldPrefix + rand.Text() + "+" + strings.ReplaceAll(name, "/", "+")
		if err := s.root.Rename(name, old); err != nil {
			return fmt.Errorf("moving the old repository aside: %w", err)
		}
	}
	if err := s.root.Rename(temp, name); err != nil {
		if old != "" {
			err = errors.Join(err, s.root.Rename(old, name))
		}
		return fmt.Errorf("moving the new repository to its place: %w", err)
	}
	if old != "" {
		return s.remove(old)
	}
	return nil
}

// shallow is the list of commits where the repository's history is cut off,
// "" when it is complete.
func (s *repoStore) shallow(name string) string {
	data, err := s.root.ReadFile(name + "/.git/shallow")
	if err != nil {
		return ""
	}
	return string(data)
}

// maxPackEntries bounds the names looked at in an object store.
const maxPackEntries = 100_000

// packs counts the repository's packs.
func (s *repoStore) packs(name string) int {
	dir, err := s.root.Open(name + "/.git/objects/pack")
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxPackEntries) // as many as it could read
	n := 0
	for _, file := range names {
		if strings.HasSuffix(file, ".pack") {
			n++
		}
	}
	return n
}

// checkRepoName holds name against the rule: one to four segments of
// [A-Za-z0-9._-], none beginning with a dot or dash.
func checkRepoName(name string) error {
	segments := strings.Split(name, "/")
	if len(segments) > maxNameSegments {
		return invalidParam("name", "must have at most %d segments", maxNameSegments)
	}
	for _, s := range segments {
		switch {
		case s == "":
			return invalidParam("name", "must not be empty nor have an empty segment")
		case s[0] == '.' || s[0] == '-':
			return invalidParam("name", "no segment may begin with a dot or a dash")
		case len(s) > maxSegmentLength:
			return invalidParam("name", "a segment is longer than %d bytes", maxSegmentLength)
		case strings.ContainsFunc(s, func(r rune) bool { return !isNameRune(r) }):
			return invalidParam("name", "may only hold letters, digits, dots, dashes, underscores and slashes (A-Z a-z 0-9 . _ - /)")
		}
	}
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return invalidParam("name", "is reserved on this system") // such as NUL on Windows
	}
	return nil
}

func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// checkRef holds a branch, tag or full ref name against the rules of
// git-check-ref-format(1); a leading dash, legal there, would be an option.
func checkRef(ref string) error {
	switch {
	case len(ref) > maxRefLength:
		return invalidParam("ref", "is longer than %d bytes", maxRefLength)
	case strings.HasPrefix(ref, "-"), ref == "@", strings.HasSuffix(ref, "."),
		strings.Contains(ref, ".."), strings.Contains(ref, "@{"), strings.ContainsAny(ref, " ~^:?*[\\"), hasControl(ref):
		return invalidParam("ref", "is no branch, tag or full commit id: see git-check-ref-format for the names that are allowed")
	}
	for s := range strings.SplitSeq(ref, "/") {
		if s == "" || s[0] == '.' || strings.HasSuffix(s, ".lock") {
			return invalidParam("ref", "is no branch, tag or full commit id: see git-check-ref-format for the names that are allowed")
		}
	}
	return nil
}
