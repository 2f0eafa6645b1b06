package main

import (
	"context"
	"sync"
	"time"
)

// activity counts what a daemon works on, over all links, and is the gate that
// shuts before it stops: the one place that can say "idle" without a race.
type activity struct {
	detached   func() int    // runs that may go on without a request
	changed    chan struct{} // 1-buffered: the count or the gate changed
	becameIdle chan struct{} // 1-buffered: nothing works any more

	mu        sync.Mutex // guards the fields below
	requests  int
	lastEnd   time.Time
	refusing  bool        // by quiesce or drain
	draining  bool        // for good
	idleTimer *time.Timer // runs when nothing has worked for restAfter; nil without one
	idleAfter time.Duration
}

func newActivity(detached func() int) *activity {
	return &activity{detached: detached, changed: make(chan struct{}, 1), becameIdle: make(chan struct{}, 1), lastEnd: time.Now()}
}

// whenIdle has act called each time that nothing has worked any more for so long.
// It begins with the end of some work: what has done nothing yet has left nothing.
func (a *activity) whenIdle(after time.Duration, act func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.idleAfter = after
	a.idleTimer = time.AfterFunc(after, act)
	a.idleTimer.Stop() // the end of work starts it
}

// close ends what whenIdle began.
func (a *activity) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.idleTimer != nil {
		a.idleTimer.Stop()
	}
}

// begin admits one request; false means that the daemon is about to stop.
func (a *activity) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refusing {
		return false
	}
	a.requests++
	a.notifyLocked()
	return true
}

// end is called once for each request that begin admitted.
func (a *activity) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests--
	a.lastEnd = time.Now()
	a.notifyLocked()
}

// touch notes the end of a run that no request waited for.
func (a *activity) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastEnd = time.Now()
	a.notifyLocked()
}

func (a *activity) notifyLocked() {
	wake(a.changed)
	if a.activeLocked() > 0 {
		if a.idleTimer != nil {
			a.idleTimer.Stop()
		}
		return
	}
	wake(a.becameIdle)
	if a.idleTimer != nil {
		a.idleTimer.Reset(a.idleAfter)
	}
}

// awaitIdle returns when nothing works, for at most the given time or until
// ctx ends. One goroutine at a time may wait.
func (a *activity) awaitIdle(ctx context.Context, timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		if active, _, _ := a.state(); active == 0 {
			return
		}
		select {
		case <-a.becameIdle:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// state is how many work now, how long nothing has, and whether the gate is
// shut.
func (a *activity) state() (active int, idle time.Duration, refusing bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	active = a.activeLocked()
	if active == 0 {
		idle = time.Since(a.lastEnd)
	}
	return active, idle, a.refusing
}

func (a *activity) activeLocked() int { return max(a.requests, a.detached()) }

// quiesce shuts the gate if nothing works and nothing has for the given time.
func (a *activity) quiesce(idle time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.activeLocked() == 0 && time.Since(a.lastEnd) >= idle {
		a.refusing = true
	}
	a.notifyLocked()
	return a.refusing
}

// drain shuts the gate whatever works, for good.
func (a *activity) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refusing, a.draining = true, true
	a.notifyLocked()
}

// resume opens the gate that quiesce has shut.
func (a *activity) resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refusing = a.draining
	a.notifyLocked()
}
