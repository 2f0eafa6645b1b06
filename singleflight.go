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
func (f *flightGroup) do(ctx context.Context, key, fingerprint string, run func(context.Context) (any, error)) (any, error) {
	me := &flightWaiter{ctx: ctx}
	for {
		fl, joined, err := f.join(me, key, fingerprint, run)
		if err != nil {
			return nil, err
		}
		select {
		case <-fl.done:
			if joined {
				return fl.value, fl.err
			}
			continue // it was being cleared away; the next one finds the place clean
		case <-ctx.Done():
		}
		cause := context.Cause(ctx)
		if joined && f.leave(fl, me, cause) {
			<-fl.done
		}
		return nil, cause
	}
}

// join joins the flight of key, or starts it. One that is stopping is
// returned unjoined.
func (f *flightGroup) join(me *flightWaiter, key, fingerprint string, run func(context.Context) (any, error)) (fl *flightCall, joined bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked(time.Now())
	fl, ok := f.byKey[key]
	switch {
	case ok && fl.fingerprint != fingerprint:
		return nil, false, errKeyConflict
	case ok && fl.stopping:
		return fl, false, nil
	case ok:
		if fl.reported {
			reportProgress(me.ctx, fl.last)
		}
	default:
		ctx, cancel := context.WithCancelCause(f.base)
		fl = &flightCall{key: key, fingerprint: fingerprint, cancel: cancel, done: make(chan struct{}), waiters: map[*flightWaiter]struct{}{}}
		f.byKey[key] = fl
		// Ends when run returns; wait waits for it.
		f.wg.Go(func() { f.exec(withProgress(ctx, func(p progress) { f.report(fl, p) }), fl, run) })
	}
	fl.waiters[me] = struct{}{}
	return fl, true, nil
}

// exec runs the work and files its outcome.
func (f *flightGroup) exec(ctx context.Context, fl *flightCall, run func(context.Context) (any, error)) {
	defer fl.cancel(nil)
	if f.ended != nil {
		defer f.ended()
	}
	func() {
		defer recoverAs(&fl.err)
		fl.value, fl.err = run(ctx)
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	defer close(fl.done) // under the lock: who sees it sees the key free
	size := 0
	if value, ok := fl.value.(interface{ size() int }); ok {
		size = value.size()
	}
	if f.keep == 0 || fl.stopping || fl.err != nil || size > f.maxKept {
		delete(f.byKey, fl.key)
		return
	}
	fl.size, fl.ended = size, time.Now()
	f.kept = append(f.kept, fl)
	f.keptLen += size
	f.forgetLocked(fl.ended)
	// Not waited for: it only lets go of memory.
	time.AfterFunc(f.keep, f.forget)
}

// forget drops what is remembered for too long.
func (f *flightGroup) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked(time.Now())
}

// forgetLocked drops remembered outcomes that are too old or too much.
func (f *flightGroup) forgetLocked(now time.Time) {
	for len(f.kept) > 0 && (now.Sub(f.kept[0].ended) >= f.keep || f.keptLen > f.maxKept) {
		old := f.kept[0]
		f.kept[0] = nil // the array behind the slice lets its outcome go
		f.kept = f.kept[1:]
		f.keptLen -= old.size
		delete(f.byKey, old.key)
	}
}

// report hands progress to all who wait.
func (f *flightGroup) report(fl *flightCall, p progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.last, fl.reported = p, true
	for a := range fl.waiters {
		reportProgress(a.ctx, p)
	}
}

// leave takes an asker off; it tells whether the flight stops for it.
func (f *flightGroup) leave(fl *flightCall, me *flightWaiter, cause error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(fl.waiters, me)
	if len(fl.waiters) > 0 || errors.Is(cause, errLinkLost) {
		return false
	}
	fl.stopping = true
	fl.cancel(cause)
	return true
}

// running counts the calls under way.
func (f *flightGroup) running() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.byKey) - len(f.kept)
}

// wait returns when no run is left. Nothing may board any more.
func (f *flightGroup) wait() { f.wg.Wait() }
