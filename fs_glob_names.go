package main

import (
	"bufio"
	"context"
	"errors"
	"hash/fnv"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxKeptNames and maxKeptNameBytes bound the names of one list that are kept for
	// the next pages. Git lists the files again for those after them.
	maxKeptNames     = 20_000
	maxKeptNameBytes = 4 << 20
)

// nameList is the names of a repository's files that git does not ignore, in order
// and as far as they are in memory.
type nameList struct {
	state   string // checksum of all names, for the cursor
	after   string // the list begins after this name
	names   []string
	more    bool // others follow
	skipped int  // directories that git could not read
	began   time.Time
	dir     fileID // of the directory that was listed
	index   fileFacts

	sizes []namedInfo // of the first names, in order; nil once the list is kept
}

// namedInfo is a file and what lstat found.
type namedInfo struct {
	name string
	info entryInfo
	err  error
}

// page returns up to limit names after the given one; ok reports whether the list
// has a whole page.
func (l *nameList) page(after string, limit int) (names []string, more, ok bool) {
	if after < l.after {
		return nil, false, false
	}
	rest := l.names[sort.Search(len(l.names), func(n int) bool { return l.names[n] > after }):]
	if len(rest) > limit {
		return rest[:limit], true, true
	}
	return rest, l.more, !l.more
}

// list lists the files of a repository that are tracked or not ignored. The cursor
// holds a checksum of their names to detect changes between pages.
func (g *globPage) list(f *fsService, r *repository) error {
	index := r.indexFacts()
	after := string(g.cursor.After)
	if l, _ := f.names.find(g.cursor.Request).(*nameList); l != nil && after != "" && l.state == g.cursor.State && l.dir == g.self.id && l.index.equal(index) {
		if names, more, ok := l.page(after, g.limit); ok {
			changed, err := g.addNames(l, names, more)
			if err != nil || !changed.After(l.began.Add(-clockDifference)) {
				if !g.more {
					f.names.drop(g.cursor.Request)
				}
				return err
			}
			g.files, g.size, g.skipped, g.more, g.cursor.After = nil, 0, 0, false, []byte(after)
		}
	}
	l, err := g.listNames(f, r)
	if _, special := errors.AsType[*specialRules](err); special {
		f.log.Warn("listing ignored files with git failed", "error", err)
		return g.listWithoutRules(f, r)
	}
	if err != nil {
		return err
	}
	if after != "" && g.cursor.State != l.state {
		return staleCursor()
	}
	g.cursor.State = l.state
	names, more, _ := l.page(after, g.limit)
	if _, err = g.addNames(l, names, more); err == nil && g.more {
		l.dir, l.index = g.self.id, index
		f.names.keep(g.cursor.Request, l.kept(), maxKeptNameBytes)
	}
	return err
}

// kept returns the part of the list that is kept for other pages.
func (l *nameList) kept() *nameList {
	kept, size := *l, 0
	kept.sizes = nil
	for n, name := range l.names {
		if size += len(name); n == maxKeptNames || size > maxKeptNameBytes {
			kept.names, kept.more = slices.Clone(l.names[:n]), true
			break
		}
	}
	return &kept
}

// addNames adds files to the page, up to its size. It returns the time of the last
// change of a directory on the way to them.
func (g *globPage) addNames(l *nameList, names []string, more bool) (changed time.Time, err error) {
	below := &statBelow{access: g.access, abs: g.abs, start: g.start, self: g.self, changed: g.self.changed}
	defer below.close()
	g.skipped += l.skipped
	sizes := l.sizes
	for _, name := range names {
		if err := g.tick(); err != nil {
			return changed, err
		}
		var info entryInfo
		if len(sizes) > 0 && sizes[0].name == name {
			info, err, sizes = sizes[0].info, sizes[0].err, sizes[1:]
		} else {
			info, err = below.lstat(name)
		}
		if err != nil {
			if _, hidden := errors.AsType[*rpcError](err); !hidden && !errors.Is(err, fs.ErrNotExist) {
				g.skipped++ // no right to read it, or behind a symlink
			}
			continue
		}
		if err := g.add(name, info); errors.Is(err, errEnough) {
			return below.changed, nil
		}
	}
	if g.more = more; more {
		g.cursor.After = []byte(names[len(names)-1])
	}
	return below.changed, nil
}

