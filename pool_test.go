//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDaemon is a child without a process. It answers ops as REFERENCE.md says.
type fakeDaemon struct {
	world *fakeWorld
	libID string
	id    int
	heard chan controlEvent
	ended chan struct{}

	mu       sync.Mutex
	active   int
	lastEnd  time.Time
	quiesced bool
	dead     bool
	ops      []string // that it was sent, read or not
}

// fakeWorld starts fake daemons and watches what is done to them.
type fakeWorld struct {
	readyAfter time.Duration   // negative: never
	stopAfter  time.Duration   // negative: it ignores SIGTERM
	deaf       bool            // it answers no op
	deafTo     map[string]bool // by lib_id, those that answer no op
	stale      bool            // before it answers it says what was true a moment ago
	crash      bool            // it dies instead of being ready
	answerLate time.Duration   // what it says to an op comes so much later

	mu           sync.Mutex
	spawns       int
	running      map[string]*fakeDaemon
	killedBusy   int // ended while a request was running
	overlapping  int // started while another of the same lib_id ran
	peak, alive  int
	killed       int
	allowKillMid bool           // shutdown is under way: busy ones may go
	deleting     map[string]int // by lib_id, DELETEs under way: a busy one may go
}

func (w *fakeWorld) start(spec childSpec) (child, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spawns++
	d := &fakeDaemon{world: w, libID: spec.libID, id: w.spawns, heard: make(chan controlEvent, 100), ended: make(chan struct{}), lastEnd: time.Now()}
	if w.running[spec.libID] != nil {
		w.overlapping++
	}
	w.running[spec.libID] = d
	w.alive++
	w.peak = max(w.peak, w.alive)
	switch {
	case w.crash:
		time.AfterFunc(w.readyAfter, d.end)
	case w.readyAfter >= 0:
		time.AfterFunc(w.readyAfter, func() { d.tell(controlEvent{Event: eventReady, PID: d.id}) })
	}
	return d, nil
}

func (d *fakeDaemon) tell(e controlEvent) {
	select {
	case d.heard <- e:
	case <-d.ended:
	}
}

func (d *fakeDaemon) status() controlEvent {
	return controlEvent{Event: eventStatus, Active: d.active, IdleMS: time.Since(d.lastEnd).Milliseconds(), Quiesced: d.quiesced}
}

// request begins a request; false is DRAINING, or no such process any more.
func (d *fakeDaemon) request() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.quiesced || d.dead {
		return false
	}
	d.active++
	d.tell(d.status())
	return true
}

func (d *fakeDaemon) finish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active--
	d.lastEnd = time.Now()
	if !d.dead {
		d.tell(d.status())
	}
}

func (d *fakeDaemon) pid() int                    { return 1000 + d.id }
func (d *fakeDaemon) events() <-chan controlEvent { return d.heard }
func (d *fakeDaemon) done() <-chan struct{}       { return d.ended }
func (d *fakeDaemon) trimLog() bool               { return false }
func (d *fakeDaemon) lastLines() string           { return "its last line" }
func (d *fakeDaemon) close() (string, string)     { return "the fake ended", "its last line" }

func (d *fakeDaemon) send(op controlOp) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = append(d.ops, op.Op)
	if d.world.deaf || d.world.deafTo[d.libID] || d.dead {
		return nil
	}
	switch op.Op {
	case opQuiesce:
		if d.active == 0 && time.Since(d.lastEnd).Milliseconds() >= op.IdleMS {
			d.quiesced = true
		}
	case opResume:
		d.quiesced = false
	}
	if d.world.stale {
		d.tell(controlEvent{Event: eventStatus, Active: 1})
	}
	status := d.status()
	status.Ask = op.Ask
	time.AfterFunc(d.world.answerLate, func() { d.tell(status) })
	return nil
}

func (d *fakeDaemon) terminate() {
	if after := d.world.stopAfter; after >= 0 {
		time.AfterFunc(after, d.end)
	}
}

func (d *fakeDaemon) kill() {
	d.world.mu.Lock()
	d.world.killed++
	d.world.mu.Unlock()
	d.end()
}

