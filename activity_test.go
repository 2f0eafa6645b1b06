package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWhenIdle: act is called neither before any work nor during work, once per
// idle period, and never after close.
func TestWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		detached, calls := 0, 0
		a := newActivity(func() int { return detached })
		a.whenIdle(time.Second, func() { calls++ })
		want := func(n int, when string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if calls != n {
				t.Errorf("%s: called %d times, want %d", when, calls, n)
			}
		}
		want(0, "nothing has worked yet")
		a.begin()
		a.begin()
		a.end()
		want(0, "one still works")
		detached = 1 // a clone whose request has ended
		a.end()
		want(0, "a clone goes on")
		detached = 0
		a.touch()
		want(1, "the first rest")
		a.begin()
		a.end()
		time.Sleep(999 * time.Millisecond)
		a.begin()
		want(1, "a new request in time")
		a.end()
		want(2, "the second rest")
		a.begin()
		a.end()
		a.close()
		want(2, "closed")
	})
}

// After drain, resume has no effect: the pool may still resume a daemon that is
// already stopping.
func TestResumeAfterDrain(t *testing.T) {
	a := newActivity(func() int { return 0 })
	if a.quiesce(time.Hour) {
		t.Error("quiesce(an hour) = true right after the start, want false")
	}
	if !a.quiesce(0) || a.begin() {
		t.Error("an idle daemon did not quiesce or took a request, want it to quiesce")
	}
	if a.resume(); !a.begin() {
		t.Error("begin() = false after resume, want true")
	}
	a.end()
	a.drain()
	if a.resume(); a.begin() {
		t.Error("begin() = true after drain and resume, want false")
	}
}
