package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// This file is the state machine of an entry of the pool. It only decides:
// pool.carryOut and the owner in pool_owner.go act.

type entryStatus string

const (
	statusStarting entryStatus = "starting"
	statusReady    entryStatus = "ready"
	statusStopping entryStatus = "stopping"
	statusExited   entryStatus = "exited"
)

func (entryStatus) values() []string {
	return []string{string(statusStarting), string(statusReady), string(statusStopping), string(statusExited)}
}

const (
	// silenceAsked is how long a child may send nothing before it is asked for its
	// status, silenceEnded how long until it counts as hung. In between it has a
	// minute to answer, as it has for a heartbeat.
	silenceAsked = 30 * time.Second
	silenceEnded = silenceAsked + time.Minute
)

// poolEntry is a daemon of the pool as the HTTP API shows it.
type poolEntry struct {
	LibID          string      `json:"lib_id"`
	MachineID      string      `json:"machine_id" doc:"cloud_ and the lib_id"`
	Status         entryStatus `json:"status"`
	PID            int         `json:"pid,omitempty"`
	WorkDir        string      `json:"work_dir" doc:"absolute"`
	StartedAt      time.Time   `json:"started_at,omitzero"`
	LastUsedAt     time.Time   `json:"last_used_at,omitzero"`
	Busy           bool        `json:"busy" doc:"whether it runs a request"`
	ActiveRequests int         `json:"active_requests"`
	Restarts       int         `json:"restarts" doc:"how often it was started again after a crash"`
	LastError      string      `json:"last_error,omitempty" doc:"how the last crash happened"`
	Node           string      `json:"node,omitempty" doc:"with nodes=all, the URL of its scheduler"`

	crashed bool // it has just ended by a crash
}

// entry is one lib_id in the pool: its child, or the way to or from one. Its
// owner, the goroutine in pool.run, alone starts, signals, reaps and clears up,
// and alone publishes changes, so that subscribers see them in order. Others
// apply an event, which wakes the owner.
type entry struct {
	libID         string
	workDir       string
	wake          chan struct{} // 1-buffered: the owner has something to do
	readyOrFailed chan struct{} // closed when the child is ready, and when it never will be
	gone          chan struct{} // closed when everything is cleared up and the entry has left the pool

	state entryState // changed by apply alone, under the pool's lock
}

// entryState is everything that changes in an entry.
type entryState struct {
	status      entryStatus
	slot        bool // counts toward maxDaemons, until the process is reaped
	onlyRemoves bool // there is no child: the entry keeps ensures away while its directory is removed
	pid         int
	admitted    time.Time // of the ensure that made the entry
	started     time.Time // of the process; zero without one
	lastUsed    time.Time // the last ensure, or the end of the last request
	active      int       // running requests
	restarts    int       // crashes before this child
	history     crashHistory

	wasReady   bool
	resolved   bool      // readyOrFailed is closed, or about to be
	failed     *apiError // the error of ensures that wait for a child that is never ready
	died       bool      // ended unasked, or by the pool because of a fault
	fault      string    // that fault: not ready in time, or hung
	remove     bool      // by a DELETE: the directory is removed too
	removeErr  error
	terminated bool // the owner has terminated the child
	changed    bool // by others than the owner, which has yet to publish it

	quiesce      *quiesceRequest // under way; nil for none
	asks         int64           // quiesce ops sent; the number of the last one
	unresponsive bool            // the last quiesce was not answered, and nothing came since
	silence      time.Duration   // since the child sent something
	statusAsked  bool            // in this silence
	logLevel     string          // to be sent to the child; "" when it was

	clones   []int64      // of the child that have a place in the pool or wait for one
	places   []clonePlace // of these
	unplaced bool         // places are to be sent to the child
}

// quiesceRequest is one question to a child whether it can go.
type quiesceRequest struct {
	idle   time.Duration // it must have been idle for so long
	reason evictionReason
	done   chan struct{} // closed with the answer

	sent      bool
	reclaimed bool // an ensure came while the child was asked: it stays
	leaves    bool // the answer; set before done is closed
}

