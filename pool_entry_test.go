package main

import (
	"fmt"
	"go/ast"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// step is one event of an entry and what it must lead to.
type step struct {
	event  entryEvent
	status entryStatus
	want   string // the effects; see effects.String
}

// String names the effects, in the order of their fields.
func (fx effects) String() string {
	var names []string
	add := func(name string, set bool) {
		if set {
			names = append(names, name)
		}
	}
	if fx.log != nil {
		names = append(names, fx.log.level.String())
	}
	add("count", fx.count != nil)
	if fx.publish != nil {
		names = append(names, "publish "+string(fx.publish.Status))
	}
	add("resolved", fx.resolved)
	if fx.answered != nil {
		names = append(names, map[bool]string{true: "leaves", false: "stays"}[fx.answered.leaves])
	}
	add("wake", fx.wake)
	add("freed", fx.freed)
	add("crashed", fx.crashed)
	add("forget", fx.forget)
	for _, op := range fx.send {
		names = append(names, "send "+op.Op)
	}
	add("terminate", fx.terminate)
	add("removeDir", fx.removeDir)
	return strings.Join(names, ", ")
}

func TestEntryApply(t *testing.T) {
	ready := controlEvent{Event: eventReady}
	request := func() quiesceRequested {
		return quiesceRequested{&quiesceRequest{reason: evictedIdle, done: make(chan struct{})}}
	}
	answer := func(ask int64) controlEvent { return controlEvent{Event: eventStatus, Quiesced: true, Ask: ask} }
	start := []step{
		{ownerTurn{}, statusStarting, "publish starting"},
		{childStarted{7}, statusStarting, "publish starting"},
	}
	running := append(start[:2:2], step{ready, statusReady, "INFO, count, publish ready, resolved"})
	deleted := stopRequested{why: errDeleted("x"), remove: true}
	for name, steps := range map[string][]step{
		"start and stop": append(running[:3:3],
			step{ready, statusReady, ""},
			step{stopRequested{why: errShuttingDown()}, statusStopping, "wake"},
			step{stopRequested{why: errShuttingDown()}, statusStopping, ""},
			step{ownerTurn{}, statusStopping, "publish stopping, terminate"},
			step{ownerTurn{}, statusStopping, ""},
			step{timePassed{time.Hour}, statusStopping, ""},
			step{childEnded{how: "it ended"}, statusExited, "INFO, publish exited, freed, forget"},
			step{deleted, statusExited, ""}),
		"stopped before it is started": {
			{stopRequested{why: errShuttingDown()}, statusStopping, "resolved, wake"},
			{ownerTurn{}, statusStopping, "publish stopping, terminate"},
			{childEnded{how: "not started"}, statusExited, "INFO, count, publish exited, freed, forget"}},
		"cannot be started":    append(start[:1:1], step{childEnded{how: "no program"}, statusExited, "ERROR, count, publish exited, resolved, freed, crashed"}),
		"lib_id is refused":    append(start[:1:1], step{childEnded{"x", errSameName("x", "X")}, statusExited, "publish exited, resolved, freed, forget"}),
		"crash":                append(running[:3:3], step{childEnded{how: "killed"}, statusExited, "ERROR, count, publish exited, freed, crashed"}),
		"never ready":          append(start[:2:2], step{startTimedOut{time.Second, "last"}, statusStopping, "resolved, wake"}, step{childEnded{how: "killed"}, statusExited, "ERROR, count, publish exited, freed, crashed"}),
		"ready before timeout": append(running[:3:3], step{startTimedOut{time.Second, "last"}, statusReady, ""}),
		"hung": append(running[:3:3],
			step{timePassed{silenceAsked}, statusReady, "send status"},
			step{timePassed{time.Second}, statusReady, ""},
			step{controlEvent{Event: "of a later version"}, statusReady, ""},
			step{timePassed{silenceAsked}, statusReady, "send status"},
			step{timePassed{silenceEnded - silenceAsked}, statusStopping, "wake"},
			step{childEnded{how: "killed"}, statusExited, "ERROR, count, publish exited, freed, crashed"}),
		"clones": append(running[:3:3],
			step{controlEvent{Event: eventStatus, Active: 1, Clones: []int64{1}}, statusReady, "publish ready"},
			step{clonesPlaced{[]clonePlace{{ID: 1}}}, statusReady, "wake"},
			step{ownerTurn{}, statusReady, "send clones"},
			step{ownerTurn{}, statusReady, ""},
			step{clonesPlaced{[]clonePlace{{ID: 1}}}, statusReady, "wake"},
			step{stopRequested{why: errShuttingDown()}, statusStopping, "wake"},
			step{ownerTurn{}, statusStopping, "publish stopping, terminate"}),
		"deleted": append(running[:3:3],
			step{deleted, statusStopping, "wake"},
			step{childEnded{how: "it ended"}, statusStopping, "INFO, freed, removeDir"},
			step{deleted, statusStopping, ""},
			step{dirRemoved{}, statusExited, "publish exited, forget"}),
		"deleted, then stopped with all others": append(running[:3:3],
			step{deleted, statusStopping, "wake"},
			step{stopRequested{why: errShuttingDown()}, statusStopping, ""},
			step{childEnded{how: "it ended"}, statusStopping, "INFO, freed, removeDir"}),
		"deleted while it stops": append(running[:3:3],
			step{stopRequested{why: errShuttingDown()}, statusStopping, "wake"},
			step{deleted, statusStopping, ""},
			step{childEnded{how: "it ended"}, statusStopping, "INFO, freed, removeDir"}),
		"evicted": append(running[:3:3],
			step{request(), statusReady, "wake"},
			step{request(), statusReady, ""}, // one at a time
			step{answer(0), statusReady, ""}, // an old status: nothing was asked
			step{ownerTurn{}, statusReady, "send quiesce"},
			step{ownerTurn{}, statusReady, ""},
			step{answer(0), statusReady, ""}, // of its own accord, before it read the question
			step{answer(1), statusStopping, "count, leaves, wake"}),
		"used while it is asked": append(running[:3:3],
			step{request(), statusReady, "wake"},
			step{ownerTurn{}, statusReady, "send quiesce"},
			step{ensured{}, statusReady, ""},
			step{answer(1), statusReady, "stays, send resume"}),
		"does not answer": append(running[:3:3],
			step{quiesceTimedOut{}, statusReady, ""},
			step{request(), statusReady, "wake"},
			step{ownerTurn{}, statusReady, "send quiesce"},
			step{quiesceTimedOut{}, statusReady, "WARN, stays, send resume"}),
		"stopped while it is asked": append(running[:3:3],
			step{request(), statusReady, "wake"},
			step{stopRequested{why: errShuttingDown()}, statusStopping, "stays, wake"}),
		"busy": append(running[:3:3],
			step{controlEvent{Event: eventStatus, Active: 2}, statusReady, "publish ready"},
			step{controlEvent{Event: eventStatus, Active: 2}, statusReady, ""},
			step{controlEvent{Event: eventClone, OK: true}, statusReady, "count"}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the clock stands still
				e := newEntry("x", "/w/x", entryState{status: statusStarting, slot: true, admitted: time.Now(), changed: true})
				for i, step := range steps {
					fx := e.apply(step.event)
					if got := fx.String(); got != step.want || e.state.status != step.status {
						t.Errorf("step %d, %T: got %q and the status %s, want %q and %s", i, step.event, got, e.state.status, step.want, step.status)
					}
				}
			})
		})
	}
}