func (d *fakeDaemon) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return
	}
	d.dead = true
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if d.active > 0 && !d.world.allowKillMid && d.world.deleting[d.libID] == 0 {
		d.world.killedBusy++
	}
	d.world.alive--
	if d.world.running[d.libID] == d {
		delete(d.world.running, d.libID)
	}
	close(d.ended)
}

// deletes counts a DELETE of libID that begins (1) or has ended (-1).
func (w *fakeWorld) deletes(libID string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deleting[libID] += n
}

func (w *fakeWorld) daemon(libID string) *fakeDaemon {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running[libID]
}

// inBubble runs a test on fake time with a pool of fake daemons.
func inBubble(t *testing.T, w *fakeWorld, change func(*poolConfig), test func(t *testing.T, p *pool)) {
	t.Helper()
	workspace := t.TempDir()
	w.running, w.deleting = map[string]*fakeDaemon{}, map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		cfg := poolConfig{
			workspace: workspace, server: "ws://x", maxDaemons: 3, idleTimeout: 5 * time.Minute, spawnTimeout: 15 * time.Second,
			stopTimeout: 2 * time.Second, log: slog.New(slog.DiscardHandler), start: w.start,
		}
		if change != nil {
			change(&cfg)
		}
		p, err := newPool(cfg)
		if err != nil {
			t.Fatal(err)
		}
		test(t, p)
		w.mu.Lock()
		w.allowKillMid = true
		w.mu.Unlock()
		if err := p.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if w.alive != 0 || w.overlapping != 0 {
			t.Errorf("after shutdown %d live; %d ran beside another of their lib_id", w.alive, w.overlapping)
		}
		if _, err := p.ensure(context.Background(), "late"); poolCode(err) != codeAutoStartFailed {
			t.Errorf("ensure after shutdown: %v", err)
		}
	})
}

func TestPoolHundredEnsuresStartOne(t *testing.T) {
	w := &fakeWorld{readyAfter: time.Second}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		var wg sync.WaitGroup
		var started atomic.Int32
		for range 100 {
			wg.Go(func() {
				d, err := p.ensure(t.Context(), "x")
				if err != nil || d.view.Status != statusReady {
					t.Errorf("got %+v, %v, want a ready daemon", d.view, err)
				}
				if d.started {
					started.Add(1)
				}
			})
		}
		wg.Wait()
		if w.spawns != 1 || started.Load() != 1 {
			t.Errorf("%d spawns, %d were told that they started it", w.spawns, started.Load())
		}
	})
}

func TestPoolSpawnOutlivesItsFirstCaller(t *testing.T) {
	w := &fakeWorld{readyAfter: time.Second}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.ensure(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first caller: %v", err)
		}
		if d, err := p.ensure(t.Context(), "x"); err != nil || d.started || w.spawns != 1 {
			t.Errorf("the second caller: got started %v, %v, %d spawns, want false, no error, 1 spawn", d.started, err, w.spawns)
		}
	})
}

func TestPoolDeleteDuringSpawn(t *testing.T) {
	w := &fakeWorld{readyAfter: 10 * time.Second, stopAfter: time.Second}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		var wg sync.WaitGroup
		begin := time.Now()
		for range 3 {
			wg.Go(func() {
				if _, err := p.ensure(t.Context(), "x"); poolCode(err) != codeDeleted {
					t.Errorf("ensure: %v", err)
				}
				if time.Since(begin) > time.Second {
					t.Errorf("told only after %v", time.Since(begin))
				}
			})
		}
		synctest.Wait()
		for range 2 { // two DELETEs share one removal
			wg.Go(func() {
				if err := p.remove(t.Context(), "x"); err != nil {
					t.Errorf("remove: %v", err)
				}
			})
		}
		wg.Wait()
		if _, err := os.Stat(filepath.Join(p.workspace, "x")); !os.IsNotExist(err) {
			t.Errorf("the directory: %v", err)
		}
		if _, found := p.get("x"); found {
			t.Error("the entry is still there")
		}
	})
}

