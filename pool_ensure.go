package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	// capacityRetryMin and capacityRetrySpread are when to come back to a full
	// pool: at random, so that not all who were sent away come back together.
	capacityRetryMin    = 5 * time.Second
	capacityRetrySpread = 10 * time.Second
)

// ensure returns the ready daemon of libID. However many ask at once, one
// child is started; started is true for the one that did so. A child belongs
// to the pool: it goes on when ctx ends, only the waiting does not. What keeps
// it from starting is waited for within spawnTimeout. The error is a
// *apiError, or ctx's.
func (p *pool) ensure(ctx context.Context, libID string) (view poolEntry, started bool, err error) {
	if err := checkLibID(libID); err != nil {
		return poolEntry{}, false, err
	}
	p.mu.Lock()
	if e := p.entries[libID]; e != nil && e.status == statusReady && !p.closed { // nearly always
		defer p.mu.Unlock()
		return p.useLocked(e), false, nil
	}
	p.mu.Unlock()
	var mine *entry // the one that this call started
	search := &roomSearch{asked: map[*entry]bool{}}
	begin := time.Now()
	patience, cancel := context.WithTimeoutCause(ctx, p.spawnTimeout, &apiError{code: codeSpawnTimeout, status: http.StatusGatewayTimeout,
		message: fmt.Sprintf("the daemon for %s could not be started within %v: the one before it is still stopping", libID, p.spawnTimeout)})
	defer cancel()
	for {
		if err := ctx.Err(); err != nil {
			return poolEntry{}, false, err
		}
		p.mu.Lock()
		e := p.entries[libID]
		switch {
		case p.closed:
			p.mu.Unlock()
			return poolEntry{}, false, errShuttingDown()
		case e != nil && e.status == statusReady:
			view = p.useLocked(e)
			p.mu.Unlock()
			return view, e == mine, nil
		case e != nil && e.status == statusStarting:
			p.mu.Unlock()
			if err := p.awaitReady(ctx, e); err != nil {
				return poolEntry{}, false, err
			}
		case e != nil: // stopping: a fresh one takes its place
			p.mu.Unlock()
			if err := wait(patience, e.gone); err != nil {
				return poolEntry{}, false, err
			}
		default:
			e, err := p.admitLocked(patience, libID, begin, search)
			if err == nil && e != nil {
				mine = e
				err = p.awaitReady(ctx, e)
			}
			if err != nil {
				return poolEntry{}, false, err
			}
		}
	}
}

// useLocked counts an ensure as a use, which also keeps a child that is just
// being asked whether it can go.
func (p *pool) useLocked(e *entry) poolEntry {
	e.lastUsed = time.Now()
	if e.probe != nil {
		e.probe.wanted = true
	}
	return p.viewLocked(e)
}

// awaitReady waits until e is ready, or returns why it never will be.
func (p *pool) awaitReady(ctx context.Context, e *entry) error {
	if err := wait(ctx, e.settled); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.failed != nil {
		return e.failed
	}
	return nil
}

// admitLocked starts libID's entry when it may: no crash loop, no other id of
// the same name, a free place. Else it waits for what keeps it from starting,
// and returns nil to be called again. It unlocks p.mu.
func (p *pool) admitLocked(ctx context.Context, libID string, begin time.Time, search *roomSearch) (*entry, error) {
	now := time.Now()
	past := deaths{}
	if g := p.graves[libID]; g != nil {
		past = g.deaths
	}
	delay, full, server := past.wait(now), p.places >= p.maxDaemons, p.server
	if server == "" || delay > 0 || full {
		p.mu.Unlock()
	}
	switch {
	case server == "":
		return nil, &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "no server to dial is known yet"}
	case delay > 0 && delay >= p.spawnTimeout-now.Sub(begin):
		return nil, &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, retryAfter: delay,
			message: fmt.Sprintf("the daemon for %s died %d times in a row and is started again in %v: %s", libID, past.inRow, delay.Round(time.Second), past.lastError)}
	case delay > 0:
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil, nil
		case <-p.closing:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	case full:
		return nil, p.makeRoom(ctx, search)
	}
	defer p.mu.Unlock()
	if other := p.sameNameLocked(libID); other != "" {
		return nil, &apiError{code: codeInvalidLibID, status: http.StatusBadRequest,
			message: fmt.Sprintf("the file system cannot tell %s from %s, which is there already", libID, other)}
	}
	e := newEntry(libID, statusStarting, now)
	e.place, e.history = true, past
	p.places++
	p.entries[libID] = e
	p.tellLocked(e)
	// Ends when the child is reaped and cleared away; shutdown waits for it.
	p.wg.Go(func() { p.run(e) })
	return e, nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// capacityError sends somebody away from a full pool.
func (p *pool) capacityError() *apiError {
	return &apiError{code: codeCapacity, status: http.StatusServiceUnavailable,
		retryAfter: capacityRetryMin + rand.N(capacityRetrySpread),
		message:    fmt.Sprintf("all %d daemons are busy: come back later or raise --max-daemons", p.maxDaemons)}
}
