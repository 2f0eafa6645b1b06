package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// treeWalkers is how many goroutines walk one work tree.
	treeWalkers = 4
	// maxTreeWalk bounds the depth of a walk, whose goroutines hold each directory
	// on the way open.
	maxTreeWalk = maxStatDirs
	// maxNewNames bounds the names of one directory that are in memory: those of
	// directories, and of files that are not in the index.
	maxNewNames = 64 << 10
)

// errAskGit is returned for a work tree of which only git knows what it ignores.
var errAskGit = errors.New("git must list the files")

// treeWalk lists a work tree as git ls-files does, and looks the files up on its way:
// git would read the same directories for half of the time that the whole takes. What
// is rare is left to git: other kinds of index, rules that are not in an ordinary file,
// an unusual repository inside that is not in the index.
type treeWalk struct {
	page   *globPage
	prefix string // of the walk's start in the work tree: "", or with a slash at the end

	index []string        // every path in the index below the start, in order
	links map[string]bool // those of submodules
	at    []int32         // the position of each in names, or -1
	names []string        // those that the filter selects
	sum   uint64          // checksum of the names
	first int             // the names from there on come after the cursor
	found []foundFile     // of a page of them

	spare   chan struct{} // holds a token for each further goroutine
	walkers sync.WaitGroup
	stopped atomic.Bool

	mu      sync.Mutex
	others  *nameCollector // guarded by mu, not in the index
	err     error          // guarded by mu, the first one
	skipped int            // guarded by mu, directories that cannot be read
}

// readTree lists a work tree, or returns errAskGit.
func (g *globPage) readTree(f *fsService, v *gitView, l *nameList) error {
	r := v.repo
	below, inside := r.relative(g.at)
	// Other systems know a name by several spellings. A file of rules that is not
	// checked out is in the index.
	if runtime.GOOS != "linux" || !inside || r.config.isTrue("core", "ignorecase") || r.config.isTrue("core", "sparsecheckout") {
		return errAskGit
	}
	w := &treeWalk{page: g, prefix: below, others: g.collector(), links: map[string]bool{}, spare: make(chan struct{}, treeWalkers)}
	if below != "" {
		w.prefix += "/"
	}
	if !w.readIndex(v) {
		return errAskGit
	}
	w.first = sort.Search(len(w.names), func(n int) bool { return w.names[n] > l.after })
	w.found = make([]foundFile, min(len(w.names)-w.first, g.limit))
	rules, ignored, ok := w.rulesAbove(f, v)
	if !ok {
		return errAskGit
	}
	for range min(treeWalkers, runtime.GOMAXPROCS(0)) - 1 {
		w.spare <- struct{}{}
	}
	w.dir(g.start, g.self, "", 0, len(w.index), rules, ignored, 0)
	w.walkers.Wait()
	if w.err != nil {
		return w.err
	}
	return w.list(l)
}

// readIndex reads the paths of the index, and reports whether it could.
func (w *treeWalk) readIndex(v *gitView) bool {
	file := filepath.Join(v.dir, "index")
	switch info, err := os.Stat(file); {
	case errors.Is(err, fs.ErrNotExist):
		return true // before the first git add
	case err != nil, info.Size() > maxKeptIndex:
		return false
	}
	index, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	sorted, last := true, []byte(nil)
	whole := eachIndexEntry(index, v.repo.sha256, func(name, entry []byte) {
		order := bytes.Compare(last, name)
		sorted, last = sorted && order <= 0, name
		below, inside := bytes.CutPrefix(name, []byte(w.prefix))
		if !inside || order == 0 {
			return
		}
		rel, at := string(below), int32(-1)
		if indexMode(entry)>>12 == indexGitlink {
			w.links[rel] = true
		}
		if w.page.selects(rel) {
			at = int32(len(w.names))
			w.names, w.sum = append(w.names, rel), w.sum+nameSum(below)
		}
		w.index, w.at = append(w.index, rel), append(w.at, at)
	})
	return whole && sorted
}

// list sets the names of the list to those in the index and the others, and looks up
// those of the page that the walk did not.
func (w *treeWalk) list(l *nameList) error {
	tracked, others := w.names[w.first:], w.others.top.sorted()
	all, most := len(tracked)+len(others), maxListedNames(w.page.limit)
	l.more, l.skipped, l.state = all > most || w.others.top.more, w.skipped, strconv.FormatUint(w.sum+w.others.sum, 36)
	l.names = make([]string, min(all, most))
	l.found = make([]foundFile, min(all, w.page.limit))
	o := 0
	for n := range l.names {
		if t := n - o; o == len(others) || t < len(tracked) && tracked[t] < others[o].name {
			l.names[n] = tracked[t]
			if n < len(l.found) {
				l.found[n] = w.found[t]
			}
		} else {
			l.names[n] = others[o].name
			o++
		}
	}
	_, err := w.page.lookUp(l.names[:len(l.found)], l.found)
	return err
}

// fail ends the walk with an error.
func (w *treeWalk) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.stopped.Store(true)
}

func (w *treeWalk) skip() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.skipped++
}

