package main

import (
	"context"
	"sync"
	"time"
)

// activity counts what a daemon works on, over all links, and refuses new work
// before the daemon stops. Both are under one lock, so that no request can
// start between the check that the daemon is idle and its stop.
type activity struct {
	detached   func() int    // number of calls that can run without a request
	changed    chan struct{} // 1-buffered: the count or refusing has changed
	becameIdle chan struct{} // 1-buffered: the last work has ended

	mu        sync.Mutex // guards the fields below
	requests  int
	lastEnd   time.Time   // when the last work ended; out of date while requests run
	refusing  bool        // set by quiesce or drain
	draining  bool        // set by drain: resume has no effect
	idleTimer *time.Timer // calls checkIdle; nil if unused
	idleAfter time.Duration
	timed     bool // idleTimer runs
}

func newActivity(detached func() int) *activity {
	return &activity{detached: detached, changed: make(chan struct{}, 1), becameIdle: make(chan struct{}, 1), lastEnd: time.Now()}
}

// whenIdle calls act each time the daemon has been idle for the given time
// after some work.
func (a *activity) whenIdle(after time.Duration, act func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.idleAfter = after
	a.idleTimer = time.AfterFunc(after, func() {
		if a.checkIdle() {
			act()
		}
	})
	a.idleTimer.Stop() // the end of work starts it
}

// checkIdle reports whether the daemon has been idle for idleAfter. If it was not, it
// looks again when that may be. To set the timer anew at each request would take as
// long as some of them.
func (a *activity) checkIdle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := a.idleAfter - time.Since(a.lastEnd)
	idle := a.isIdleLocked()
	a.timed = idle && left > 0 // the end of work starts it otherwise
	if a.timed {
		a.idleTimer.Reset(left)
	}
	return idle && left <= 0
}

// close stops the timer of whenIdle.
func (a *activity) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.idleTimer != nil {
		a.idleTimer.Stop()
	}
}

// begin admits one request. It returns false if the daemon is about to stop.
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

// end must be called once for each request that begin admitted.
func (a *activity) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests--
	if a.requests == 0 {
		a.lastEnd = time.Now()
	}
	a.notifyLocked()
}

// touch records the end of a call that no request waited for.
func (a *activity) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastEnd = time.Now()
	a.notifyLocked()
}

func (a *activity) notifyLocked() {
	wake(a.changed)
	if !a.isIdleLocked() {
		return
	}
	wake(a.becameIdle)
	if a.idleTimer != nil && !a.timed {
		a.timed = true
		a.idleTimer.Reset(a.idleAfter)
	}
}

// awaitIdle returns when the daemon is idle, after the timeout, or when ctx
// ends. Only one goroutine at a time may wait.
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

// state returns how much work runs, how long the daemon has been idle, and
// whether it refuses new work.
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

// isIdleLocked is cheaper than activeLocked while requests run.
func (a *activity) isIdleLocked() bool { return a.requests == 0 && a.detached() == 0 }

// quiesce makes the daemon refuse new work if it has been idle for the given
// time, and reports whether it refuses.
func (a *activity) quiesce(idle time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isIdleLocked() && time.Since(a.lastEnd) >= idle {
		a.refusing = true
	}
	a.notifyLocked()
	return a.refusing
}

// drain makes the daemon refuse new work for good, even while some is running.
func (a *activity) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refusing, a.draining = true, true
	a.notifyLocked()
}

// resume admits new work again after quiesce.
func (a *activity) resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refusing = a.draining
	a.notifyLocked()
}
