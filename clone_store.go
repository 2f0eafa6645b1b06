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
	"time"
)

const (
	reposDirName = "repos"
	// tempPrefix and oldPrefix begin the names of directories that exist only
	// while a clone runs. No repository's name begins with a dot, and every method
	// denies names with this prefix.
	tempPrefix = secretPrefix + "tmp-"
	oldPrefix  = secretPrefix + "old-"
	// retiredDirName is the directory in the work dir that receives the old state
	// of a clone after the exchange. Every method denies it.
	retiredDirName = secretPrefix + "retired"
	// retireAttempts is how often the directory is made: the removal of another old
	// state may remove it, as it is empty, before the next one is moved into it.
	retireAttempts = 10
	// retiredGrace is the time after which an old state is removed. A git that has
	// just begun to read it needs some milliseconds.
	retiredGrace = time.Second
	// retiredEnd is how long the end of the daemon waits for the removal of old states:
	// the scheduler kills it soon after scheduledDrainTime.
	retiredEnd = 300 * time.Millisecond
	// maxRetired bounds the old states that wait for removal; beyond that they are
	// removed at once.
	maxRetired = 64
	// maxWalked bounds the entries looked at for git's leftovers; a repository
	// has far fewer refs and packs.
	maxWalked = 1_000_000
)

// errWalk ends a walk that met too many entries.
var errWalk = errors.New("too many entries")

// repoStore is <work-dir>/repos. All work on files goes through one os.Root:
// whatever a symbolic link says, nothing outside is changed.
type repoStore struct {
	dir   string // absolute
	work  *os.Root
	root  *os.Root
	grace time.Duration // retiredGrace but in tests

	base    context.Context // the daemon's; old states are removed at once when it ends
	retired sync.WaitGroup  // removals that wait

	mu      sync.Mutex
	held    map[string]chan struct{} // under mu: names in use; closed on release
	waiting int                      // under mu: how many old states wait
	spares  map[string]*spare        // under mu: by name of the repository
	seals   map[string]cloneSeal     // under mu: by name of the repository
}

// openRepoStore creates the directory if necessary.
func openRepoStore(base context.Context, workDir string) (_ *repoStore, err error) {
	work, err := os.OpenRoot(workDir)
	if err != nil {
		return nil, fmt.Errorf("opening the work dir: %w", err)
	}
	defer func() {
		if err != nil {
			_ = work.Close() // only held open for its name
		}
	}()
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
	s := &repoStore{
		dir: filepath.Join(workDir, reposDirName), work: work, root: root, grace: retiredGrace,
		base: base, held: map[string]chan struct{}{}, spares: map[string]*spare{}, seals: map[string]cloneSeal{},
	}
	return s, nil
}

// close returns when all old states are removed. base must have ended, and no
// clone may be running.
func (s *repoStore) close() {
	s.retired.Wait()
	_ = s.root.Close() // only held open for its name
	_ = s.work.Close() // only held open for its name
}

// path is the absolute path of a name in the store.
func (s *repoStore) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// clear moves temporary directories away and removes them beside the start: they
// may hold hundreds of thousands of files. An old repository is put back if its
// successor was not installed. No clone may be running.
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
		kind := strings.TrimPrefix(name, ".git-daemon") // earlier versions' names begin with the dot alone
		if strings.HasPrefix(kind, ".tmp-") {
			errs = append(errs, s.discard(name))
		}
		if !strings.HasPrefix(kind, ".old-") {
			continue
		}
		_, encoded, _ := strings.Cut(name, "+")
		former := strings.ReplaceAll(encoded, "+", "/")
		if _, err := s.root.Lstat(former); former != "" && checkRepoName(former) == nil && errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, renameIn(s.root, name, former))
		} else {
			errs = append(errs, s.discard(name))
		}
	}
	left, err := fs.ReadDir(s.work.FS(), retiredDirName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("clearing old states: %w", err))
	}
	s.retired.Go(func() { // ends when they are removed, or at the end of base; close waits for it
		for _, entry := range left {
			_ = removeTree(s.base, s.work, retiredDirName+"/"+entry.Name()) // the next clear removes what stays
		}
		_ = s.work.Remove(retiredDirName) // when it is empty
	})
	return errors.Join(errs...)
}

// discard moves a temporary directory to those that clear removes.
func (s *repoStore) discard(name string) error {
	err := s.work.Mkdir(retiredDirName, 0o700)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = renameIn(s.work, reposDirName+"/"+name, retiredDirName+"/"+rand.Text())
	}
	if err != nil {
		return s.remove(name) // repos is a file system of its own, or name is read-only
	}
	return nil
}

