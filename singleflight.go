package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errFlightConflict tells that the key is in use for something else.
var errFlightConflict = errors.New("the key is in use for something else")

// flights runs work at most once for each key at a time, however many ask:
// later askers join, all get the same outcome and the progress. Work ends early
// only when its last asker leaves on purpose; an asker whose link died
// (errLinkLost) leaves it running.
type flights struct {
	base    context.Context // the daemon's: ends all runs
	keep    time.Duration   // how long an outcome is remembered, 0 not at all
	maxKept int             // bytes of remembered outcomes
	ended   func()          // called at the end of each run, unless nil

	wg sync.WaitGroup // the running ones

	mu      sync.Mutex
	byKey   map[string]*flight
	kept    []*flight // ended and remembered, oldest first
	keptLen int       // bytes of them
}

// flight is one run and who waits for it.
type flight struct {
	key   string
	print string // what was asked, to tell it from another use of the key

	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the run has ended and cleared away

	// Guarded by flights.mu.
	askers   map[*asker]struct{}
	stopping bool // its last asker left: nobody joins any more
	last     progress
	reported bool

	// Written before done is closed.
	value any
	err   error
	size  int
	ended time.Time
}

// asker is one caller that waits for a flight.
type asker struct{ ctx context.Context }

func newFlights(base context.Context, keep time.Duration, maxKept int) *flights {
	return &flights{base: base, keep: keep, maxKept: maxKept, byKey: map[string]*flight{}}
}

// do returns the outcome of run, which is called unless a flight of the same
// key is under way or remembered; a print other than its is errFlightConflict.
// run gets a context of the daemon, not of the caller; its progress goes to
// every asker. When ctx ends first and nobody else waits, do returns after run
// has stopped.
func (f *flights) do(ctx context.Context, key, print string, run func(context.Context) (any, error)) (any, error) {
	me := &asker{ctx: ctx}
	for {
		fl, joined, err := f.board(me, key, print, run)
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

// board joins the flight of key, or starts it. One that is stopping is
// returned unjoined.
func (f *flights) board(me *asker, key, print string, run func(context.Context) (any, error)) (fl *flight, joined bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked(time.Now())
	fl, ok := f.byKey[key]
	switch {
	case ok && fl.print != print:
		return nil, false, errFlightConflict
	case ok && fl.stopping:
		return fl, false, nil
	case ok:
		if fl.reported {
			reportProgress(me.ctx, fl.last)
		}
	default:
		ctx, cancel := context.WithCancelCause(f.base)
		fl = &flight{key: key, print: print, cancel: cancel, done: make(chan struct{}), askers: map[*asker]struct{}{}}
		f.byKey[key] = fl
		// Ends when run returns; wait waits for it.
		f.wg.Go(func() { f.fly(withProgress(ctx, func(p progress) { f.report(fl, p) }), fl, run) })
	}
	fl.askers[me] = struct{}{}
	return fl, true, nil
}

// fly runs the work and files its outcome.
func (f *flights) fly(ctx context.Context, fl *flight, run func(context.Context) (any, error)) {
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
func (f *flights) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked(time.Now())
}

// forgetLocked drops remembered outcomes that are too old or too much.
func (f *flights) forgetLocked(now time.Time) {
	for len(f.kept) > 0 && (now.Sub(f.kept[0].ended) >= f.keep || f.keptLen > f.maxKept) {
		old := f.kept[0]
		f.kept[0] = nil // the array behind the slice lets its outcome go
		f.kept = f.kept[1:]
		f.keptLen -= old.size
		delete(f.byKey, old.key)
	}
}

// report hands progress to all who wait.
func (f *flights) report(fl *flight, p progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.last, fl.reported = p, true
	for a := range fl.askers {
		reportProgress(a.ctx, p)
	}
}

// leave takes an asker off; it tells whether the flight stops for it.
func (f *flights) leave(fl *flight, me *asker, cause error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(fl.askers, me)
	if len(fl.askers) > 0 || errors.Is(cause, errLinkLost) {
		return false
	}
	fl.stopping = true
	fl.cancel(cause)
	return true
}

// running counts the flights under way.
func (f *flights) running() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.byKey) - len(f.kept)
}

// wait returns when no run is left. Nothing may board any more.
func (f *flights) wait() { f.wg.Wait() }
