package main

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
)

// statBelow describes files below a directory, asked for in the order of their
// paths, without following a link or leaving the file system on the way.
type statBelow struct {
	start *dirHandle
	dev   uint64
	rel   string // the directory that is open
	dir   *dirHandle
}

func (s *statBelow) lstat(rel string) (entryInfo, error) {
	dir, name := path.Split(rel)
	if s.dir == nil || dir != s.rel {
		s.close()
		if err := s.open(dir); err != nil {
			return entryInfo{}, err
		}
	}
	return s.dir.lstat(name)
}

func (s *statBelow) open(rel string) error {
	at := s.start
	for name := range strings.SplitSeq(strings.TrimSuffix(rel, "/"), "/") {
		if name == "" {
			name = "."
		}
		next, err := at.openDir(name)
		if at != s.start {
			at.close()
		}
		if err != nil {
			return err
		}
		at = next
	}
	self, err := at.info()
	if err == nil && self.id.dev != s.dev {
		err = errors.ErrUnsupported // another file system
	}
	if err != nil {
		at.close()
		return err
	}
	s.rel, s.dir = rel, at
	return nil
}

func (s *statBelow) close() {
	if s.dir != nil {
		s.dir.close()
		s.dir = nil
	}
}

// safeRel tells a path as git prints it that is fit to be looked up.
func safeRel(rel string) bool {
	return filepath.IsLocal(filepath.FromSlash(rel)) && !hasSecretName(rel)
}