func TestPoolEnsureDuringStop(t *testing.T) {
	w := &fakeWorld{stopAfter: time.Second}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		first := mustEnsure(t, p, "x")
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.stopAll(t.Context()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		second := mustEnsure(t, p, "x")
		if second.PID == first.PID {
			t.Error("it got the one that was being stopped")
		}
		wg.Wait()
	})
}

func TestPoolEnsureDuringAStopThatLasts(t *testing.T) {
	w := &fakeWorld{stopAfter: -1}
	inBubble(t, w, func(c *poolConfig) { c.stopTimeout = time.Hour }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "x")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.stopAll(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopAll: %v", err)
		}
		begin := time.Now()
		if _, err := p.ensure(t.Context(), "x"); poolCode(err) != codeSpawnTimeout || time.Since(begin) != p.spawnTimeout {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		p.killNow()
	})
}

func TestPoolIdleSweepSparesTheBusy(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "busy")
		mustEnsure(t, p, "idle")
		if !w.daemon("busy").request() {
			t.Fatal("refused")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if w.daemon("idle") != nil {
			t.Error("the idle one is still there")
		}
		busy := w.daemon("busy")
		if busy == nil {
			t.Fatal("the busy one is gone")
		}
		busy.finish()
		// Idle time runs from the end of the request.
		time.Sleep(p.idleTimeout - time.Second)
		if w.daemon("busy") == nil {
			t.Error("evicted before the idle timeout")
		}
		time.Sleep(sweepMost + 2*time.Second)
		if w.daemon("busy") != nil {
			t.Error("not evicted after the idle timeout")
		}
		if w.killedBusy != 0 {
			t.Errorf("%d killed while busy", w.killedBusy)
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
			t.Errorf("a full pool: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if w.daemon("a") != d {
			t.Error("the busy one was evicted")
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
					t.Errorf("a full pool: %v", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took > maxSlotSearch {
			t.Errorf("the refusal took %v", took)
		}
		if w.killedBusy != 0 || w.spawns != p.maxDaemons {
			t.Errorf("%d killed while busy, %d spawns", w.killedBusy, w.spawns)
		}
		w.daemon("lib1").finish()
		mustEnsure(t, p, "more")
		if w.daemon("lib1") != nil || w.daemon("lib0") == nil || w.killedBusy != 0 {
			t.Error("not the idle one went")
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
			t.Error("not b, the least recently used, went")
		}
		time.Sleep(time.Second)
		mustEnsure(t, p, "c") // an ensure is a use as well
		mustEnsure(t, p, "e")
		if w.daemon("a") != nil || w.daemon("c") == nil {
			t.Error("not a went, though c was asked for since")
		}
	})
}

func TestPoolDaemonWithAnAbsurdIdleTime(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "x")
		w.daemon("x").tell(controlEvent{Event: eventStatus, IdleMS: math.MaxInt64 / 3})
		synctest.Wait()
		if view, _ := p.get("x"); view.LastUsedAt.After(time.Now()) {
			t.Errorf("last used in the future: %v", view.LastUsedAt)
		}
	})
}

func TestPoolDaemonThatDoesNotAnswer(t *testing.T) {
	w := &fakeWorld{deaf: true}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		begin := time.Now()
		if _, err := p.ensure(t.Context(), "b"); poolCode(err) != codeCapacity || time.Since(begin) > 2*quiesceLimit+capacityPause {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if w.daemon("a") == nil {
			t.Error("ended without its consent")
		}
		// It may read the question later, and refuse requests: what is behind the
		// question makes it take them again.
		d := w.daemon("a")
		d.mu.Lock()
		defer d.mu.Unlock()
		if last := d.ops[len(d.ops)-1]; last != opResume {
			t.Errorf("the last word to it is %s", last)
		}
	})
}

// What was last told of a daemon is true, also when an answer to the pool told
// it first.
func TestPoolTellsOfTheLastChange(t *testing.T) {
	w := &fakeWorld{answerLate: quiesceLimit / 2}
	var last poolEntry
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons, c.onEvent = 1, func(e poolEntry) { last = e } }, func(t *testing.T, p *pool) {
		ready, err := p.ensure(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		d := w.daemon("a")
		d.request()
		synctest.Wait()
		d.mu.Lock()
		d.active = 0 // its own word of this comes later
		d.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() { p.requestQuiesce(ready.entry, 0, evictedCapacity) })
		synctest.Wait()
		mustEnsure(t, p, "a") // it stays
		wg.Wait()
		synctest.Wait()
		if last.Busy || last.Status != statusReady {
			t.Errorf("the last event: %+v", last)
		}
	})
}

