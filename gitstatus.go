package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// dirtyCounts is how many paths of a work tree differ from the last commit;
// one path may count as staged and as unstaged. Untracked directories count as
// one.
type dirtyCounts struct {
	Staged     int `json:"staged" doc:"paths"`
	Unstaged   int `json:"unstaged" doc:"paths"`
	Untracked  int `json:"untracked" doc:"paths; a directory counts as one"`
	Conflicted int `json:"conflicted" doc:"paths"`
}

// workStatus is what git status --porcelain=v2 --branch tells.
type workStatus struct {
	dirty         dirtyCounts
	ahead, behind *int // nil without an upstream
}

// status compares the work tree, the index and the last commit.
func (i *inspector) status(ctx context.Context, s *shadow) (workStatus, error) {
	submodules := "--ignore-submodules=all"
	if ok, err := i.plainSubmodules(ctx, s); err != nil {
		return workStatus{}, err
	} else if ok {
		submodules = "--ignore-submodules=dirty"
	}
	var w workStatus
	err := i.git.stream(ctx, s.command("status", "--porcelain=v2", "-z", "--branch", "--untracked-files=normal", "--no-renames", submodules), func(r *bufio.Reader) error {
		return readRecords(r, w.add)
	})
	return w, err
}

// add counts one record (git-status(1), Porcelain Format Version 2).
func (w *workStatus) add(record []byte) error {
	if len(record) < 2 {
		return badOutput("status", record)
	}
	switch record[0] {
	case '#':
		if text, ok := bytes.CutPrefix(record, []byte("# branch.ab ")); ok {
			var ahead, behind int
			if n, err := fmt.Sscanf(string(text), "+%d -%d", &ahead, &behind); n != 2 || err != nil {
				return badOutput("status", record)
			}
			w.ahead, w.behind = &ahead, &behind
		}
	case '1':
		if len(record) < 4 || record[1] != ' ' {
			return badOutput("status", record)
		}
		if record[2] != '.' {
			w.dirty.Staged++
		}
		if record[3] != '.' {
			w.dirty.Unstaged++
		}
	case 'u':
		w.dirty.Conflicted++
	case '?':
		w.dirty.Untracked++
	case '!':
	default:
		return badOutput("status", record)
	}
	return nil
}

// plainSubmodules tells whether git may look at the commits that submodules
// are on: it reads each one's git directory, wherever its .git file leads, so
// all of them must be allowed. A repository without a .gitmodules is taken to
// have none.
func (i *inspector) plainSubmodules(ctx context.Context, s *shadow) (bool, error) {
	top := s.repo.top
	if _, err := top.root.dir.Lstat(filepath.Join(top.rel, ".gitmodules")); err != nil {
		return false, nil
	}
	plain := true
	err := i.git.stream(ctx, s.command("ls-files", "-z", "--stage"), func(r *bufio.Reader) error {
		return readRecords(r, func(record []byte) error {
			mode, path, ok := bytes.Cut(record, []byte("\t"))
			if !ok {
				return badOutput("ls-files", record)
			}
			if plain && bytes.HasPrefix(mode, []byte("160000 ")) {
				plain = i.allowedSubmodule(top, string(path))
			}
			return nil
		})
	})
	return plain, err
}

// allowedSubmodule tells whether all that git would read of a submodule lies
// in allowed directories.
func (i *inspector) allowedSubmodule(top place, path string) bool {
	dir, err := i.access.within(filepath.Join(top.abs, filepath.FromSlash(path)))
	if err != nil {
		return false
	}
	if _, err := dir.root.dir.Lstat(filepath.Join(dir.rel, ".git")); err != nil {
		e, ok := errors.AsType[*rpcError](i.access.wireError(err, dir.abs))
		return ok && e.name() == codeSourceNotFound // not initialised
	}
	r, err := repositoryAt(i.access, dir)
	if err != nil || r == nil || r.bare || r.checkObjects() != nil {
		return false
	}
	refs, err := i.access.within(filepath.Join(r.common.abs, "refs"))
	return err == nil && r.checkLinks(refs, maxRefDepth) == nil
}
