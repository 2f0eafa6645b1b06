package main

import (
	"context"
	"sync"
	"time"
)

// activity counts what a daemon works on, over all links, and is the gate that
// shuts before it stops: the one place that can say "idle" without a race.
type activity struct {
	detached func() int    // runs that may go on without a request
	changed  chan struct{} // 1-buffered: the count or the gate changed
	idled    chan struct{} // 1-buffered: nothing works any more

	mu        sync.Mutex // guards the fields below
	requests  int
	lastEnd   time.Time
	shut      bool        // by quiesce or drain
	draining  bool        // for good
	resting   *time.Timer // runs when nothing has worked for restAfter; nil without one
	restAfter time.Duration
}

func newActivity(detached func() int) *activity {
	return &activity{detached: detached, changed: make(chan struct{}, 1), idled: make(chan struct{}, 1), lastEnd: time.Now()}
}

// whenIdle has act called each time that nothing has worked any more for so long.
// It begins with the end of some work: what has done nothing yet has left nothing.
func (a *activity) whenIdle(after time.Duration, act func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.restAfter = after
	a.resting = time.AfterFunc(after, act)
	a.resting.Stop() // the end of work starts it
}

// close ends what whenIdle began.
func (a *activity) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.resting != nil {
		a.resting.Stop()
	}
}

// begin admits one request; false means that the daemon is about to stop.
func (a *activity) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shut {
		return false
	}
	a.requests++
	a.tellLocked()
	return true
}

// end is called once for each request that begin admitted.
func (a *activity) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests--
	a.lastEnd = time.Now()
	a.tellLocked()
}

// touch notes the end of a run that no request waited for.
func (a *activity) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastEnd = time.Now()
	a.tellLocked()
}

func (a *activity) tellLocked() {
	wake(a.changed)
	if a.activeLocked() > 0 {
		if a.resting != nil {
			a.resting.Stop()
		}
		return
	}
	wake(a.idled)
	if a.resting != nil {
		a.resting.Reset(a.restAfter)
	}
}

// awaitIdle returns when nothing works, for at most the given time or until
// ctx ends. One goroutine at a time may wait.
func (a *activity) awaitIdle(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		if active, _, _ := a.state(); active == 0 {
			return
		}
		select {
		case <-a.idled:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// state is how many work now, how long nothing has, and whether the gate is
// shut.
func (a *activity) state() (active int, idle time.Duration, shut bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	active = a.activeLocked()
	if active == 0 {
		idle = time.Since(a.lastEnd)
	}
	return active, idle, a.shut
}

func (a *activity) activeLocked() int { return max(a.requests, a.detached()) }

// quiesce shuts the gate if nothing works and nothing has for the given time.
func (a *activity) quiesce(idle time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.activeLocked() == 0 && time.Since(a.lastEnd) >= idle {
		a.shut = true
	}
	a.tellLocked()
	return a.shut
}

// drain shuts the gate whatever works, for good.
func (a *activity) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shut, a.draining = true, true
	a.tellLocked()
}

// resume opens the gate that quiesce has shut.
func (a *activity) resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shut = a.draining
	a.tellLocked()
}