// Those that do not answer are asked last: they must not keep an idle one from
// making room.
func TestPoolMuteDaemonsAreAskedLast(t *testing.T) {
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
			t.Errorf("room was made after %v", took)
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

// The patience of one who waits for a place ends with CAPACITY: nothing of its
// own is being started.
func TestPoolPlaceThatIsNotFreedInTime(t *testing.T) {
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
				t.Errorf("an idle daemon made room after %v", took)
			}
		}
	})
}

// A daemon that answers nothing for a minute is ended, one that works in
// silence is not.
func TestPoolHungDaemon(t *testing.T) {
	w := &fakeWorld{stopAfter: -1}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		mustEnsure(t, p, "b")
		w.daemon("a").request()
		time.Sleep(time.Hour)
		a, b := w.daemon("a"), w.daemon("b")
		if a == nil || b != nil || w.killedBusy != 0 { // b was idle
			t.Fatalf("after an hour of work: %v %v", a, b)
		}
		a.mu.Lock()
		w.deaf = true
		a.mu.Unlock()
		time.Sleep(silenceEnded + p.stopTimeout + 2*housekeeping)
		view, _ := p.get("a")
		if w.daemon("a") != nil || view.Status != statusExited || !strings.Contains(view.LastError, "it said nothing for 1m30s") {
			t.Errorf("a hung one: %+v", view)
		}
		w.mu.Lock()
		w.deaf, w.killedBusy = false, 0 // it was busy, as far as anybody knew
		w.mu.Unlock()
		mustEnsure(t, p, "a")
	})
}

// Between the daemon's consent and its coming to the pool, somebody was told
// that it is ready.
func TestPoolEnsureWhileTheDaemonIsAsked(t *testing.T) {
	w := &fakeWorld{answerLate: quiesceLimit / 2}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 1 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := p.ensure(t.Context(), "b"); poolCode(err) != codeCapacity {
				t.Errorf("ensure b: %v", err)
			}
		})
		synctest.Wait()
		mustEnsure(t, p, "a")
		time.Sleep(w.answerLate)
		synctest.Wait()
		if d := w.daemon("a"); d == nil || !d.request() {
			t.Error("it was ended, or still refuses requests")
		}
		wg.Wait()
	})
}

func TestPoolCrashLoop(t *testing.T) {
	w := &fakeWorld{crash: true}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		for range 100 { // a client that asks every 100 ms
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, _ = p.ensure(ctx, "x") // it fails
			cancel()
			time.Sleep(100 * time.Millisecond)
		}
		// At 0 s, at once, after 1 s, 2 s, 4 s, 8 s: 20 s hold six starts.
		if w.spawns > 6 || w.spawns < 5 {
			t.Errorf("%d spawns in 20 s", w.spawns)
		}
		time.Sleep(crashWindow + time.Second)
		w.mu.Lock()
		w.crash = false
		w.mu.Unlock()
		begin := time.Now()
		if view := mustEnsure(t, p, "x"); time.Since(begin) > 0 || view.LastError == "" || view.Restarts == 0 {
			t.Errorf("after a quiet minute: %+v, %v", view, time.Since(begin))
		}
	})
}

// The event of a death and what is shown afterwards are the same.
func TestPoolDeathIsTold(t *testing.T) {
	w := &fakeWorld{}
	var last poolEntry
	inBubble(t, w, func(c *poolConfig) { c.onEvent = func(e poolEntry) { last = e } }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		w.daemon("a").end()
		synctest.Wait()
		if view, _ := p.get("a"); last != view || view.Status != statusExited || view.Restarts != 0 {
			t.Errorf("told %+v, shown %+v", last, view)
		}
	})
}

