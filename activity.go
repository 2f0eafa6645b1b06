package main

import (
	"sync"
	"time"
)

// activity counts what a daemon works on, over all links, and is the gate that
// shuts before it stops: the one place that can say "idle" without a race.
type activity struct {
	detached func() int    // runs that may go on without a request
	changed  chan struct{} // 1-buffered: the count or the gate changed

	mu       sync.Mutex // guards the fields below
	requests int
	lastEnd  time.Time
	shut     bool
}

func newActivity(detached func() int) *activity {
	return &activity{detached: detached, changed: make(chan struct{}, 1), lastEnd: time.Now()}
}

// begin admits one request; false means that the daemon is about to stop.
func (a *activity) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shut {
		return false
	}
	a.requests++
	a.tell()
	return true
}

// end is called once for each request that begin admitted.
func (a *activity) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests--
	a.lastEnd = time.Now()
	a.tell()
}

// touch notes the end of a run that no request waited for.
func (a *activity) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastEnd = time.Now()
	a.tell()
}

func (a *activity) tell() {
	select {
	case a.changed <- struct{}{}:
	default: // a wake-up is waiting already
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
	a.tell()
	return a.shut
}

// drain shuts the gate whatever works.
func (a *activity) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shut = true
	a.tell()
}

// resume opens the gate again.
func (a *activity) resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shut = false
	a.tell()
}
