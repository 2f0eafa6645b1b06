package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// maxKeptViews bounds the views that are kept while no request uses them, and the
	// repositories.
	maxKeptViews = 16
	// maxKeptView bounds the size of one, and maxKeptIndex that of its index, which is
	// not in memory: larger views are made for each request.
	maxKeptView  = 4 << 20
	maxKeptIndex = 16 << 20
	// viewIdle is how long views are kept after the last request: programs that
	// clean the directory of temporary files wait for longer.
	viewIdle = 5 * time.Minute
	// clockDifference is by how much the time of a change may differ from that of our
	// clock: FAT has times of two seconds.
	clockDifference = 2 * time.Second
)

// keptView is a temporary git directory that serves several requests.
type keptView struct {
	key   string            // place and kind of the repository
	files map[string]string // what was written, by name
	index fileFacts         // of the index that was copied
	temp  *tempDir
	users int // guarded by mu of its keptViews
	stale bool
	repo  *repository // guarded by mu: a kept one whose objectsView this is
}

// isWhole reports whether the directory of a kept view is still there.
func (v *keptView) isWhole() bool {
	_, err := os.Lstat(filepath.Join(v.temp.path, "HEAD"))
	return err == nil
}

// keptViews keeps repositories that were read, and their views, because making one
// takes as long as a short git command. A view is used again as long as each of its
// files would be written as it is, and the index is the file that was copied.
type keptViews struct {
	mu     sync.Mutex
	views  []*keptView // guarded by mu, most recently used last
	repos  []*keptRepo // guarded by mu, most recently used last
	timer  *time.Timer // guarded by mu, empties both
	closed bool        // guarded by mu
	logs   logStreams  // use views
}

// take returns a view that holds exactly these files and this index, which the caller
// gives back, or nil.
func (k *keptViews) take(key string, files map[string]string, index fileFacts) *keptView {
	return k.find(func(v *keptView) bool { return v.key == key && v.index.equal(index) && maps.Equal(v.files, files) })
}

// takeFor is take for the objectsView of a kept repository.
func (k *keptViews) takeFor(r *repository) *keptView {
	return k.find(func(v *keptView) bool { return v.repo == r })
}

// fit notes that takeFor can return the view.
func (k *keptViews) fit(v *gitView) {
	if v.view == objectsView && v.repo.seen == nil {
		k.mu.Lock()
		v.kept.repo = v.repo
		k.mu.Unlock()
	}
}

func (k *keptViews) find(which func(*keptView) bool) *keptView {
	v := k.use(which)
	if v != nil && !v.isWhole() {
		k.give(v)
		return nil
	}
	return v
}

// use counts a user of a view, which it returns, or nil.
func (k *keptViews) use(which func(*keptView) bool) *keptView {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := slices.IndexFunc(k.views, which)
	if at < 0 {
		return nil
	}
	v := k.views[at]
	k.views = append(slices.Delete(k.views, at, at+1), v)
	v.users++
	return v
}

// keep takes a new view over, in place of an older one of the same repository. The
// caller gives it back.
func (k *keptViews) keep(v *keptView) {
	size := 0
	for _, text := range v.files {
		size += len(text)
	}
	// An index that was written just now may be written again without another time.
	young := v.index.info != nil && time.Since(v.index.mtime) < clockDifference
	k.mu.Lock()
	v.users = 1
	var unused []*keptView
	if v.stale = k.closed || young || size > maxKeptView || v.index.size > maxKeptIndex; !v.stale {
		unused = k.dropLocked(func(old *keptView) bool { return old.key == v.key })
		k.views = append(k.views, v)
		for len(k.views) > maxKeptViews {
			unused = append(unused, k.dropLocked(func(old *keptView) bool { return old == k.views[0] })...)
		}
		k.restLocked()
	}
	k.mu.Unlock()
	removeViews(unused)
}

// restLocked has everything dropped when no request comes for viewIdle.
func (k *keptViews) restLocked() {
	if k.timer == nil {
		k.timer = time.AfterFunc(viewIdle, k.empty)
	}
	k.timer.Reset(viewIdle)
}

// give ends the use of a view.
func (k *keptViews) give(v *keptView) {
	k.mu.Lock()
	v.users--
	remove := v.stale && v.users == 0
	if k.timer != nil {
		k.timer.Reset(viewIdle)
	}
	k.mu.Unlock()
	if remove {
		v.temp.remove()
	}
}

// dropLocked forgets views, and returns those that nobody uses.
func (k *keptViews) dropLocked(which func(*keptView) bool) (unused []*keptView) {
	k.views = slices.DeleteFunc(k.views, func(v *keptView) bool {
		if !which(v) {
			return false
		}
		if v.stale = true; v.users == 0 {
			unused = append(unused, v)
		}
		return true
	})
	return unused
}

func (k *keptViews) empty() {
	k.mu.Lock()
	unused := k.dropLocked(func(*keptView) bool { return true })
	k.repos = nil
	k.mu.Unlock()
	removeViews(unused)
}

// close ends what uses views between requests, and removes all views. Those that are
// still in use are removed by their last user.
func (k *keptViews) close() {
	k.logs.close()
	k.mu.Lock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
	}
	k.mu.Unlock()
	k.empty()
}

func removeViews(views []*keptView) {
	for _, v := range views {
		v.temp.remove()
	}
}