// entryEvent is something that happens to an entry: one of the types below, or a
// controlEvent of its child.
type entryEvent any

// Events that the owner applies.
type (
	ownerTurn       struct{}                  // the owner looks for what others want of it
	childStarted    struct{ pid int }         // the process exists
	quiesceTimedOut struct{}                  // the child did not answer within quiesceLimit
	timePassed      struct{ d time.Duration } // of the housekeeping
	dirRemoved      struct{ err error }       // as a DELETE wanted
	startTimedOut   struct {                  // the child has had its time to become ready
		limit     time.Duration
		lastLines string
	}
	// childEnded says that the child is reaped, or could not be started.
	childEnded struct {
		how     string    // a clause for people
		refused *apiError // the lib_id cannot have a child; nil for all others
	}
)

// Events that others apply.
type (
	ensured          struct{}                          // an ensure found the child ready: a use
	quiesceRequested struct{ request *quiesceRequest } // see pool.requestQuiesce
	logLevelSet      struct{ level string }            // the child is to log at this level
	clonesPlaced     struct{ places []clonePlace }     // see poolState.placeClones
	// stopRequested ends the child. why is the error of ensures that wait for it to
	// be ready; nil means an eviction.
	stopRequested struct {
		why    *apiError
		remove bool // the directory too
	}
)

// effects lists what has to be done outside the entry's state after an event.
// pool.update does it after the lock is released, except for the orders to the
// owner.
type effects struct {
	log      *logLine
	count    func(*poolMetrics)
	publish  *poolEntry      // for onEvent
	resolved bool            // close readyOrFailed
	answered *quiesceRequest // close its done
	wake     bool            // wake the owner
	freed    bool            // a slot is free
	clones   bool            // the clones of the child are to be placed
	crashed  bool            // remember the crash
	forget   bool            // the crashes before: the child ended in order

	// Orders to the owner.
	send      []controlOp
	terminate bool
	removeDir bool
}

// logLine is a line for the log.
type logLine struct {
	level slog.Level
	text  string
	args  []any
}

func newEntry(libID, workDir string, state entryState) *entry {
	return &entry{
		libID:         libID,
		workDir:       workDir,
		wake:          make(chan struct{}, 1),
		readyOrFailed: make(chan struct{}),
		gone:          make(chan struct{}),
		state:         state,
	}
}

// view is the entry as the HTTP API shows it.
func (e *entry) view() poolEntry {
	s := &e.state
	return poolEntry{
		LibID:          e.libID,
		MachineID:      machineIDOf(e.libID),
		Status:         s.status,
		PID:            s.pid,
		WorkDir:        e.workDir,
		StartedAt:      s.started.UTC(),
		LastUsedAt:     s.lastUsed.UTC(),
		Busy:           s.active > 0,
		ActiveRequests: s.active,
		Restarts:       s.restarts,
		LastError:      s.history.lastError,
		crashed:        s.status == statusExited && s.died && !s.remove,
	}
}

