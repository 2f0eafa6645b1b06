package main

import (
	"bufio"
	"errors"
	"hash/fnv"
	"strconv"
	"strings"
)

// workTreeOf is the repository whose work tree a directory belongs to, as far
// up as is allowed; nil when it belongs to none. A .git that leads outside, or
// nowhere, does not count.
func (f *fsService) workTreeOf(at resolvedPath) *repository {
	for dir, ok := at, true; ok; dir, ok = parentOf(f.access, dir) {
		if r := f.repositoryIn(dir.abs, false); r != nil {
			return r
		}
	}
	return nil
}

// workTreeView is a gitView for git to list or search r's files. It has no
// objects, to spare a look at each of their directories, unless the index may
// be sparse: then trees tell what is in it. Where the repository is not whole
// the view knows less: objects out of reach are left out, and so is a broken
// configuration.
func (f *fsService) workTreeView(r *repository, view gitViewKind) (*gitView, error) {
	if err := r.readConfig(); err != nil {
		f.log.Debug("a repository's configuration", "path", r.top.abs, "error", err)
	}
	sparse := view == indexView && r.config.isTrue("core", "sparsecheckout")
	if sparse {
		if err := r.checkObjects(); err != nil {
			f.log.Debug("a repository's objects", "path", r.top.abs, "error", err)
			sparse = false
		}
	}
	if !sparse {
		r.objects = resolvedPath{}
	}
	return r.gitView(view)
}

// list asks git which files of a repository are tracked or not ignored. Git
// lists them all for each page; the cursor holds a sum of their names.
func (g *globPage) list(f *fsService, r *repository) error {
	v, err := f.workTreeView(r, indexView)
	if err != nil {
		return err
	}
	defer v.remove()
	page := &topK{after: string(g.cursor.After), limit: g.limit}
	sum := uint64(0)
	command := v.command("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	command.dir = g.abs
	err = f.git.stream(g.ctx, command, func(out *bufio.Reader) error {
		return readRecords(out, func(record []byte) error {
			if err := g.tick(); err != nil {
				return err
			}
			rel := string(record)
			if strings.HasSuffix(rel, "/") || !safeRel(rel) || !g.filter.file(rel) {
				return nil // a repository inside this one, or not wanted
			}
			hash := fnv.New64a()
			_, _ = hash.Write(record) // never fails
			sum += hash.Sum64()       // in any order: git prints untracked files first
			page.add(dirEntryName{key: rel, name: rel})
			return nil
		})
	})
	if err != nil {
		return err
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
		if err := g.add(e.name, info); errors.Is(err, errEnough) {
			return nil
		}
	}
	if g.more = page.more; g.more {
		g.cursor.After = []byte(paths[len(paths)-1].name)
	}
	return nil
}
