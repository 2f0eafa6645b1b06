package main

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// This file decides who goes next. Requests reach a daemon without passing the
// pool, so the pool's own knowledge is only a guess: whoever looks idle is
// asked, and only one that agrees, refusing requests from then on, is ended.

// Bounds of the time between two sweeps: a quarter of the idle timeout is
// precise enough, more than once a second is of no use.
const (
	sweepMost  = 30 * time.Second
	sweepLeast = time.Second
)

const (
	// maxRoomAsk bounds how long one ensure asks the others to make room.
	maxRoomAsk = 2 * time.Second
	// capacityPause is how long an ensure waits before it asks busy daemons once
	// more: most requests are short, and whoever has an answer may come here
	// before the daemon counts itself idle.
	capacityPause = 100 * time.Millisecond
)

func sweepInterval(idleTimeout time.Duration) time.Duration {
	return max(sweepLeast, min(sweepMost, idleTimeout/4))
}

// sweep evicts idle daemons until ctx ends.
func (p *pool) sweep(ctx context.Context) {
	if p.idleTimeout <= 0 {
		return
	}
	ticker := time.NewTicker(sweepInterval(p.idleTimeout))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.sweepOnce()
		}
	}
}

// sweepOnce asks every daemon that seems idle for long enough to go, side by
// side, so that one that does not answer holds up no other.
func (p *pool) sweepOnce() {
	var wg sync.WaitGroup
	for _, e := range p.idleSince(time.Now().Add(-p.idleTimeout)) {
		// Ends with the answer, or after probeLimit.
		wg.Go(func() { p.ask(e, p.idleTimeout, evictedIdle) })
	}
	wg.Wait()
}

// idleSince is the ready ones that have done nothing since t.
func (p *pool) idleSince(t time.Time) []*entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var idle []*entry
	for _, e := range p.entries {
		if e.status == statusReady && e.active == 0 && !e.lastUsed.After(t) {
			idle = append(idle, e)
		}
	}
	return idle
}

// ask has e's child quiesce if it has been idle for so long; reason is why it is
// to go. It tells whether the child goes, within probeLimit of the question.
func (p *pool) ask(e *entry, idle time.Duration, reason evictionReason) bool {
	for {
		p.mu.Lock()
		if e.status != statusReady {
			p.mu.Unlock()
			return false
		}
		question, mine := e.probe, e.probe == nil
		if mine {
			question = &probe{idle: idle, reason: reason, done: make(chan struct{})}
			e.probe = question
			e.notify()
		}
		p.mu.Unlock()
		<-question.done // the owner answers every question, at the latest when it ends
		if mine || question.leaves {
			return question.leaves
		}
	}
}

// roomSearch is one ensure's search for a place.
type roomSearch struct {
	asked    map[*entry]bool // in this round
	again    bool            // the round before found nobody who would go, and nobody starting
	starting bool            // at the end of the round some were just starting
}

// makeRoom returns when a place may have become free: the least recently used
// daemon that agrees goes. When nobody agrees they are asked once more after
// capacityPause, and before that as long as some are just starting. The error
// is CAPACITY, or that of the request's end.
func (p *pool) makeRoom(ctx context.Context, s *roomSearch) error {
	for {
		freed, err := p.askForRoom(ctx, s)
		if err == nil && freed != nil {
			err = wait(ctx, freed)
			p.mu.Lock()
			p.waiting--
			p.mu.Unlock()
		}
		switch cause := context.Cause(ctx); {
		case err == nil:
			return nil
		case ctx.Err() != nil && isAPIError(cause): // the patience has ended, not the request
			return p.capacityError()
		case ctx.Err() != nil:
			return cause
		case s.again && !s.starting:
			return err
		}
		s.again = !s.starting // who has just started is wanted, and asked again later
		clear(s.asked)
		select {
		case <-time.After(capacityPause):
		case <-ctx.Done():
		}
	}
}

// askForRoom is findRoom for one ensure at a time: two that need a place would
// ask the same daemon.
func (p *pool) askForRoom(ctx context.Context, s *roomSearch) (<-chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case p.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.asking }()
	return p.findRoom(s)
}

// findRoom returns nil when there is a place, else what to wait for, counted
// in p.waiting.
func (p *pool) findRoom(s *roomSearch) (<-chan struct{}, error) {
	for begin := time.Now(); ; {
		p.mu.Lock()
		if p.closed || p.places < p.maxDaemons {
			p.mu.Unlock()
			return nil, nil
		}
		leaving := 0
		s.starting = false
		var stay []*entry
		for _, e := range p.entries {
			switch {
			case e.place && e.status == statusStopping:
				leaving++
			case e.status == statusStarting:
				s.starting = true
			case e.status == statusReady && !s.asked[e]:
				stay = append(stay, e)
			}
		}
		if leaving > p.waiting {
			p.waiting++
			freed := p.freed
			p.mu.Unlock()
			return freed, nil
		}
		// Those known to be busy come late: what is known may be a moment old. Those
		// that do not answer come last.
		slices.SortFunc(stay, func(a, b *entry) int {
			return cmp.Or(compareBool(a.mute, b.mute), compareBool(a.active > 0, b.active > 0), a.lastUsed.Compare(b.lastUsed))
		})
		p.mu.Unlock()
		if len(stay) == 0 || time.Since(begin) > maxRoomAsk {
			return nil, p.capacityError()
		}
		s.asked[stay[0]] = true
		p.ask(stay[0], 0, evictedCapacity)
	}
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