// apply is the only function that changes an entry's state. It runs under the
// pool's lock, does not block, and leaves everything outside the state to the
// effects that it returns.
func (e *entry) apply(event entryEvent) (fx effects) {
	s, now := &e.state, time.Now()
	switch event := event.(type) {
	case ownerTurn:
		if s.changed {
			e.publish(&fx)
		}
		switch {
		case s.status == statusStopping && !s.terminated:
			s.terminated, fx.terminate = true, true
		case s.quiesce != nil && !s.quiesce.sent:
			s.asks++
			s.quiesce.sent = true
			fx.send = []controlOp{{Op: opQuiesce, IdleMS: s.quiesce.idle.Milliseconds(), Ask: s.asks}}
		}
		if s.logLevel != "" && s.pid != 0 && !fx.terminate {
			fx.send = append(fx.send, controlOp{Op: opLogLevel, Level: s.logLevel})
			s.logLevel = ""
		}
		if s.unplaced && s.status == statusReady {
			fx.send = append(fx.send, controlOp{Op: opClones, Places: s.places})
			s.unplaced = false
		}

	case childStarted:
		s.pid, s.started = event.pid, now
		e.publish(&fx)

	case controlEvent:
		s.silence, s.statusAsked, s.unresponsive = 0, false, false
		e.applyControl(event, now, &fx)

	case startTimedOut:
		if s.status == statusStarting {
			s.died, s.fault = true, fmt.Sprintf("it was not ready within %v", event.limit)
			e.stop(&apiError{code: codeSpawnTimeout, status: http.StatusGatewayTimeout,
				message: fmt.Sprintf("the daemon for %s was not ready within %v: see its %s%s", e.libID, event.limit, logFileName, indented(event.lastLines))}, &fx)
		}

	case quiesceTimedOut:
		if s.quiesce != nil && s.quiesce.sent {
			s.unresponsive = true
			fx.log = &logLine{slog.LevelWarn, "a daemon did not answer whether it is idle", []any{"lib_id", e.libID, "limit_ms", quiesceLimit.Milliseconds()}}
			e.answerQuiesce(false, &fx)
			fx.send = []controlOp{{Op: opResume}} // it may yet read the question, and then this
		}

	case timePassed:
		// The pauses of the housekeeping are added up, and not the clock's time: a
		// scheduler that was itself stopped must not blame its children.
		s.silence += event.d
		switch {
		case s.status == statusStopping:
		case s.silence >= silenceEnded && s.status == statusReady:
			s.died, s.fault = true, fmt.Sprintf("it said nothing for %v", silenceEnded)
			e.stop(&apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable,
				message: fmt.Sprintf("the daemon for %s hung: %s", e.libID, s.fault)}, &fx)
		case s.silence >= silenceAsked && !s.statusAsked:
			s.statusAsked = true
			fx.send = []controlOp{{Op: opStatus}}
		}

	case childEnded:
		e.end(event, now, &fx)

	case dirRemoved:
		s.removeErr = event.err
		e.exit(&fx)

	case ensured:
		s.lastUsed = now
		if s.quiesce != nil {
			s.quiesce.reclaimed = true
		}

	case quiesceRequested:
		if s.status == statusReady && s.quiesce == nil {
			s.quiesce, fx.wake = event.request, true
		}

	case logLevelSet:
		s.logLevel, fx.wake = event.level, true

	case clonesPlaced:
		s.places, s.unplaced, fx.wake = event.places, true, true

	case stopRequested:
		if s.status != statusExited {
			s.remove = s.remove || event.remove
			e.stop(event.why, &fx)
		}

	default:
		panic(fmt.Sprintf("an entry of the pool knows no event %T", event))
	}
	return fx
}

// The methods below are parts of apply.

// applyControl applies an event of the child. A child that agreed to quiesce and is
// in use again is told to resume: until then it refuses requests.
func (e *entry) applyControl(event controlEvent, now time.Time, fx *effects) {
	s := &e.state
	switch event.Event {
	case eventReady:
		if s.status != statusStarting {
			return
		}
		s.status, s.wasReady, s.lastUsed = statusReady, true, now
		e.resolve(fx)
		took := now.Sub(s.admitted)
		fx.count = func(m *poolMetrics) { m.spawned(spawnReady, took) }
		fx.log = &logLine{slog.LevelInfo, "a daemon is ready", []any{"lib_id", e.libID, "pid", s.pid, "start_ms", now.Sub(s.started).Milliseconds()}}
		e.publish(fx)
	case eventStatus:
		e.applyStatus(event, now, fx)
	case eventClone:
		fx.count = func(m *poolMetrics) { m.cloned(event.OK, time.Duration(event.TookMS)*time.Millisecond) }
	default:
		// An event of a later version: it only shows that the child is alive.
	}
}