func TestPoolBackoffLongerThanTheSpawnTimeout(t *testing.T) {
	w := &fakeWorld{crash: true}
	inBubble(t, w, func(c *poolConfig) { c.spawnTimeout = 1500 * time.Millisecond }, func(t *testing.T, p *pool) {
		var last *apiError
		for range 4 {
			_, err := p.ensure(t.Context(), "x")
			last, _ = errors.AsType[*apiError](err)
		}
		if last == nil || last.code != codeAutoStartFailed || last.retryAfter != 2*time.Second {
			t.Errorf("the refusal: %+v", last)
		}
	})
}

func TestPoolShutdownStopsSideBySide(t *testing.T) {
	w := &fakeWorld{stopAfter: -1}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 50 }, func(t *testing.T, p *pool) {
		for i := range 50 {
			mustEnsure(t, p, fmt.Sprint(i))
		}
		begin := time.Now()
		if err := p.stopAll(t.Context()); err != nil || time.Since(begin) != p.stopTimeout || w.killed != 50 {
			t.Errorf("%v after %v, %d killed", err, time.Since(begin), w.killed)
		}
	})
}

func TestPoolNamesThatDifferInCaseOnly(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		p.folds = true
		mustEnsure(t, p, "Lib")
		if _, err := p.ensure(t.Context(), "lib"); poolCode(err) != codeInvalidLibID {
			t.Errorf("beside a running one: %v", err)
		}
		if err := p.stopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.ensure(t.Context(), "lib"); poolCode(err) != codeInvalidLibID {
			t.Errorf("beside a directory: %v", err)
		}
		mustEnsure(t, p, "Lib")
	})
}

func TestLibID(t *testing.T) {
	long := string(slices.Repeat([]byte("x"), maxLibID))
	for id, want := range map[string]bool{
		"a": true, "lib_abc123": true, "A.b-c_9": true, long: true, "libraries.json.bak": true,
		"": false, long + "x": false, ".a": false, "-a": false, "..": false, "a/b": false, `a\b`: false, "a b": false,
		"ä": false, "a\x00": false, "a\n": false, "libraries.json": false,
	} {
		if validLibID(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

func TestRespawnDelay(t *testing.T) {
	for n, want := range []time.Duration{0, 0, 1, 2, 4, 8, 16, 30, 30} {
		if got := respawnDelay(n); got != want*time.Second {
			t.Errorf("after death %d: %v, want %v", n, got, want*time.Second)
		}
	}
	if respawnDelay(1<<30) != respawnMost {
		t.Error("unbounded")
	}
	now := time.Now()
	d := crashHistory{}.after(now, "a").after(now.Add(time.Second), "b")
	if d.inRow != 2 || d.total != 2 || d.lastError != "b" || d.wait(now.Add(1500*time.Millisecond)) != 500*time.Millisecond {
		t.Errorf("two deaths: %+v", d)
	}
	if d = d.after(now.Add(time.Hour), "c"); d.inRow != 1 || d.total != 3 {
		t.Errorf("a death much later: %+v", d)
	}
}

// Random use: nothing busy is ended, never more than the maximum runs, every
// request is served or refused, nothing is left over.
func TestPoolStress(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := &fakeWorld{readyAfter: 200 * time.Millisecond, stopAfter: 300 * time.Millisecond}
			var served, refused atomic.Int64
			inBubble(t, w, func(c *poolConfig) { c.idleTimeout = 20 * time.Second }, func(t *testing.T, p *pool) {
				var clients sync.WaitGroup
				end := time.Now().Add(10 * time.Minute)
				for i := range 8 {
					clients.Go(func() {
						rnd := rand.New(rand.NewPCG(seed, uint64(i)))
						for time.Now().Before(end) {
							id := fmt.Sprint("lib", rnd.IntN(7))
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(30_000))*time.Millisecond)
							_, err := p.ensure(ctx, id)
							cancel()
							if err != nil && poolCode(err) != codeCapacity && !errors.Is(err, context.DeadlineExceeded) && poolCode(err) != codeAutoStartFailed && poolCode(err) != codeDeleted {
								t.Errorf("ensure: %v", err)
							}
							if d := w.daemon(id); err == nil && d != nil && d.request() {
								time.Sleep(time.Duration(rnd.IntN(30_000)) * time.Millisecond)
								d.finish()
								served.Add(1)
							} else {
								refused.Add(1)
							}
							time.Sleep(time.Duration(rnd.IntN(5_000)) * time.Millisecond)
							switch d := w.daemon(id); {
							case d != nil && rnd.IntN(50) == 0 && d.idle():
								d.end() // a crash
							case rnd.IntN(50) == 0:
								w.deletes(id, 1)
								if err := p.remove(t.Context(), id); err != nil && poolCode(err) != codeNotFound {
									t.Errorf("remove: %v", err)
								}
								w.deletes(id, -1)
							}
						}
					})
				}
				clients.Wait()
			})
			if w.killedBusy != 0 || w.peak > 3 || served.Load() == 0 {
				t.Errorf("%d killed while busy, peak %d, %d served, %d refused, %d spawns", w.killedBusy, w.peak, served.Load(), refused.Load(), w.spawns)
			}
		})
	}
}

