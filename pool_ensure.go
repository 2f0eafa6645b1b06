package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	// capacityRetryMin and capacityRetrySpread bound the advice when to come back
	// to a full pool. It is random, so that the refused do not come back together.
	capacityRetryMin    = 5 * time.Second
	capacityRetrySpread = 10 * time.Second
)

// readyDaemon is the result of an ensure.
type readyDaemon struct {
	entry   *entry
	view    poolEntry // at the time of the ensure
	started bool      // by this ensure
}

// ensure returns the ready daemon of libID. However many callers ask at once,
// one child is started. A child belongs to the pool: when ctx ends only the
// waiting does. What keeps a child from being started is waited for within
// spawnTimeout. The error is an *apiError, or that of ctx.
func (p *pool) ensure(ctx context.Context, libID string) (readyDaemon, error) {
	if err := cmp.Or(checkLibID(libID), ctx.Err()); err != nil {
		return readyDaemon{}, err
	}
	step := p.admit(libID)
	if step.ready != nil { // nearly always
		return readyDaemon{entry: step.ready, view: step.view}, nil
	}
	var mine *entry // the one that this call started
	search := &slotSearch{asked: map[*entry]bool{}}
	begin := time.Now()
	patience, cancel := context.WithTimeoutCause(ctx, p.spawnTimeout, &apiError{code: codeSpawnTimeout, status: http.StatusGatewayTimeout,
		message: fmt.Sprintf("the daemon for %s could not be started within %v: the one before it is still stopping", libID, p.spawnTimeout)})
	defer cancel()
	for ; ; step = p.admit(libID) {
		var err error
		switch {
		case step.refused != nil:
			err = step.refused
		case step.ready != nil:
			return readyDaemon{entry: step.ready, view: step.view, started: step.ready == mine}, nil
		case step.starting != nil:
			if step.admitted {
				mine = step.starting
			}
			err = p.awaitReady(ctx, step.starting)
		case step.stopping != nil: // another takes its slot
			err = wait(patience, step.stopping.gone)
		case step.delay > 0:
			err = p.awaitRespawn(patience, libID, step, begin)
		case step.full:
			err = p.makeRoom(patience, search)
		}
		if err = cmp.Or(err, ctx.Err()); err != nil { // a caller that is gone starts nothing
			return readyDaemon{}, err
		}
	}
}

// admission is the result of one attempt of an ensure. It determines what the
// ensure waits for next.
type admission struct {
	refused  *apiError
	ready    *entry
	view     poolEntry // of ready
	starting *entry
	admitted bool // starting was made by this call
	stopping *entry
	delay    time.Duration // until a respawn; 0 for none
	history  crashHistory  // the reason for delay
	full     bool          // all slots are taken
}

// admit looks for libID's entry, and makes one if nothing is in its way.
//
//go:noinline // it is called in two places, and each copy counts in the size of a release
func (p *pool) admit(libID string) (found admission) {
	p.update(func(s *poolState) {
		e, now := s.entries[libID], time.Now()
		history := crashHistory{}
		if t := s.tombstones[libID]; t != nil {
			history = t.history
		}
		other := ""
		if p.folds {
			other = s.sameName(libID)
		}
		switch delay := history.wait(now); {
		case s.closed:
			found.refused = errShuttingDown()
		case e != nil && e.state.status == statusReady:
			s.apply(e, ensured{})
			found.ready, found.view = e, e.view()
		case e != nil && e.state.status == statusStarting:
			found.starting = e
		case e != nil:
			found.stopping = e
		case s.server == "":
			found.refused = &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "no server to dial is known yet"}
		case delay > 0:
			found.delay, found.history = delay, history
		case s.slots() >= p.maxDaemons:
			found.full = true
		case other != "":
			found.refused = errSameName(libID, other)
		default:
			e = newEntry(libID, p.workDir(libID), entryState{
				status: statusStarting, slot: true, admitted: now, lastUsed: now,
				history: history, restarts: history.total, changed: true,
			})
			s.entries[libID] = e
			found.starting, found.admitted = e, true
			// Ends when the child is reaped and cleared up; shutdown waits for it.
			p.wg.Go(func() { p.run(e) })
		}
	})
	return found
}

// awaitReady waits until e is ready, or returns why it never will be.
func (p *pool) awaitReady(ctx context.Context, e *entry) error {
	if err := wait(ctx, e.readyOrFailed); err != nil {
		return err
	}
	var failed *apiError
	p.update(func(*poolState) { failed = e.state.failed })
	if failed != nil {
		return failed
	}
	return nil
}

// awaitRespawn waits until a child that crashed may be started again, or refuses
// where that is later than this ensure waits. begin is when the ensure came.
func (p *pool) awaitRespawn(ctx context.Context, libID string, a admission, begin time.Time) error {
	if a.delay >= p.spawnTimeout-time.Since(begin) {
		return &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, retryAfter: a.delay,
			message: fmt.Sprintf("the daemon for %s died %d times in a row and is started again in %v: %s",
				libID, a.history.inRow, a.delay.Round(time.Second), a.history.lastError)}
	}
	timer := time.NewTimer(a.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.closing: // the next look refuses
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// capacityError refuses an ensure because the pool is full.
func (p *pool) capacityError() *apiError {
	return &apiError{code: codeCapacity, status: http.StatusServiceUnavailable,
		retryAfter: capacityRetryMin + rand.N(capacityRetrySpread),
		message:    fmt.Sprintf("all %d daemons are busy: come back later or raise --max-daemons", p.maxDaemons)}
}
