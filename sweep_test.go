//go:build linux || darwin

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoolIdleSweepSparesTheBusy(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "busy")
		mustEnsure(t, p, "idle")
		if !w.daemon("busy").request() {
			t.Fatal("a ready daemon refused a request, want it taken")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if w.daemon("idle") != nil {
			t.Error("the idle daemon lives after 10 minutes, want it evicted")
		}
		busy := w.daemon("busy")
		if busy == nil {
			t.Fatal("the busy daemon is gone, want it kept")
		}
		busy.finish()
		// Idle time runs from the end of the request.
		time.Sleep(p.idleTimeout - time.Second)
		if w.daemon("busy") == nil {
			t.Error("evicted before the idle timeout, want it kept until then")
		}
		time.Sleep(sweepMost + 2*time.Second)
		if w.daemon("busy") != nil {
			t.Error("alive after the idle timeout, want it evicted")
		}
		if w.killedBusy != 0 {
			t.Errorf("got %d killed while busy, want 0", w.killedBusy)
		}
	})
}

// The pool believes that the daemon is idle; only the daemon knows better.
func TestPoolEvictionAsksTheDaemon(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		d := w.daemon("a")
		d.mu.Lock()
		d.active++ // without a word
		d.mu.Unlock()
		if _, err := p.ensure(t.Context(), "b"); poolCode(err) != codeCapacity {
			t.Errorf("a full pool: got %v, want %s", err, codeCapacity)
		}
		time.Sleep(10 * time.Minute)
		if w.daemon("a") != d {
			t.Error("the busy daemon was evicted, want it kept")
		}
	})
}

func TestPoolFullAllBusy(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		for i := range p.maxDaemons {
			id := fmt.Sprint("lib", i)
			mustEnsure(t, p, id)
			w.daemon(id).request()
		}
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if _, err := p.ensure(t.Context(), fmt.Sprint("more", i)); poolCode(err) != codeCapacity {
					t.Errorf("a full pool: got %v, want %s", err, codeCapacity)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took > maxSlotSearch {
			t.Errorf("got the refusal after %v, want it within %v", took, maxSlotSearch)
		}
		if w.killedBusy != 0 || w.spawns != p.maxDaemons {
			t.Errorf("got %d killed while busy and %d spawns, want 0 and %d", w.killedBusy, w.spawns, p.maxDaemons)
		}
		w.daemon("lib1").finish()
		mustEnsure(t, p, "more")
		if w.daemon("lib1") != nil || w.daemon("lib0") == nil || w.killedBusy != 0 {
			t.Errorf("got lib0 alive %v, lib1 alive %v, %d killed while busy, want only the idle lib1 evicted", w.daemon("lib0") != nil, w.daemon("lib1") != nil, w.killedBusy)
		}
	})
}

// Who has its answer may ask for another library before the daemon counts
// itself idle.
func TestPoolFullForAMoment(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		a := w.daemon("a")
		a.request()
		time.AfterFunc(capacityPause/2, a.finish)
		mustEnsure(t, p, "b")
	})
}

func TestPoolLeastRecentlyUsedGoesFirst(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		for _, id := range []string{"a", "b", "c"} {
			mustEnsure(t, p, id)
			time.Sleep(time.Second)
		}
		w.daemon("a").request() // a use that never passes the pool
		time.Sleep(time.Second)
		w.daemon("a").finish()
		time.Sleep(time.Second)
		mustEnsure(t, p, "d")
		if w.daemon("b") != nil || w.daemon("a") == nil || w.daemon("c") == nil {
			t.Errorf("got a alive %v, b alive %v, c alive %v, want b, the least recently used, evicted", w.daemon("a") != nil, w.daemon("b") != nil, w.daemon("c") != nil)
		}
		time.Sleep(time.Second)
		mustEnsure(t, p, "c") // an ensure is a use as well
		mustEnsure(t, p, "e")
		if w.daemon("a") != nil || w.daemon("c") == nil {
			t.Errorf("got a alive %v, c alive %v, want a evicted: c was asked for since", w.daemon("a") != nil, w.daemon("c") != nil)
		}
	})
}

func TestPoolDaemonThatDoesNotAnswer(t *testing.T) {
	w := &fakeWorld{deaf: true}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		begin := time.Now()
		if _, err := p.ensure(t.Context(), "b"); poolCode(err) != codeCapacity || time.Since(begin) > 2*quiesceLimit+capacityPause {
			t.Errorf("got %v after %v, want %s within two questions", err, time.Since(begin), codeCapacity)
		}
		if w.daemon("a") == nil {
			t.Error("ended without its consent, want it kept")
		}
		// It may read the question later, and refuse requests: what is behind the
		// question makes it take them again.
		d := w.daemon("a")
		d.mu.Lock()
		defer d.mu.Unlock()
		if last := d.ops[len(d.ops)-1]; last != opResume {
			t.Errorf("the last op: got %s, want %s", last, opResume)
		}
	})
}