// idle tells whether no request runs.
func (d *fakeDaemon) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active == 0
}

// lockProbe is a log handler that looks, from within each call, whether a lock
// is free.
type lockProbe struct {
	slog.Handler
	t *testing.T

	mu     sync.Mutex // guards the fields below
	inside func()     // takes the lock and lets go of it; nil while there is none
	seen   []string
}

func newLockProbe(t *testing.T) *lockProbe { return &lockProbe{Handler: slog.DiscardHandler, t: t} }

func (l *lockProbe) Enabled(context.Context, slog.Level) bool { return true }

func (l *lockProbe) Handle(_ context.Context, r slog.Record) error {
	l.look(r.Message)
	return nil
}

func (l *lockProbe) watch(inside func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inside = inside
}

func (l *lockProbe) look(from string) {
	l.mu.Lock()
	l.seen = append(l.seen, from)
	inside := l.inside
	l.mu.Unlock()
	if inside == nil {
		return
	}
	done := make(chan struct{})
	go func() { // ends at once, or when the lock is released
		defer close(done)
		inside()
	}()
	select {
	case <-done:
	case <-time.After(eventually):
		l.t.Errorf("%q is told while the lock is held, want it told after the lock is released", from)
		l.watch(nil) // once is enough
	}
}

// wantSeen checks that all of it was told.
func (l *lockProbe) wantSeen(all ...string) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, want := range all {
		if !slices.Contains(l.seen, want) {
			l.t.Errorf("told %q, want %q among them", l.seen, want)
		}
	}
}

// What the pool calls may block for long, or call the pool: a log handler and a
// subscriber are called without its lock.
func TestPoolCallsOutWithoutItsLock(t *testing.T) {
	t.Parallel()
	probe := newLockProbe(t)
	w := &fakeWorld{stopAfter: -1, deafTo: map[string]bool{"a": true}, running: map[string]*fakeDaemon{}, allowKillMid: true}
	p, err := newPool(poolConfig{
		workspace: t.TempDir(), server: "ws://x", maxDaemons: 1, spawnTimeout: patience, stopTimeout: time.Millisecond,
		log: slog.New(probe), start: w.start, onEvent: func(e poolEntry) { probe.look("event " + string(e.Status)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	probe.watch(func() { p.counts() })
	mustEnsure(t, p, "a")
	if _, err := p.ensure(t.Context(), "b"); poolCode(err) != codeCapacity { // a does not answer whether it can go
		t.Errorf("got %v, want %s", err, codeCapacity)
	}
	w.daemon("a").end()
	awaitThat(t, "the crash is noticed", func() bool { view, _ := p.get("a"); return view.Status == statusExited })
	mustEnsure(t, p, "b")
	if err := errors.Join(p.remove(t.Context(), "b"), p.shutdown(t.Context())); err != nil {
		t.Error(err)
	}
	probe.wantSeen(
		"a daemon is ready", "a daemon did not answer whether it is idle", "a daemon died", "a daemon did not stop in time and is killed", "a daemon was stopped",
		"event starting", "event ready", "event stopping", "event exited")
}