// retire removes the old state of a repository, which is at temp, after a grace period
// for its readers, or later if it is kept for the next update; dirs are what is known
// of its work tree.
func (s *repoStore) retire(temp, name string, keep bool, dirs map[string]dirStamp) error {
	at := retiredDirName + "/" + strings.TrimPrefix(temp, tempPrefix)
	if !s.mayWait(1) {
		return s.remove(temp)
	}
	var err error
	for range retireAttempts {
		if err = s.work.Mkdir(retiredDirName, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			err = renameIn(s.work, reposDirName+"/"+temp, at)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		s.mayWait(-1)
		return s.remove(temp) // repos is a file system of its own
	}
	var kept *spare
	if keep {
		kept = s.keepSpare(name, at, dirs)
	} else {
		s.dropSpare(name)
	}
	since := time.Now()
	// Ends after the grace, when the spare is not kept any longer, or at the end of
	// base; close waits for it.
	s.retired.Go(func() {
		defer s.mayWait(-1)
		if kept == nil || !s.wait(kept, name) {
			select {
			case <-time.After(s.grace - time.Since(since)):
			case <-s.base.Done():
			}
			s.removeOld(at)
		}
		_ = s.work.Remove(retiredDirName) // when it is empty
		if kept != nil {
			close(kept.gone)
		}
	})
	return nil
}

// removeOld removes an old state. At the end of base it takes at most retiredEnd, and
// clear removes what stays.
func (s *repoStore) removeOld(at string) {
	if removeTree(s.base, s.work, at) == nil || s.base.Err() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.base), retiredEnd)
	defer cancel()
	_ = removeTree(ctx, s.work, at)
}

// mayWait adds n to the number of removals that wait, and reports whether there
// is room.
func (s *repoStore) mayWait(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting+n > maxRetired {
		return false
	}
	s.waiting += n
	return true
}

// lock waits until name, and each name inside or around it, is unlocked, locks it
// and returns the function that unlocks it. Names that differ only in case count
// as equal, as on some file systems.
func (s *repoStore) lock(ctx context.Context, name string) (release func(), err error) {
	name = strings.ToLower(name)
	for {
		busy := s.tryLock(name)
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

// tryLock locks name, or returns the channel of one that is in its way.
func (s *repoStore) tryLock(name string) (busy chan struct{}) {
	name = strings.ToLower(name) // on Windows and macOS it is the same directory
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
	name = strings.ToLower(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.held[name])
	delete(s.held, name)
}

// repoState describes what exists at a name.
type repoState int

const (
	repoAbsent repoState = iota
	repoPresent
	repoBroken // a directory that is not a repository
)

// stat reports what is at name, which the caller has locked. It refuses a
// symbolic link and a place inside or around another repository.
func (s *repoStore) stat(name string) (repoState, error) {
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

// temp makes an empty directory for a repository in the making.
func (s *repoStore) temp() (string, error) {
	name := tempPrefix + rand.Text()
	if err := s.root.Mkdir(name, 0o755); err != nil {
		return "", fmt.Errorf("making a temporary directory: %w", err)
	}
	return name, nil
}

// remove removes a temporary.
func (s *repoStore) remove(temp string) error {
	if err := removeTree(context.WithoutCancel(s.base), s.root, temp); err != nil {
		return fmt.Errorf("removing a temporary directory: %w", err)
	}
	return nil
}

// install puts the complete temporary at name. What stood there, if anything, is
// at temp afterwards. Where the system can exchange two directories in one step,
// name always exists; elsewhere the old one is moved aside first, and clear puts
// it back after a crash in between.
func (s *repoStore) install(temp, name string) (replaced bool, err error) {
	if parent := path.Dir(name); parent != "." {
		if err := s.root.MkdirAll(parent, 0o755); err != nil {
			return false, fmt.Errorf("making the repository's directory: %w", err)
		}
	}
	if s.exists(name) {
		err := s.exchange(temp, name)
		if errors.Is(err, errors.ErrUnsupported) {
			err = s.moveAside(temp, name)
		}
		return true, err
	}
	if err := renameIn(s.root, temp, name); err != nil {
		return false, fmt.Errorf("moving the new repository to its place: %w", err)
	}
	return false, nil
}

// moveAside is exchange in three steps.
func (s *repoStore) moveAside(temp, name string) error {
	old := oldPrefix + rand.Text() + "+" + strings.ReplaceAll(name, "/", "+")
	if err := renameIn(s.root, name, old); err != nil {
		return fmt.Errorf("moving the old repository aside: %w", err)
	}
	if err := renameIn(s.root, temp, name); err != nil {
		err = errors.Join(err, renameIn(s.root, old, name))
		return fmt.Errorf("moving the new repository to its place: %w", err)
	}
	if err := renameIn(s.root, old, temp); err != nil {
		return s.remove(old)
	}
	return nil
}

// exchange swaps two directories of the store in one step; errors.ErrUnsupported
// where the system or the file system cannot.
func (s *repoStore) exchange(temp, name string) error {
	from, err := s.root.Open(".")
	if err != nil {
		return fmt.Errorf("exchanging the repository: %w", err)
	}
	defer from.Close() // only held open for its name
	to, err := s.root.Open(path.Dir(name))
	if err != nil {
		return fmt.Errorf("exchanging the repository: %w", err)
	}
	defer to.Close() // only held open for its name
	if err := exchangeNames(from, temp, to, path.Base(name)); err != nil {
		return fmt.Errorf("exchanging the repository: %w", err)
	}
	return nil
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
		if fault := nameFault(s); fault != "" {
			return invalidParam("name", "has the segment %q, which %s", s, fault)
		}
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