// An entry's state is changed in pool_entry.go, and the pool's lock is taken by
// one function.
func TestPoolHasOneDoor(t *testing.T) {
	locks := 0
	for name, file := range packageFiles(t) {
		inspectAssigned(file, func(x ast.Expr) {
			if chain := selectorChain(x); name != "pool_entry.go" && strings.Contains(chain, "state.") && strings.HasPrefix(chain, "e.") {
				t.Errorf("%s assigns to %s: apply an event in its place", name, chain)
			}
		})
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && selectorChain(call.Fun) == "p.mu.Lock" && strings.HasPrefix(name, "pool") {
				locks++
			}
			return true
		})
	}
	if locks != 1 {
		t.Errorf("the pool's lock is taken in %d places, want 1", locks)
	}
}

// inspectAssigned calls f with everything that a file assigns to.
func inspectAssigned(file *ast.File, f func(ast.Expr)) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, x := range n.Lhs {
				f(x)
			}
		case *ast.IncDecStmt:
			f(n.X)
		}
		return true
	})
}

// selectorChain is a.b.c as text, "" for anything else.
func selectorChain(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return selectorChain(x.X) + "." + x.Sel.Name
	}
	return ""
}

// The crashes of at most 1,024 lib_ids are remembered; the oldest are forgotten.
func TestPoolRemembersSomeCrashes(t *testing.T) {
	s := &poolState{tombstones: map[string]*tombstone{}}
	begin := time.Now()
	for i := range 1100 {
		e := newEntry(fmt.Sprint("lib", i), "", entryState{})
		e.state.history.last = begin.Add(time.Duration(i) * time.Second)
		s.recordCrash(e)
	}
	if n := len(s.tombstones); n != 1024 {
		t.Errorf("got %d crashes kept, want 1024", n)
	}
	if s.tombstones["lib75"] != nil || s.tombstones["lib76"] == nil || s.tombstones["lib1099"] == nil {
		t.Error("want the newest kept")
	}
}

// A status that is older than the last use does not take the use back: else a daemon
// that was just asked for could be ended as idle.
func TestEntryKeepsTheLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEntry("x", "", entryState{status: statusStarting})
		e.apply(childStarted{7})
		e.apply(controlEvent{Event: eventReady})
		time.Sleep(time.Minute)
		e.apply(ensured{})
		used := time.Now()
		time.Sleep(time.Second)
		e.apply(controlEvent{Event: eventStatus, IdleMS: 61_000})
		if got := e.state.lastUsed; !got.Equal(used) {
			t.Errorf("after a status of before the use: got the last use %v, want %v", got, used)
		}
		e.apply(controlEvent{Event: eventStatus, IdleMS: 500})
		if got, want := e.state.lastUsed, time.Now().Add(-500*time.Millisecond); !got.Equal(want) {
			t.Errorf("after a request half a second ago: got the last use %v, want %v", got, want)
		}
	})
}
