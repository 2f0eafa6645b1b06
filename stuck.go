package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A file system that does not answer, such as a dead network mount, blocks a
// system call for as long as it likes, and nothing can interrupt the call. The
// caller is answered at its time limit all the same. The work that is blocked
// keeps a place of its allowed directory until the file system returns.

const (
	// maxStuck bounds the work in one allowed directory that is stuck, or that
	// could get stuck at its next step: each blocks a thread of the process.
	maxStuck = 16
	// maxWalks bounds the walks of one allowed directory that run at once. A
	// walk can reach another file system at any step, so it keeps its place
	// until its end. The other places are for requests that only have to open
	// one file.
	maxWalks = maxStuck / 2
	// stallTime is how long a request may show no progress before it gives its
	// place among the running requests to another one.
	stallTime = 100 * time.Millisecond
	// stopTime is how long canceled work may take to return: it checks its
	// context between two system calls.
	stopTime = 200 * time.Millisecond
	// processStopTime is the same for work that has to end a process first:
	// SIGTERM, SIGKILL, and pipes that a descendant holds open.
	processStopTime = gitStopGrace + pipeDelay + stopTime
	// cloneStopTime is the same for a clone, which also has to delete its files.
	cloneStopTime = 10 * time.Second
)

// dirPlaces are the places for requests in one allowed directory.
type dirPlaces struct {
	walks chan struct{} // holds one element for each running walk

	mu      sync.Mutex  // guards the fields below
	used    int         // more than maxStuck when work got stuck that had no place
	stuck   int         // how many of them are stuck: their requests are answered
	waiting []chan bool // true grants a place, false says that all are stuck
}

func newDirPlaces() *dirPlaces { return &dirPlaces{walks: make(chan struct{}, maxWalks)} }

// tryEnter takes a place if one is free.
func (p *dirPlaces) tryEnter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used >= maxStuck || len(p.waiting) > 0 {
		return false
	}
	p.used++
	return true
}

// enter takes a place. If none is free it calls blocked and waits for one until
// ctx ends. It returns false if the places are taken by stuck work.
func (p *dirPlaces) enter(ctx context.Context, blocked func()) (entered bool, err error) {
	p.mu.Lock()
	if p.stuck >= maxStuck {
		p.mu.Unlock()
		return false, nil
	}
	if p.used < maxStuck && len(p.waiting) == 0 {
		p.used++
		p.mu.Unlock()
		return true, nil
	}
	place := make(chan bool, 1)
	p.waiting = append(p.waiting, place)
	p.mu.Unlock()
	blocked()
	select {
	case entered := <-place:
		return entered, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.waiting, place)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 && <-place {
		p.leave()
	}
	return false, context.Cause(ctx)
}

// leave gives a place back.
func (p *dirPlaces) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
	for len(p.waiting) > 0 && p.used < maxStuck {
		p.used++
		p.waiting[0] <- true
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// strand counts the work of one place as stuck; without a place it takes one.
func (p *dirPlaces) strand(hasPlace bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !hasPlace {
		p.used++
	}
	p.stuck++
	if p.stuck < maxStuck {
		return
	}
	for _, place := range p.waiting {
		place <- false
	}
	p.waiting = nil
}

// recover ends strand: the file system has answered.
func (p *dirPlaces) recover() {
	p.mu.Lock()
	p.stuck--
	p.mu.Unlock()
	p.leave()
}

func (p *dirPlaces) stuckWork() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stuck
}

// stuckDir is an allowed directory with work that its file system blocks.
type stuckDir struct {
	Path  string `json:"path" doc:"the allowed directory"`
	Count int    `json:"count" doc:"number of blocked calls; 16 are the most, further requests get SERVER_BUSY"`
}

// stuck returns the directories with stuck work.
func (a *access) stuck() []stuckDir {
	dirs := []stuckDir{}
	for _, r := range a.roots {
		if n := r.places.stuckWork(); n > 0 {
			dirs = append(dirs, stuckDir{Path: showName(r.name()), Count: n})
		}
	}
	return dirs
}

// work is the run of one method: where it reads, and whether it goes on.
type work struct {
	walks bool   // it keeps its place until it ends
	yield func() // gives the place among the running requests back; nil if there is none

	beats     atomic.Int64 // signs of progress
	processes atomic.Int32 // processes that run for it

	mu      sync.Mutex // guards the fields below
	dir     *root      // the allowed directory that it reads, nil if unknown
	placed  bool       // it has a place of dir
	walking bool       // and one of dir's walks
	yielded bool       // it has called yield
	gone    bool       // its request was answered without it
	ended   bool
}

// workKey is the context's key of a *work.
type workKey struct{}

func workOf(ctx context.Context) *work {
	w, _ := ctx.Value(workKey{}).(*work)
	return w
}

// beat tells that the work of ctx goes on: a file system has answered.
func beat(ctx context.Context) {
	if w := workOf(ctx); w != nil {
		w.beats.Add(1)
	}
}