// Those that do not answer are asked last: they must not keep an idle one from
// making room.
func TestPoolUnresponsiveDaemonsAreAskedLast(t *testing.T) {
	w := &fakeWorld{deafTo: map[string]bool{"a": true, "b": true}}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		for _, id := range []string{"a", "b", "c"} {
			mustEnsure(t, p, id)
			time.Sleep(time.Second)
		}
		mustEnsure(t, p, "d")
		begin := time.Now()
		mustEnsure(t, p, "e")
		if took := time.Since(begin); took != 0 || w.daemon("c") != nil || w.daemon("d") != nil {
			t.Errorf("got room after %v, c alive %v, d alive %v, want both evicted at once", took, w.daemon("c") != nil, w.daemon("d") != nil)
		}
	})
}

// One that is starting may soon have nothing to do: it is waited for.
func TestPoolFullOfStartingOnes(t *testing.T) {
	w := &fakeWorld{readyAfter: 5 * time.Second}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		var wg sync.WaitGroup
		for _, id := range []string{"a", "b"} {
			wg.Go(func() { mustEnsure(t, p, id) })
		}
		wg.Wait()
	})
}

// An ensure that waits for a slot in vain ends with CAPACITY and not with
// SPAWN_TIMEOUT: nothing of its own was being started.
func TestPoolSlotThatIsNotFreedInTime(t *testing.T) {
	w := &fakeWorld{stopAfter: -1}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons, c.stopTimeout = 1, time.Minute }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		if _, err := p.ensure(t.Context(), "b"); poolCode(err) != codeCapacity {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.ensure(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// What a daemon says by itself is no answer to a question that it has not yet
// read.
func TestPoolStaleStatusIsNoAnswer(t *testing.T) {
	w := &fakeWorld{stale: true}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		for range 10 {
			begin := time.Now()
			mustEnsure(t, p, "a")
			mustEnsure(t, p, "b")
			if took := time.Since(begin); took != 0 {
				t.Errorf("an idle daemon made room after %v, want at once", took)
			}
		}
	})
}

// An ensure returns a daemon that has agreed to quiesce, before the pool reads its
// consent: the daemon must resume.
func TestPoolEnsureWhileTheDaemonIsAsked(t *testing.T) {
	w := &fakeWorld{answerLate: quiesceLimit / 2}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := p.ensure(t.Context(), "b"); poolCode(err) != codeCapacity {
				t.Errorf("ensure b: got %v, want %s", err, codeCapacity)
			}
		})
		synctest.Wait()
		mustEnsure(t, p, "a")
		time.Sleep(w.answerLate)
		synctest.Wait()
		if d := w.daemon("a"); d == nil || !d.request() {
			t.Error("it was ended or refuses requests, want it to take them again")
		}
		wg.Wait()
	})
}

// The order in which daemons are asked to go: idle ones, the least recently used
// first; then busy ones; then those that did not answer.
func TestCompareEviction(t *testing.T) {
	now := time.Now()
	var entries []*entry
	for _, state := range []entryState{
		{lastUsed: now.Add(-time.Minute)},
		{lastUsed: now},
		{active: 1, lastUsed: now.Add(-time.Hour)},
		{active: 2, lastUsed: now.Add(-time.Second)},
		{unresponsive: true, lastUsed: now.Add(-2 * time.Hour)},
		{unresponsive: true, active: 1, lastUsed: now.Add(-3 * time.Hour)},
	} {
		entries = append(entries, newEntry("x", "", state))
	}
	for i, a := range entries {
		for j, b := range entries {
			if got, want := compareEviction(a, b), cmp.Compare(i, j); got != want {
				t.Errorf("comparing %d with %d: got %d, want %d", i, j, got, want)
			}
		}
	}
}

// Two ensures do not wait for the same slot: one waits for the daemon that is
// stopping, the other asks the next daemon to go.
func TestPoolOneStoppingDaemonIsForOneEnsure(t *testing.T) {
	w := &fakeWorld{stopAfter: time.Second}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 2 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		time.Sleep(time.Millisecond)
		mustEnsure(t, p, "b")
		begin := time.Now()
		var wg sync.WaitGroup
		for _, id := range []string{"c", "d"} {
			wg.Go(func() { mustEnsure(t, p, id) })
		}
		wg.Wait()
		if took := time.Since(begin); took > 1500*time.Millisecond {
			t.Errorf("two ensures took %v, want two daemons stopped side by side within a second", took)
		}
	})
}
