package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errKeyConflict tells that the key is in use for something else.
var errKeyConflict = errors.New("the key is in use for something else")

// flightGroup runs work at most once for each key at a time, however many ask:
// later askers join, all get the same outcome and the progress. Work ends early
// only when its last asker leaves on purpose; an asker whose link died
// (errLinkLost) leaves it running.
type flightGroup struct {
	base    context.Context // the daemon's: ends all runs
	keep    time.Duration   // how long an outcome is remembered, 0 not at all
	maxKept int             // bytes of remembered outcomes
	ended   func()          // called at the end of each run, unless nil

	wg sync.WaitGroup // the running ones

	mu      sync.Mutex
	byKey   map[string]*flightCall
	kept    []*flightCall // ended and remembered, oldest first
	keptLen int           // bytes of them
}

// flightCall is one run and who waits for it.
type flightCall struct {
	key         string
	fingerprint string // what was asked, to tell it from another use of the key

	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the run has ended and cleared away

	// Guarded by flightGroup.mu.
	waiters  map[*flightWaiter]struct{}
	stopping bool // its last asker left: nobody joins any more
	last     progress
	reported bool

	// Written before done is closed.
	value any
	err   error
	size  int
	ended time.Time
}

// flightWaiter is one caller that waits for a flight.
type flightWaiter struct{ ctx context.Context }

func newFlightGroup(base context.Context, keep time.Duration, maxKept int) *flightGroup {
	return &flightGroup{base: base, keep: keep, maxKept: maxKept, byKey: map[string]*flightCall{}}
}

// do returns the outcome of run, which is called unless a flight of the same
// key is under way or remembered; a fingerprint other than its own is errKeyConflict.
// run gets a context of the daemon, not of the caller; its progress goes to
// every asker. When ctx ends first and nobody else waits, do returns after run
// has stopped.
func (g *flightGroup) do(ctx context.Context, key, fingerprint string, run func(context.Context) (any, error)) (any, error) {
	w := &flightWaiter{ctx: ctx}
	for {
		call, joined, err := g.join(w, key, fingerprint, run)
		if err != nil {
			return nil, err
		}
		select {
		case <-call.done:
			if joined {
				return call.value, call.err
			}
			continue // it was being cleared away; the next one finds the place clean
		case <-ctx.Done():
		}
		cause := context.Cause(ctx)
		if joined && g.leave(call, w, cause) {
			<-call.done
		}
		return nil, cause
	}
}

// join joins the flight of key, or starts it. One that is stopping is
// returned unjoined.
func (g *flightGroup) join(w *flightWaiter, key, fingerprint string, run func(context.Context) (any, error)) (call *flightCall, joined bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetLocked(time.Now())
	call, ok := g.byKey[key]
	switch {
	case ok && call.fingerprint != fingerprint:
		return nil, false, errKeyConflict
	case ok && call.stopping:
		return call, false, nil
	case ok:
		if call.reported {
			reportProgress(w.ctx, call.last)
		}
	default:
		ctx, cancel := context.WithCancelCause(g.base)
		call = &flightCall{key: key, fingerprint: fingerprint, cancel: cancel, done: make(chan struct{}), waiters: map[*flightWaiter]struct{}{}}
		g.byKey[key] = call
		// Ends when run returns; wait waits for it.
		g.wg.Go(func() { g.exec(withProgress(ctx, func(p progress) { g.report(call, p) }), call, run) })
	}
	call.waiters[w] = struct{}{}
	return call, true, nil
}

// exec runs the work and files its outcome.
func (g *flightGroup) exec(ctx context.Context, call *flightCall, run func(context.Context) (any, error)) {
	defer call.cancel(nil)
	if g.ended != nil {
		defer g.ended()
	}
	func() {
		defer recoverAs(&call.err)
		call.value, call.err = run(ctx)
	}()
	g.mu.Lock()
	defer g.mu.Unlock()
	defer close(call.done) // under the lock: who sees it sees the key free
	size := 0
	if value, ok := call.value.(interface{ size() int }); ok {
		size = value.size()
	}
	if g.keep == 0 || call.stopping || call.err != nil || size > g.maxKept {
		delete(g.byKey, call.key)
		return
	}
	call.size, call.ended = size, time.Now()
	g.kept = append(g.kept, call)
	g.keptLen += size
	g.forgetLocked(call.ended)
	// Not waited for: it only lets go of memory.
	time.AfterFunc(g.keep, g.forget)
}

// forget drops what is remembered for too long.
func (g *flightGroup) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetLocked(time.Now())
}

// forgetLocked drops remembered outcomes that are too old or too much.
func (g *flightGroup) forgetLocked(now time.Time) {
	for len(g.kept) > 0 && (now.Sub(g.kept[0].ended) >= g.keep || g.keptLen > g.maxKept) {
		old := g.kept[0]
		g.kept[0] = nil // the array behind the slice lets its outcome go
		g.kept = g.kept[1:]
		g.keptLen -= old.size
		delete(g.byKey, old.key)
	}
}

// report hands progress to all who wait.
func (g *flightGroup) report(call *flightCall, p progress) {
	g.mu.Lock()
	defer g.mu.Unlock()
	call.last, call.reported = p, true
	for w := range call.waiters {
		reportProgress(w.ctx, p)
	}
}

// leave takes an asker off; it tells whether the flight stops for it.
func (g *flightGroup) leave(call *flightCall, w *flightWaiter, cause error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(call.waiters, w)
	if len(call.waiters) > 0 || errors.Is(cause, errLinkLost) {
		return false
	}
	call.stopping = true
	call.cancel(cause)
	return true
}

// running counts the calls under way.
func (g *flightGroup) running() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.byKey) - len(g.kept)
}

// wait returns when no run is left. Nothing may board any more.
func (g *flightGroup) wait() { g.wg.Wait() }
