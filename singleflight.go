package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errKeyConflict is returned for a key that is in use with another fingerprint.
var errKeyConflict = errors.New("the key is in use for another request")

// flightGroup runs work at most once per key at a time. Callers with the same
// key join the running call and get the same result and its progress. A call is
// canceled only when its last waiter leaves on purpose. A waiter whose link
// failed (errLinkLost) leaves it running, so that the caller can reconnect and
// join it again.
type flightGroup struct {
	base    context.Context // the daemon's context; its end cancels all calls
	keep    time.Duration   // how long a result is kept, 0 for not at all
	maxKept int             // largest total size of kept results in bytes
	ended   func()          // called at the end of each call, unless nil

	wg sync.WaitGroup // the running calls

	mu      sync.Mutex
	byKey   map[string]*flightCall
	kept    []*flightCall // completed and kept, oldest first
	keptLen int           // their total size in bytes, each with keptOverhead
	oldest  *time.Timer   // fires when the oldest of them is too old; nil before the first is kept
}

// keptOverhead is added to the size of a kept result, for the call, its
// entries in byKey and kept, and a key of up to maxTaskID bytes.
const keptOverhead = 1 << 10

// flightCall is one run of the work and its waiters.
//
// A kept one holds the result and nothing of the requests that it came from.
type flightCall struct {
	key         string
	fingerprint string // identifies the request, to detect another use of the key

	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the run has ended and is removed

	// Guarded by flightGroup.mu.
	waiters  map[*flightWaiter]struct{} // nil after the run has ended
	stopping bool                       // the last waiter left: no caller may join
	last     progress
	reported bool

	// Written before done is closed.
	value any
	err   error
	size  int
	ended time.Time
}

// flightWaiter is one caller that waits for a flightCall.
type flightWaiter struct{ ctx context.Context }

func newFlightGroup(base context.Context, keep time.Duration, maxKept int) *flightGroup {
	return &flightGroup{base: base, keep: keep, maxKept: maxKept, byKey: map[string]*flightCall{}}
}

// do returns the result of run. It joins the running call of the key, or uses
// its kept result, and otherwise calls run. It returns errKeyConflict if that
// call has another fingerprint. run gets the daemon's context, not that of the
// caller, and its progress goes to every waiter. If ctx ends and no other
// caller waits, do returns only after run has stopped, so that nothing of it is
// left.
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
			continue // the call was being canceled; start a new one
		case <-ctx.Done():
		}
		cause := context.Cause(ctx)
		if joined && g.leave(call, w, cause) {
			<-call.done
			if call.err == nil {
				return call.value, nil // it had finished before it could be stopped
			}
		}
		return nil, cause
	}
}

// join adds w to the call of key, or starts one. It returns a call that is
// stopping without joining it.
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
		if call.waiters == nil {
			return call, true, nil // kept
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

// exec runs the work and stores its result.
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
	defer close(call.done) // under the lock, so that the key is free once done is closed
	call.waiters = nil
	size := keptOverhead
	if value, ok := call.value.(interface{ size() int }); ok {
		size += value.size()
	}
	if g.keep == 0 || call.stopping || call.err != nil || size > g.maxKept {
		delete(g.byKey, call.key)
		return
	}
	call.size, call.ended = size, time.Now()
	g.kept = append(g.kept, call)
	g.keptLen += size
	switch {
	case g.oldest == nil:
		g.oldest = time.AfterFunc(g.keep, g.forget) // not waited for: it only frees memory
	case len(g.kept) == 1:
		g.oldest.Reset(g.keep)
	}
	g.forgetLocked(call.ended)
}

// forget drops kept results that are too old.
func (g *flightGroup) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetLocked(time.Now())
}

// forgetLocked drops kept results that are too old or exceed maxKept, and sets the
// timer for the next.
func (g *flightGroup) forgetLocked(now time.Time) {
	before := len(g.kept)
	for len(g.kept) > 0 && (now.Sub(g.kept[0].ended) >= g.keep || g.keptLen > g.maxKept) {
		old := g.kept[0]
		g.kept[0] = nil // free the result, which the array would keep alive
		g.kept = g.kept[1:]
		g.keptLen -= old.size
		delete(g.byKey, old.key)
	}
	if left := len(g.kept); left > 0 && left < before {
		g.oldest.Reset(g.keep - now.Sub(g.kept[0].ended))
	}
}

// report passes progress to all waiters.
func (g *flightGroup) report(call *flightCall, p progress) {
	g.mu.Lock()
	defer g.mu.Unlock()
	call.last, call.reported = p, true
	for w := range call.waiters {
		reportProgress(w.ctx, p)
	}
}

// leave removes a waiter and reports whether the call is canceled because of
// it.
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

// running returns the number of running calls.
func (g *flightGroup) running() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.byKey) - len(g.kept)
}

// wait returns when all calls have ended. No caller may join any more.
func (g *flightGroup) wait() { g.wg.Wait() }
