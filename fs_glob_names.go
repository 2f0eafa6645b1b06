package main

import (
	"bufio"
	"context"
	"errors"
	"hash/fnv"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxKeptNames and maxKeptNameBytes bound the names of one list that are kept for
	// the next pages. The files are listed again for those after them.
	maxKeptNames     = 200_000
	maxKeptNameBytes = 16 << 20
	nameHeader       = 16 // bytes of memory for a name beside its text
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

	found []foundFile // of the first names, in order; nil once the list is kept
}

// foundFile holds what was found about a name: a file, none that a page shows, or that it
// cannot be read.
type foundFile struct {
	known   bool
	skipped bool
	file    globFile
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
			found := make([]foundFile, len(names))
			changed, err := g.lookUp(names, found)
			if err == nil {
				g.addNames(l, names, found, more)
			}
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
	g.addNames(l, names, l.found, more)
	if g.more {
		l.dir, l.index = g.self.id, index
		kept, size := l.kept()
		f.names.keep(g.cursor.Request, kept, size)
	}
	return nil
}

// kept returns the part of the list that is kept for other pages, and its size.
func (l *nameList) kept() (kept *nameList, size int) {
	kept = new(*l)
	kept.found = nil
	for n, name := range l.names {
		more := nameHeader + len(name)
		if size+more > maxKeptNameBytes {
			kept.names, kept.more = slices.Clone(l.names[:n]), true
			break
		}
		size += more
	}
	return kept, size
}

// addNames adds what was found about names to the page, up to its size.
func (g *globPage) addNames(l *nameList, names []string, found []foundFile, more bool) {
	g.skipped += l.skipped
	g.files = make([]globFile, 0, len(names))
	for n, name := range names {
		if found[n].skipped {
			g.skipped++
		}
		if g.add(name, found[n].file) != nil {
			return // enough
		}
	}
	if g.more = more; more {
		g.cursor.After = []byte(names[len(names)-1])
	}
}

const (
	// lookUps is how many goroutines look files up for one page, and lookUpBatch how
	// many names one of them takes at a time: those of some directories.
	lookUps     = 4
	lookUpBatch = 256
)

// lookUp describes files that are not known yet. It returns the time of the last change
// of a directory on the way to them.
func (g *globPage) lookUp(names []string, found []foundFile) (changed time.Time, err error) {
	var next atomic.Int64
	var mu sync.Mutex // guards changed
	work := func() {
		below := &statBelow{access: g.access, abs: g.abs, start: g.start, self: g.self, changed: g.self.changed}
		defer below.close()
		for g.ctx.Err() == nil {
			first := int(next.Add(lookUpBatch)) - lookUpBatch
			if first >= len(names) {
				break
			}
			for n := first; n < min(first+lookUpBatch, len(names)); n++ {
				if !found[n].known {
					beat(g.ctx)
					info, err := below.lstat(names[n])
					g.describe(&found[n], names[n], info, err)
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if below.changed.After(changed) {
			changed = below.changed
		}
	}
	var helpers sync.WaitGroup
	for range min(lookUps, runtime.GOMAXPROCS(0), (len(names)+lookUpBatch-1)/lookUpBatch) - 1 {
		helpers.Go(work) // ends with the names
	}
	work()
	helpers.Wait()
	return changed, context.Cause(g.ctx)
}

// describe sets what lstat found of a name.
func (g *globPage) describe(found *foundFile, name string, info entryInfo, err error) {
	found.known = true
	if err == nil {
		if info.mode.IsRegular() && !slices.Contains(g.secrets, info.id) {
			found.file = newGlobFile(name, info)
		}
	} else if _, hidden := errors.AsType[*rpcError](err); !hidden && !errors.Is(err, fs.ErrNotExist) {
		found.skipped = true // no right to read it, or behind a symlink
	}
}

// listNames lists the names after the cursor, a page or as many as are kept, and looks
// up those of the page.
func (g *globPage) listNames(f *fsService, r *repository) (*nameList, error) {
	v, err := f.workTreeView(r)
	if err != nil {
		return nil, err
	}
	defer v.remove()
	l := &nameList{after: string(g.cursor.After), began: time.Now()}
	if err = g.readTree(f, v, l); errors.Is(err, errAskGit) {
		err = g.askGit(f, v, l)
	}
	return l, err
}

// askGit asks git for the names.
func (g *globPage) askGit(f *fsService, v *gitView, l *nameList) error {
	names := g.collector()
	command := v.command("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	command.dir = g.abs
	command.line = func(line string) {
		if isUnreadable(line) {
			l.skipped++
		}
	}
	command.check = func(ctx context.Context) error { return f.access.checkRules(ctx, v.repo.work, g.at) }
	err := f.git.stream(g.ctx, command, func(out *bufio.Reader) error {
		return readRecords(out, func(record []byte) error {
			names.add(record)
			return g.tick()
		})
	})
	if err != nil {
		return err
	}
	for _, e := range names.top.sorted() {
		l.names = append(l.names, e.name)
	}
	l.more, l.state = names.top.more, strconv.FormatUint(names.sum, 36)
	l.found = make([]foundFile, min(len(l.names), g.limit))
	_, err = g.lookUp(l.names[:len(l.found)], l.found)
	return err
}

// maxListedNames returns how many names of a list are in memory for a page.
func maxListedNames(limit int) int { return max(limit, maxKeptNames) }

// nameCollector selects the names of one run.
type nameCollector struct {
	page *globPage
	top  topK
	sum  uint64
}

func (g *globPage) collector() *nameCollector {
	return &nameCollector{page: g, top: topK{after: string(g.cursor.After), limit: maxListedNames(g.limit)}}
}

// add adds a name if the page selects it.
func (c *nameCollector) add(name []byte) {
	if rel := string(name); c.page.selects(rel) {
		c.sum += nameSum(name)
		c.top.add(dirEntryName{key: rel, name: rel})
	}
}

// selects reports whether a name of git's is one of a file that the filter selects,
// not of a nested repository.
func (g *globPage) selects(rel string) bool {
	return !strings.HasSuffix(rel, "/") && safeRel(rel) && g.filter.file(rel) && !(g.denies && g.access.covers(filepath.Join(g.abs, rel)))
}

func nameSum(name []byte) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write(name) // a hash never fails
	return hash.Sum64()
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
		g.rules, _ = g.rules.add("", string(text))
	}
	return g.walk(true)
}
