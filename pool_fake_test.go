//go:build linux || darwin

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
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
	clones   []int64  // that have a place in the pool or wait for one
	places   string   // of these, as it was sent
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
	return controlEvent{Event: eventStatus, Active: d.active, IdleMS: time.Since(d.lastEnd).Milliseconds(), Quiesced: d.quiesced, Clones: d.clones}
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
	case opClones:
		d.places = fmt.Sprint(op.Places)
		return nil
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
			t.Errorf("after shutdown: got %d alive, %d that ran beside another of their lib_id, want none", w.alive, w.overlapping)
		}
		if _, err := p.ensure(context.Background(), "late"); poolCode(err) != codeAutoStartFailed {
			t.Errorf("ensure after shutdown: got %v, want %s", err, codeAutoStartFailed)
		}
	})
}

// clone says which clones want a place.
func (d *fakeDaemon) clone(ids ...int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clones, d.active, d.lastEnd = ids, len(ids), time.Now()
	d.tell(d.status())
}

// placed returns the places that the daemon was sent.
func (d *fakeDaemon) placed() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.places
}

// idle reports whether no request runs.
func (d *fakeDaemon) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active == 0
}