// listNames asks git for the names after the cursor, a page or as many as are kept.
// The tracked files, which git has in its index, are looked up while it searches the
// directories for others.
func (g *globPage) listNames(f *fsService, r *repository) (*nameList, error) {
	v, err := f.workTreeView(r)
	if err != nil {
		return nil, err
	}
	defer v.remove()
	l := &nameList{after: string(g.cursor.After), began: time.Now()}
	limit := max(g.limit, maxKeptNames)
	tracked, others := &topK{after: l.after, limit: limit}, &topK{after: l.after, limit: limit}
	ctx, stop := context.WithCancelCause(g.ctx)
	defer stop(nil)
	var sum, otherSum uint64
	var otherErr error
	var search sync.WaitGroup
	search.Go(func() { // ends with git
		command := v.command("ls-files", "-z", "--others", "--exclude-standard")
		command.line = func(line string) {
			if isUnreadable(line) {
				l.skipped++
			}
		}
		command.check = func(ctx context.Context) error { return f.access.checkRules(ctx, r.work, g.at) }
		if otherSum, otherErr = g.readNames(ctx, f.git, command, others, func() error { beat(ctx); return nil }); otherErr != nil {
			stop(otherErr)
		}
	})
	sum, err = g.readNames(ctx, f.git, v.command("ls-files", "-z", "--cached", "--deduplicate"), tracked, g.tick)
	if err == nil {
		err = g.lookUp(ctx, l, tracked.sorted())
	}
	if err != nil {
		stop(err)
	}
	search.Wait()
	switch {
	case g.ctx.Err() != nil:
		return nil, context.Cause(g.ctx)
	case otherErr != nil: // the other one may have been stopped for it
		return nil, otherErr
	case err != nil:
		return nil, err
	}
	for _, e := range others.sorted() {
		tracked.add(e)
	}
	for _, e := range tracked.sorted() {
		l.names = append(l.names, e.name)
	}
	l.more = tracked.more || others.more
	l.state = strconv.FormatUint(sum+otherSum, 36)
	return l, nil
}

// readNames runs git ls-files, adds the names that the filter selects to list, and
// returns their checksum, which does not depend on their order. It calls tick for each
// name.
func (g *globPage) readNames(ctx context.Context, git *gitRunner, command gitCommand, list *topK, tick func() error) (sum uint64, err error) {
	command.dir = g.abs
	err = git.stream(ctx, command, func(out *bufio.Reader) error {
		return readRecords(out, func(record []byte) error {
			if err := tick(); err != nil {
				return err
			}
			rel := string(record)
			if strings.HasSuffix(rel, "/") || !safeRel(rel) || !g.filter.file(rel) || g.access.covers(filepath.Join(g.abs, rel)) {
				return nil // a nested repository, or filtered out
			}
			hash := fnv.New64a()
			_, _ = hash.Write(record) // a hash never fails
			sum += hash.Sum64()
			list.add(dirEntryName{key: rel, name: rel})
			return nil
		})
	})
	return sum, err
}

// lookUp sets the sizes of the first names.
func (g *globPage) lookUp(ctx context.Context, l *nameList, names []dirEntryName) error {
	below := &statBelow{access: g.access, abs: g.abs, start: g.start, self: g.self}
	defer below.close()
	names = names[:min(len(names), g.limit)]
	l.sizes = make([]namedInfo, len(names))
	for n, e := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		beat(ctx)
		info, err := below.lstat(e.name)
		l.sizes[n] = namedInfo{e.name, info, err}
	}
	return nil
}

// listWithoutRules is list for a work tree in which git would wait for a pipe
// named .gitignore: git lists the tracked files alone, for which it reads no
// rules, and a walk finds those that no rule ignores.
func (g *globPage) listWithoutRules(f *fsService, r *repository) error {
	v, err := f.workTreeView(r)
	if err != nil {
		return err
	}
	defer v.remove()
	g.tracked = map[string]bool{}
	command := v.command("ls-files", "-z", "--cached", "--deduplicate")
	command.dir = g.abs
	err = f.git.stream(g.ctx, command, func(out *bufio.Reader) error {
		return readRecords(out, func(record []byte) error {
			if err := g.tick(); err != nil {
				return err
			}
			// With the directories above it, which the walk must enter.
			for rel := string(record); rel != "." && !g.tracked[rel]; rel = path.Dir(rel) {
				g.tracked[rel] = true
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if text, err := r.optional(r.common, filepath.Join("info", "exclude"), maxConfigFile); err == nil && r.work.abs == g.abs {
		g.rules = &ignoreRules{rules: parseIgnore(string(text))}
	}
	return g.walk(true)
}