// nested returns errEnough if the directory d has a repository in .git: git lists none
// of its files. What is unusual there is left to git.
func (w *treeWalk) nested(d *dirHandle, self entryInfo) error {
	dir, _, err := d.child(".git", self)
	if err != nil || dir == nil {
		return errAskGit
	}
	defer dir.close()
	for _, name := range []string{"objects", "refs"} {
		if info, err := dir.lstat(name); err != nil || !info.mode.IsDir() {
			return errAskGit
		}
	}
	head, err := dir.openFile("HEAD")
	if err != nil {
		return errAskGit
	}
	defer head.Close() // only read
	const branch = "ref: refs/heads/"
	text := make([]byte, len(branch))
	if _, err = io.ReadFull(head, text); err != nil || string(text) != branch {
		return errAskGit
	}
	return errEnough
}

// newName is an entry of a directory that the rules decide about.
type newName struct {
	name string
	dir  bool
}

// dir walks the directory d, which self describes. Its path rel is empty or ends with
// a slash. The index has the entries lo to hi in it. Of an ignored directory, those
// are listed alone.
func (w *treeWalk) dir(d *dirHandle, self entryInfo, rel string, lo, hi int, rules *ignoreRules, ignored bool, depth int) {
	var fresh []newName
	hasRules := false
	err := d.read(func(name string, typ fs.FileMode) error {
		if w.page.tick() != nil || w.stopped.Load() {
			return errEnough
		}
		if name == ".git" {
			if rel == "" || lo < hi {
				return nil
			}
			return w.nested(d, self)
		}
		if hasSecretName(name) {
			return nil
		}
		typ = d.typeOf(name, typ)
		hasRules = hasRules || name == ".gitignore"
		if !typ.IsDir() {
			if n := w.find(lo, hi, rel, name); n < hi && w.index[n][len(rel):] == name {
				w.look(d, n, name)
				return nil
			}
			if ignored || !typ.IsRegular() || !w.page.filter.file(rel+name) {
				return nil
			}
		}
		if len(fresh) == maxNewNames {
			return errAskGit
		}
		fresh = append(fresh, newName{name, typ.IsDir()})
		return nil
	})
	if hasRules && err == nil && !ignored && len(fresh) > 0 {
		if rules, hasRules = rules.below(d, w.prefix+rel); !hasRules {
			err = errAskGit
		}
	}
	switch {
	case w.page.ctx.Err() != nil:
		w.fail(context.Cause(w.page.ctx))
		return
	case errors.Is(err, errEnough):
		return
	case errors.Is(err, errAskGit):
		w.fail(err)
		return
	case err != nil:
		w.skip()
	}
	for _, e := range fresh {
		if w.stopped.Load() {
			return
		}
		if !e.dir {
			if full := w.prefix + rel + e.name; !rules.ignored(full, false) {
				w.mu.Lock()
				w.others.add([]byte(rel + e.name))
				w.mu.Unlock()
			}
			continue
		}
		w.enter(d, self, rel, e.name, lo, hi, rules, ignored, depth)
	}
}

// enter walks the directory called name in d, unless git would not enter it.
func (w *treeWalk) enter(d *dirHandle, self entryInfo, rel, name string, lo, hi int, rules *ignoreRules, ignored bool, depth int) {
	first := w.find(lo, hi, rel, name+"/")
	last := w.find(first, hi, rel, name+"0") // which follows a slash
	below := rel + name
	ignored = ignored || rules.ignored(w.prefix+below, true)
	switch {
	case first == last && (ignored || w.links[below]), !w.page.filter.dir(below):
		return
	case depth == maxTreeWalk:
		w.fail(errAskGit)
		return
	}
	sub, info, err := d.child(name, self)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.skip()
		}
		return
	}
	if sub == nil || w.page.hidesDir(below, info.id) {
		if sub != nil {
			sub.close()
		}
		return
	}
	walk := func() {
		w.dir(sub, info, below+"/", first, last, rules, ignored, depth+1)
		sub.close()
	}
	select {
	case <-w.spare:
		w.walkers.Go(func() { // ends with the directory; readTree waits for it
			walk()
			w.spare <- struct{}{}
		})
	default:
		walk()
	}
}

// find returns the first entry of the index from lo to hi whose path below the
// directory rel is not before the given one.
func (w *treeWalk) find(lo, hi int, rel, below string) int {
	return lo + sort.Search(hi-lo, func(n int) bool { return w.index[lo+n][len(rel):] >= below })
}

// look looks the entry n of the index up in the directory d.
func (w *treeWalk) look(d *dirHandle, n int, name string) {
	at := int(w.at[n]) - w.first
	if w.at[n] < 0 || at < 0 || at >= len(w.found) {
		return
	}
	info, err := d.lstat(name)
	w.page.describe(&w.found[at], w.index[n], info, err)
}

// rulesAbove returns the rules of the repository and of the directories above the
// start, and whether they ignore the start.
func (w *treeWalk) rulesAbove(f *fsService, v *gitView) (rules *ignoreRules, ignored, ok bool) {
	rules, ok = rules.add("", v.kept.files["info/exclude"])
	var above []resolvedPath
	for dir := w.page.at; ok && dir.abs != v.repo.work.abs; {
		dir, ok = parentOf(f.access, dir)
		above = append(above, dir)
	}
	base, rest := "", w.prefix
	for n := len(above) - 1; n >= 0 && ok && !ignored; n-- {
		d, err := f.access.openDir(above[n])
		if err != nil {
			return nil, false, false
		}
		rules, ok = rules.below(d, base)
		d.close()
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		ignored = rules.ignored(base+name, true)
		base += name + "/"
	}
	return rules, ignored, ok
}
