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
			t.Errorf("got %d spawns and %d that started it, want 1 and 1", w.spawns, started.Load())
		}
	})
}

func TestPoolSpawnOutlivesItsFirstCaller(t *testing.T) {
	w := &fakeWorld{readyAfter: time.Second}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.ensure(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first caller: got %v, want its deadline", err)
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
					t.Errorf("ensure: got %v, want %s", err, codeDeleted)
				}
				if time.Since(begin) > time.Second {
					t.Errorf("got the refusal after %v, want it at once", time.Since(begin))
				}
			})
		}
		synctest.Wait()
		for range 2 { // two DELETEs share one removal
			wg.Go(func() {
				if err := p.remove(t.Context(), "x"); err != nil {
					t.Errorf("remove: got %v, want no error", err)
				}
			})
		}
		wg.Wait()
		if _, err := os.Stat(filepath.Join(p.workspace, "x")); !os.IsNotExist(err) {
			t.Errorf("the directory: got %v, want it removed", err)
		}
		if _, found := p.get("x"); found {
			t.Error("got an entry after DELETE, want none")
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
			t.Errorf("got pid %d, which was being stopped, want another", second.PID)
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
			t.Errorf("stopAll: got %v, want the end of its context", err)
		}
		begin := time.Now()
		if _, err := p.ensure(t.Context(), "x"); poolCode(err) != codeSpawnTimeout || time.Since(begin) != p.spawnTimeout {
			t.Errorf("got %v after %v, want %s after %v", err, time.Since(begin), codeSpawnTimeout, p.spawnTimeout)
		}
		p.killNow()
	})
}

func TestPoolDaemonWithAnAbsurdIdleTime(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "x")
		w.daemon("x").tell(controlEvent{Event: eventStatus, IdleMS: math.MaxInt64 / 3})
		synctest.Wait()
		if view, _ := p.get("x"); view.LastUsedAt.After(time.Now()) {
			t.Errorf("got last_used_at %v, want none in the future", view.LastUsedAt)
		}
	})
}

// The last event of a daemon shows its state, also when the pool learned it from an
// answer before the daemon reported it.
func TestPoolPublishesTheLastChange(t *testing.T) {
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
			t.Errorf("the last event: got %+v, want an idle ready daemon", last)
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
			t.Fatalf("after an hour of work: got a alive %v, b alive %v, %d killed while busy, want a alone", a != nil, b != nil, w.killedBusy)
		}
		a.mu.Lock()
		w.deaf = true
		a.mu.Unlock()
		time.Sleep(silenceEnded + p.stopTimeout + 2*housekeeping)
		view, _ := p.get("a")
		if w.daemon("a") != nil || view.Status != statusExited || !strings.Contains(view.LastError, "it said nothing for 1m30s") {
			t.Errorf("a hung daemon: got %+v, want it exited for its silence", view)
		}
		w.mu.Lock()
		w.deaf, w.killedBusy = false, 0 // it was busy, as far as anybody knew
		w.mu.Unlock()
		mustEnsure(t, p, "a")
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
			t.Errorf("got %d spawns in 20 s, want 5 or 6", w.spawns)
		}
		time.Sleep(crashWindow + time.Second)
		w.mu.Lock()
		w.crash = false
		w.mu.Unlock()
		begin := time.Now()
		if view := mustEnsure(t, p, "x"); time.Since(begin) > 0 || view.LastError == "" || view.Restarts == 0 {
			t.Errorf("after a quiet minute: got %+v after %v, want a restart at once with the last error", view, time.Since(begin))
		}
	})
}

// The event of a death and what is shown afterwards are the same.
func TestPoolCrashIsPublished(t *testing.T) {
	w := &fakeWorld{}
	var last poolEntry
	inBubble(t, w, func(c *poolConfig) { c.onEvent = func(e poolEntry) { last = e } }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		w.daemon("a").end()
		synctest.Wait()
		if view, _ := p.get("a"); last != view || view.Status != statusExited || view.Restarts != 0 {
			t.Errorf("got the event %+v and the view %+v, want the same of a first crash", last, view)
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
			t.Errorf("got the refusal %+v, want %s with 2 s", last, codeAutoStartFailed)
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
			t.Errorf("got %v after %v, %d killed, want all 50 killed at once after %v", err, time.Since(begin), w.killed, p.stopTimeout)
		}
	})
}

func TestPoolNamesThatDifferInCaseOnly(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		p.folds = true
		mustEnsure(t, p, "Lib")
		if _, err := p.ensure(t.Context(), "lib"); poolCode(err) != codeInvalidLibID {
			t.Errorf("beside a running one: got %v, want %s", err, codeInvalidLibID)
		}
		if err := p.stopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.ensure(t.Context(), "lib"); poolCode(err) != codeInvalidLibID {
			t.Errorf("beside a directory: got %v, want %s", err, codeInvalidLibID)
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

// Random use: nothing busy is ended, never more than the maximum runs, every
// request is served or refused, nothing is left over.
func TestPoolStress(t *testing.T) {
	skipShort(t, "starts hundreds of processes")
	t.Parallel()
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
								t.Errorf("ensure: got %v, want a refusal for capacity, time, a crash or a DELETE", err)
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
									t.Errorf("remove: got %v, want none or %s", err, codeNotFound)
								}
								w.deletes(id, -1)
							}
						}
					})
				}
				clients.Wait()
			})
			if w.killedBusy != 0 || w.peak > 3 || served.Load() == 0 {
				t.Errorf("got %d killed while busy, peak %d, %d served (%d refused, %d spawns), want none killed, a peak of 3, some served", w.killedBusy, w.peak, served.Load(), refused.Load(), w.spawns)
			}
		})
	}
}

// What the pool calls may block for long, or call the pool: a log handler and a
// subscriber are called without its lock.
func TestPoolCallsOutWithoutItsLock(t *testing.T) {
	skipShort(t, "it takes seconds")
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

func TestPoolCallerThatIsGoneStartsNothing(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, nil, func(t *testing.T, p *pool) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.ensure(ctx, "x"); !errors.Is(err, context.Canceled) || w.spawns != 0 {
			t.Errorf("got %v and %d spawns, want %v and none", err, w.spawns, context.Canceled)
		}
	})
}
