package main

import (
	"context"
	"crypto/rand"
	"maps"
	"runtime"
	"time"
)

const (
	// spareIdle is how long the old state of a clone is kept for the next update:
	// programs that follow a branch ask every few minutes. It is shorter than the time
	// after which a pool stops an idle daemon, so that none stays on the disk then.
	spareIdle = 4 * time.Minute
	// maxSpares bounds the old states that are kept. Each takes its directories and
	// the files that the update changed; all others are hard links.
	maxSpares = 8
	// spareFreeDisk is the percentage of the work dir's disk that must be free when a
	// clone begins, or the old states are removed first.
	spareFreeDisk = 10
)

// spare is the old state of a clone. The next update makes the new state out of it:
// that takes hard links of the few files that differ, instead of one of every file.
type spare struct {
	at    string              // in the work dir
	dirs  map[string]dirStamp // of its work tree, if they were compared with its index
	since time.Time
	done  chan struct{} // closed when it is no longer kept
	taken bool          // moved away by takeSpare; set before done is closed
	gone  chan struct{} // closed when it is removed or was taken
}

// keepSpare keeps the old state at a path of the work dir in place of the one before;
// it returns nil if there are too many.
func (s *repoStore) keepSpare(name, at string, dirs map[string]dirStamp) *spare {
	s.dropSpare(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spares) >= maxSpares || runtime.GOOS == "windows" { // where an inode is not told
		return nil
	}
	sp := &spare{at: at, dirs: dirs, since: time.Now(), done: make(chan struct{}), gone: make(chan struct{})}
	s.spares[name] = sp
	return sp
}

// dropSpare forgets the spare of a repository, which is then removed.
func (s *repoStore) dropSpare(name string) {
	if sp := s.forgetSpare(name, 0); sp != nil {
		close(sp.done)
	}
}

// dropSpares removes all spares, for their space on the disk, and reports whether there
// were any.
func (s *repoStore) dropSpares(ctx context.Context) bool {
	s.mu.Lock()
	spares := maps.Clone(s.spares)
	s.mu.Unlock()
	for name := range spares {
		s.dropSpare(name)
	}
	for _, sp := range spares {
		select {
		case <-sp.gone:
		case <-ctx.Done():
		}
	}
	return len(spares) > 0
}

// forgetSpare returns the spare of a repository if it has that age, and nil otherwise.
// The caller closes done.
func (s *repoStore) forgetSpare(name string, age time.Duration) *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp := s.spares[name]
	if sp == nil || time.Since(sp.since) < age {
		return nil
	}
	delete(s.spares, name)
	return sp
}

// takeSpare moves the spare of a repository to a new temporary and returns its name,
// or "" if there is none that its last readers have left, and what is known of its
// directories.
func (s *repoStore) takeSpare(name string) (string, map[string]dirStamp) {
	sp := s.forgetSpare(name, s.grace)
	if sp == nil {
		return "", nil
	}
	defer close(sp.done)
	temp := tempPrefix + rand.Text()
	if sp.taken = renameIn(s.work, sp.at, reposDirName+"/"+temp) == nil; !sp.taken {
		return "", nil
	}
	return temp, sp.dirs
}

// wait returns when the spare is no longer kept; taken reports whether its directory
// is gone.
func (s *repoStore) wait(sp *spare, name string) (taken bool) {
	idle := time.NewTimer(spareIdle)
	defer idle.Stop()
	select {
	case <-idle.C:
		s.dropSpare(name)
	case <-s.base.Done():
		s.dropSpare(name)
	case <-sp.done:
	}
	<-sp.done
	return sp.taken
}
