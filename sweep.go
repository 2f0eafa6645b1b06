package main

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// This file decides which daemon is ended to save memory or to make room.
// Requests reach a daemon without passing the pool, so the pool only guesses
// which is idle: it asks the daemon, and ends it only if the daemon agrees and
// from then on refuses requests.

// Bounds of the time between two sweeps: a quarter of the idle timeout is
// precise enough, and more than one a second would be of no use.
const (
	sweepMost  = 30 * time.Second
	sweepLeast = time.Second
)

const (
	// maxSlotSearch bounds how long one ensure asks other daemons to go.
	maxSlotSearch = 2 * time.Second
	// capacityPause is how long an ensure waits before it asks busy daemons once
	// more: most requests are short, and a client that has its answer may come
	// here before the daemon counts itself idle.
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

// sweepOnce asks every daemon that seems idle for long enough to go. It asks them
// all at once, so that one that does not answer delays no other.
func (p *pool) sweepOnce() {
	var wg sync.WaitGroup
	for _, e := range p.idleSince(time.Now().Add(-p.idleTimeout)) {
		// Ends with the answer, or after quiesceLimit.
		wg.Go(func() { p.requestQuiesce(e, p.idleTimeout, evictedIdle) })
	}
	wg.Wait()
}

// idleSince returns the ready daemons that have done nothing since t.
func (p *pool) idleSince(t time.Time) (idle []*entry) {
	p.update(func(s *poolState) {
		for _, e := range s.entries {
			if e.state.status == statusReady && e.state.active == 0 && !e.state.lastUsed.After(t) {
				idle = append(idle, e)
			}
		}
	})
	return idle
}

// requestQuiesce asks e's child to quiesce if it has been idle for so long, and
// reports whether the child goes; reason is for the metrics. It returns within
// quiesceLimit of the question. Only one question at a time is under way: when
// another's ends with a child that stays, this one's is asked.
func (p *pool) requestQuiesce(e *entry, idle time.Duration, reason evictionReason) bool {
	mine := &quiesceRequest{idle: idle, reason: reason, done: make(chan struct{})}
	for {
		var asked *quiesceRequest
		p.update(func(s *poolState) {
			s.apply(e, quiesceRequested{mine})
			asked = e.state.quiesce
		})
		if asked == nil { // it is not ready
			return false
		}
		<-asked.done // the owner answers every request, at the latest when it ends
		if asked == mine || asked.leaves {
			return asked.leaves
		}
	}
}

// slotSearch is one ensure's search for a slot.
type slotSearch struct {
	asked    map[*entry]bool // in this round
	again    bool            // no daemon left in the round before, and none was starting
	starting bool            // at the end of the round some were starting
}

// makeRoom returns when a slot may have become free: the least recently used
// daemon that agrees goes. When none agrees they are asked once more after
// capacityPause, and again and again as long as one is starting: it may soon
// have nothing to do. The error is CAPACITY, or that of the request's end.
func (p *pool) makeRoom(ctx context.Context, search *slotSearch) error {
	for {
		freed, err := p.searchSlot(ctx, search)
		if err == nil && freed != nil {
			err = wait(ctx, freed)
			p.update(func(s *poolState) { s.waiting-- })
		}
		switch cause := context.Cause(ctx); {
		case err == nil:
			return nil
		case ctx.Err() != nil && isAPIError(cause): // this ensure's time is over, the request's is not
			return p.capacityError()
		case ctx.Err() != nil:
			return cause
		case search.again && !search.starting:
			return err
		}
		// A daemon that just became ready is probably in use; retry it later.
		search.again = !search.starting
		clear(search.asked)
		select {
		case <-time.After(capacityPause):
		case <-ctx.Done():
		}
	}
}

// searchSlot is findSlot for one ensure at a time: two that need a slot would
// ask the same daemon.
func (p *pool) searchSlot(ctx context.Context, search *slotSearch) (<-chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case p.searching <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.searching }()
	return p.findSlot(search)
}

// findSlot asks one daemon after the other to go. It returns nil when a slot is
// free, else a channel that is closed when the next one is; then the ensure is
// counted in poolState.waiting.
func (p *pool) findSlot(search *slotSearch) (<-chan struct{}, error) {
	for begin := time.Now(); ; {
		free, freed, next := p.nextToAsk(search)
		switch {
		case free, freed != nil:
			return freed, nil
		case next == nil || time.Since(begin) > maxSlotSearch:
			return nil, p.capacityError()
		}
		search.asked[next] = true
		p.requestQuiesce(next, 0, evictedCapacity)
	}
}

// nextToAsk reports whether a slot is free. If none is, it returns what tells
// of the next one, when more daemons are stopping than ensures wait, else the
// daemon to ask, nil for none.
func (p *pool) nextToAsk(search *slotSearch) (free bool, freed <-chan struct{}, next *entry) {
	p.update(func(s *poolState) {
		if free = s.closed || s.slots() < p.maxDaemons; free {
			return
		}
		search.starting = false
		stopping := 0
		for _, e := range s.entries {
			switch {
			case e.state.slot && e.state.status == statusStopping:
				stopping++
			case e.state.status == statusStarting:
				search.starting = true
			case e.state.status == statusReady && !search.asked[e] && (next == nil || compareEviction(e, next) < 0):
				next = e
			}
		}
		if stopping > s.waiting {
			s.waiting++
			freed = s.freed
		}
	})
	return free, freed, next
}

// compareEviction orders daemons: the smallest is asked first to go. Those known to
// be busy come late, because what is known may be a moment old; those that did not
// answer come last.
func compareEviction(a, b *entry) int {
	return cmp.Or(
		compareBool(a.state.unresponsive, b.state.unresponsive),
		compareBool(a.state.active > 0, b.state.active > 0),
		a.state.lastUsed.Compare(b.state.lastUsed),
	)
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
