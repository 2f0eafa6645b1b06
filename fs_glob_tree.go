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
// is rare is left to git: other kinds of index, a repository inside that is not in the
// index, rules that are not in an ordinary file.
type treeWalk struct {
	ctx    context.Context
	page   *globPage
	prefix string // of the walk's start in the work tree: "", or with a slash at the end

	index []string        // every path in the index below the start, in order
	links map[string]bool // those of submodules
	at    []int32         // the position of each in names, or -1
	names []string        // those that the filter selects
	sum   uint64          // checksum of the names
	found []foundFile     // of the names from first on, a page
	seen  []bool          // those that were found
	first int

	spare   chan struct{} // holds a token for each further goroutine
	walkers sync.WaitGroup
	stopped atomic.Bool

	mu      sync.Mutex
	others  *nameCollector // guarded by mu, not in the index
	err     error          // guarded by mu, the first one
	skipped int            // guarded by mu, directories that cannot be read
}

// readTree returns the tracked and the other names of a work tree, or errAskGit.
func (g *globPage) readTree(f *fsService, v *gitView) (tracked, others gitNames, skipped int, err error) {
	r := v.repo
	below, inside := r.relative(g.at)
	// Other systems know a name by several spellings. A file of rules that is not
	// checked out is in the index.
	if runtime.GOOS != "linux" || !inside || r.config.isTrue("core", "ignorecase") || r.config.isTrue("core", "sparsecheckout") {
		return tracked, others, 0, errAskGit
	}
	w := &treeWalk{ctx: g.ctx, page: g, prefix: below, others: g.collector(), links: map[string]bool{}, spare: make(chan struct{}, treeWalkers)}
	if below != "" {
		w.prefix += "/"
	}
	if !w.readIndex(v) {
		return tracked, others, 0, errAskGit
	}
	after := string(g.cursor.After)
	w.first = sort.Search(len(w.names), func(n int) bool { return w.names[n] > after })
	w.found = make([]foundFile, min(len(w.names)-w.first, g.limit))
	w.seen = make([]bool, len(w.found))
	rules, ignored, err := w.rulesAbove(f, v)
	if err != nil {
		return tracked, others, 0, err
	}
	for range min(treeWalkers, runtime.GOMAXPROCS(0)) - 1 {
		w.spare <- struct{}{}
	}
	w.dir(g.start, g.self, "", 0, len(w.index), rules, ignored, 0)
	w.walkers.Wait()
	if w.err != nil {
		return tracked, others, 0, w.err
	}
	if tracked, err = w.tracked(); err != nil {
		return tracked, others, 0, err
	}
	others, err = w.others.list(g.ctx)
	return tracked, others, w.skipped, err
}

// readIndex reads the paths of the index, and reports whether it could.
func (w *treeWalk) readIndex(v *gitView) bool {
	const gitlink = 0o160000
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
	whole := eachIndexEntry(index, v.repo.sha256, func(name []byte, mode uint32) {
		order := bytes.Compare(last, name)
		sorted, last = sorted && order <= 0, name
		below, inside := bytes.CutPrefix(name, []byte(w.prefix))
		if !inside || order == 0 {
			return
		}
		rel, at := string(below), int32(-1)
		if mode == gitlink {
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

// tracked returns the names in the index. It looks up those that the walk did not meet.
func (w *treeWalk) tracked() (list gitNames, err error) {
	var missing []string
	var places []int
	for n, seen := range w.seen {
		if !seen {
			missing, places = append(missing, w.names[w.first+n]), append(places, n)
		}
	}
	found, _, err := w.page.lookUp(w.ctx, missing)
	for n, place := range places {
		if err == nil {
			w.found[place] = found[n]
		}
	}
	names := w.names[w.first:]
	most := min(len(names), maxListedNames(w.page.limit))
	return gitNames{names: names[:most], found: w.found, more: most < len(names), sum: w.sum}, err
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
			if rel != "" && lo == hi {
				return errAskGit // possibly a repository, whose files git does not list
			}
			return nil
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
		rules, err = addRules(rules, d, w.prefix+rel)
	}
	switch {
	case w.ctx.Err() != nil:
		w.fail(context.Cause(w.ctx))
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
	switch {
	case err == nil:
		w.found[at].file = w.page.fileOf(w.index[n], info)
	case !errors.Is(err, fs.ErrNotExist):
		w.found[at].skipped = true
	}
	w.seen[at] = true
}

// rulesAbove returns the rules of the repository and of the directories above the
// start, and whether they ignore the start.
func (w *treeWalk) rulesAbove(f *fsService, v *gitView) (rules *ignoreRules, ignored bool, err error) {
	rules, ok := addText(nil, "", v.kept.files["info/exclude"])
	if !ok {
		return nil, false, errAskGit
	}
	var above []resolvedPath
	for dir := w.page.at; dir.abs != v.repo.work.abs; {
		if dir, ok = parentOf(f.access, dir); !ok {
			return nil, false, errAskGit
		}
		above = append(above, dir)
	}
	base, rest := "", w.prefix
	for n := len(above) - 1; n >= 0; n-- {
		d, err := f.access.openDir(above[n])
		if err != nil {
			return nil, false, errAskGit
		}
		rules, err = addRules(rules, d, base)
		d.close()
		if err != nil {
			return nil, false, err
		}
		name, after, _ := strings.Cut(rest, "/")
		if rules.ignored(base+name, true) {
			return rules, true, nil
		}
		base, rest = base+name+"/", after
	}
	return rules, false, nil
}

// addRules adds the .gitignore of the directory d, whose path is base, if there is one.
func addRules(rules *ignoreRules, d *dirHandle, base string) (*ignoreRules, error) {
	file, err := d.openFile(".gitignore")
	if errors.Is(err, fs.ErrNotExist) {
		return rules, nil
	}
	if err != nil {
		return nil, errAskGit
	}
	defer file.Close() // only read
	text, err := io.ReadAll(io.LimitReader(file, maxIgnoreFile+1))
	rules, ok := addText(rules, base, string(text))
	if err != nil || len(text) > maxIgnoreFile || !ok {
		return nil, errAskGit
	}
	return rules, nil
}

// addText adds the rules in text, and reports whether these are all: one can be too
// long.
func addText(rules *ignoreRules, base, text string) (*ignoreRules, bool) {
	for line := range strings.Lines(text) {
		if len(line) > maxGlobLength {
			return nil, false
		}
	}
	return &ignoreRules{parent: rules, base: base, rules: parseIgnore(text)}, true
}