// opened tells that the file or directory that a request names could be opened:
// its file system is alive. The work gives its place of the directory to
// another request. A walk exchanges it for one of a walk.
func opened(ctx context.Context) error {
	w := workOf(ctx)
	if w == nil {
		return nil
	}
	w.beats.Add(1)
	w.mu.Lock()
	switch {
	case w.gone:
		w.mu.Unlock()
		return context.Cause(ctx)
	case w.walking || !w.walks && w.yielded: // it has no other place any more
		w.mu.Unlock()
		return nil
	}
	dir := w.dir
	w.leaveLocked()
	w.mu.Unlock()
	if dir == nil || !w.walks {
		return nil
	}
	select {
	case dir.places.walks <- struct{}{}:
	default:
		w.giveWay()
		select {
		case dir.places.walks <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	w.mu.Lock()
	w.walking = true
	w.mu.Unlock()
	return w.enter(ctx, dir)
}

// processRuns records that a process runs for the work of ctx, until ended is
// called.
func processRuns(ctx context.Context) (ended func()) {
	w := workOf(ctx)
	if w == nil {
		return func() {}
	}
	if !w.walks {
		_ = opened(ctx) // only a walk waits
	}
	w.processes.Add(1)
	return func() { w.processes.Add(-1) }
}

// readIn takes a place of the allowed directory r, which the work of ctx reads
// from now on. The error is SERVER_BUSY if all places are taken by stuck work.
func readIn(ctx context.Context, r *root) error {
	w := workOf(ctx)
	if w == nil || r == nil {
		return nil
	}
	w.mu.Lock()
	if w.gone || w.dir == r && w.placed {
		w.mu.Unlock()
		return nil
	}
	w.leaveLocked()
	w.dir = r
	w.mu.Unlock()
	return w.enter(ctx, r)
}

func (w *work) enter(ctx context.Context, r *root) error {
	entered, err := r.places.enter(ctx, w.giveWay)
	if err != nil {
		return err
	}
	if !entered {
		return failure(codeServerBusy, "%s: %d requests are stuck because its file system does not answer: try again when it does", showName(r.name()), maxStuck).
			with("retry_after_ms", busyRetryAfter.Milliseconds())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone { // counted as stuck without this place
		r.places.leave()
		return context.Cause(ctx)
	}
	w.placed = true
	return nil
}

func (w *work) leaveLocked() {
	if w.walking {
		<-w.dir.places.walks
		w.walking = false
	}
	if w.placed {
		w.dir.places.leave()
		w.placed = false
	}
}

// giveWay gives the place among the running requests back.
func (w *work) giveWay() {
	w.mu.Lock()
	first := !w.yielded
	w.yielded = true
	w.mu.Unlock()
	if first && w.yield != nil {
		w.yield()
	}
}

// stalled is called when there was no progress for stallTime. The work gives
// way to other requests if it has a place of its directory, or gets one.
func (w *work) stalled() {
	w.mu.Lock()
	if !w.placed && w.dir != nil {
		w.placed = w.dir.places.tryEnter()
	}
	placed := w.placed
	w.mu.Unlock()
	if placed {
		w.giveWay()
	}
}

// abandon counts the work as stuck. It returns false if the work has ended.
func (w *work) abandon() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.gone = true
	if w.dir != nil {
		w.dir.places.strand(w.placed)
	}
	return true
}

// end gives all places back.
func (w *work) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.gone && w.dir != nil {
		w.dir.places.recover()
		w.placed = false
	}
	w.leaveLocked()
}

// runWork calls a method and returns its result, or the cause of ctx when ctx
// has ended and the method does not return within the time that it needs to
// stop what it started. The method then goes on by itself; its result is lost.
func runWork(ctx context.Context, w *work, stopLimit time.Duration, call func(context.Context) (any, error)) (any, error) {
	ctx = context.WithValue(ctx, workKey{}, w)
	done := make(chan *outcome, 1)
	// Ends when the call returns. No one waits for it if a file system blocks
	// it: it ends with the process at the latest.
	go func() {
		growStack()
		o := &outcome{}
		func() {
			defer recoverAs(&o.err)
			o.result, o.err = call(ctx)
		}()
		w.end()
		done <- o
	}()
	check := time.NewTimer(stallTime)
	defer check.Stop()
	for seen := int64(0); ; {
		select {
		case o := <-done:
			return o.result, o.err
		case <-check.C:
			if beats := w.beats.Load(); beats != seen || w.processes.Load() > 0 {
				seen = beats
			} else {
				w.stalled()
			}
			check.Reset(stallTime)
		case <-ctx.Done():
			if o := w.awaitStop(done, stopLimit); o != nil {
				return o.result, o.err
			}
			return nil, context.Cause(ctx)
		}
	}
}

// awaitStop waits for the end of canceled work: for stopTime, and up to limit
// while a process is being ended for it. It returns nil if the work is stuck.
func (w *work) awaitStop(done <-chan *outcome, limit time.Duration) *outcome {
	end := time.NewTimer(limit)
	defer end.Stop()
	step := time.NewTicker(stopTime)
	defer step.Stop()
	for {
		select {
		case o := <-done:
			return o
		case <-end.C:
		case <-step.C:
			if w.processes.Load() > 0 || limit > processStopTime {
				continue
			}
		}
		if w.abandon() {
			return nil
		}
		return <-done
	}
}

// awaitWorkDir returns when the file system of the work dir has answered.
func (a *access) awaitWorkDir(ctx context.Context) error {
	r := a.rootOf(".")
	if r == nil {
		return nil
	}
	if err := readIn(ctx, r); err != nil {
		return err
	}
	_, _ = r.dir.Stat(".") // any answer will do
	return opened(ctx)
}

// dirOf returns the allowed directory that a request reads, as far as its
// params name one path, without looking at any file. It returns nil if they do
// not.
func (a *access) dirOf(params json.RawMessage) *root {
	var p struct {
		Path       json.RawMessage `json:"path"`
		PathBase64 json.RawMessage `json:"path_base64"`
	}
	if decodeParams(params, &p) != nil {
		return nil // the method says what is wrong
	}
	var at pathParam
	_ = decodeJSON(p.Path, &at.Path)
	_ = decodeJSON(p.PathBase64, &at.PathBase64)
	path, err := at.text("path")
	if err != nil {
		return nil
	}
	return a.rootOf(path)
}

// rootOf returns the allowed directory that contains path by its text, or nil.
func (a *access) rootOf(path string) *root {
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.workDir, path)
	}
	r, _ := a.find(filepath.Clean(path))
	return r
}