func (e *entry) applyStatus(event controlEvent, now time.Time, fx *effects) {
	s := &e.state
	shown := s.active != event.Active
	s.active = event.Active
	used := now
	if event.Active == 0 {
		// Bounded before it is a Duration, which a large number would overflow.
		idle := min(event.IdleMS, now.Sub(s.started).Milliseconds())
		used = now.Add(-time.Duration(idle) * time.Millisecond)
	}
	if used.After(s.lastUsed) {
		s.lastUsed = used
	}
	fx.clones = !slices.Equal(event.Clones, s.clones)
	s.clones = event.Clones
	s.unplaced = len(s.clones) > 0 // again, even if they have the same: an earlier answer may be lost
	if s.status != statusReady {
		return
	}
	// A status that does not answer the op may be older than the op.
	if q := s.quiesce; q != nil && q.sent && event.Ask == s.asks {
		if event.Quiesced && !q.reclaimed {
			// From here on it refuses requests: ending it can lose none.
			fx.count = func(m *poolMetrics) { m.evicted(q.reason) }
			e.stop(nil, fx)
			return
		}
		e.answerQuiesce(false, fx)
		if event.Quiesced {
			fx.send = []controlOp{{Op: opResume}}
		}
	}
	if shown {
		e.publish(fx)
	}
}

// stop has the owner end the child; it does nothing where that has begun.
func (e *entry) stop(why *apiError, fx *effects) {
	s := &e.state
	if s.status == statusStopping || s.status == statusExited {
		return
	}
	s.status = statusStopping
	if !s.wasReady {
		s.failed = why
	}
	e.resolve(fx)
	e.answerQuiesce(why == nil, fx)
	s.changed, fx.wake = true, true
}

// end takes in that there is no process any more.
func (e *entry) end(event childEnded, now time.Time, fx *effects) {
	s, how := &e.state, event.how
	hadChild := !s.onlyRemoves && event.refused == nil
	if event.refused != nil {
		s.status, s.failed = statusStopping, event.refused
	}
	s.died = s.died || s.status == statusStarting || s.status == statusReady
	if s.fault != "" {
		how = s.fault + ": " + how
	}
	crashes := s.history.after(now, how)
	if s.died && s.status == statusStarting {
		s.failed = &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable,
			message:  fmt.Sprintf("starting the daemon for %s: %s", e.libID, how),
			retryNow: respawnDelay(crashes.inRow) == 0}
	}
	switch {
	case s.died:
		fx.log = &logLine{slog.LevelError, "a daemon died", []any{"lib_id", e.libID, "pid", s.pid, "ready", s.wasReady, "error", how}}
	case hadChild:
		fx.log = &logLine{slog.LevelInfo, "a daemon was stopped", []any{"lib_id", e.libID, "pid", s.pid}}
	}
	if hadChild {
		fx.count = e.countEnd()
	}
	fx.freed, fx.clones, s.clones = s.slot, len(s.clones) > 0, nil
	s.slot, s.pid, s.active, s.status = false, 0, 0, statusStopping
	e.answerQuiesce(false, fx)
	e.resolve(fx)
	if s.remove {
		fx.removeDir = true
		return
	}
	if s.died {
		s.history = crashes
	}
	e.exit(fx)
}

// exit is the last change of the state.
func (e *entry) exit(fx *effects) {
	s := &e.state
	s.status = statusExited
	fx.crashed = s.died && !s.remove
	fx.forget = !fx.crashed
	if !s.onlyRemoves {
		e.publish(fx)
	}
}

// countEnd counts a start that came to nothing, or a crash.
func (e *entry) countEnd() func(*poolMetrics) {
	s := &e.state
	result := spawnStopped
	switch {
	case s.wasReady && s.died:
		return (*poolMetrics).crashed
	case s.wasReady:
		return nil
	case s.failed != nil && s.failed.code == codeSpawnTimeout:
		result = spawnTimeout
	case s.died:
		result = spawnFailed
	}
	return func(m *poolMetrics) { m.spawned(result, 0) }
}

func (e *entry) publish(fx *effects) {
	view := e.view()
	fx.publish, e.state.changed = &view, false
}

func (e *entry) resolve(fx *effects) {
	fx.resolved = !e.state.resolved
	e.state.resolved = true
}

func (e *entry) answerQuiesce(leaves bool, fx *effects) {
	if q := e.state.quiesce; q != nil {
		q.leaves = leaves
		fx.answered, e.state.quiesce = q, nil
	}
}
