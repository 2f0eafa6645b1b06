package main

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

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

// poolEntry is a daemon of the pool as the HTTP API shows it.
type poolEntry struct {
	LibID          string      `json:"lib_id"`
	MachineID      string      `json:"machine_id" doc:"cloud_ and the lib_id"`
	Status         entryStatus `json:"status"`
	PID            int         `json:"pid,omitempty"`
	WorkDir        string      `json:"work_dir" doc:"absolute"`
	StartedAt      time.Time   `json:"started_at,omitzero"`
	LastUsedAt     time.Time   `json:"last_used_at,omitzero"`
	Busy           bool        `json:"busy" doc:"it works on a request"`
	ActiveRequests int         `json:"active_requests"`
	Restarts       int         `json:"restarts" doc:"respawns after a death"`
	LastError      string      `json:"last_error,omitempty" doc:"why it ended, where it did"`
}

// entry is one lib_id with a child, or on the way to or from one. Its owner,
// the goroutine in pool.run, alone starts, signals, reaps and clears; everybody
// else writes a wish under the pool's lock and wakes it.
type entry struct {
	libID   string
	wake    chan struct{} // 1-buffered
	settled chan struct{} // closed when ready, or when that will not be
	gone    chan struct{} // closed when all is cleared and the entry has left the pool

	// Guarded by pool.mu.
	status    entryStatus
	place     bool // holds one of the pool's places: until its process is reaped
	pid       int
	admitted  time.Time // when it was asked for
	started   time.Time
	lastUsed  time.Time // the last ensure, or the end of the last request
	active    int
	wasReady  bool
	isSettled bool
	died      bool       // ended unasked, or by the pool for a fault
	fault     string     // that one: not ready in time, or hung
	failed    *poolError // why those who wait for ready do not get it
	remove    bool       // DELETE: the directory goes too
	removeErr error
	history   deaths
	probe     *probe
	mute      bool // its last probe went unanswered, and it has said nothing since
}

// probe is one question to a child whether it can go.
type probe struct {
	idle   time.Duration
	reason evictionReason
	sent   bool
	ask    int64         // the number of the op, once it is sent
	wanted bool          // an ensure came meanwhile: the child stays
	done   chan struct{} // closed with the answer
	leaves bool          // the answer, written before done is closed
}

func newEntry(libID string, status entryStatus, now time.Time) *entry {
	return &entry{
		libID:    libID,
		wake:     make(chan struct{}, 1),
		settled:  make(chan struct{}),
		gone:     make(chan struct{}),
		status:   status,
		admitted: now,
		lastUsed: now,
	}
}

func (e *entry) notify() {
	select {
	case e.wake <- struct{}{}:
	default: // the owner has not yet looked at the last one
	}
}

func (e *entry) settleLocked() {
	if !e.isSettled {
		e.isSettled = true
		close(e.settled)
	}
}

// run owns e from its reserved place to the end. It ends when the child is
// reaped and everything is cleared.
func (p *pool) run(e *entry) {
	c, err := p.launch(e)
	if err != nil {
		p.finish(e, err.Error())
		return
	}
	p.supervise(e, c)
	exit, lines := c.close()
	p.finish(e, exit+indented(lines))
}

// launch makes the work dir and starts the child in it.
func (p *pool) launch(e *entry) (child, error) {
	p.mu.Lock()
	unwanted := e.status == statusStopping
	p.mu.Unlock()
	if unwanted {
		return nil, errUnwanted
	}
	if err := p.makeWorkDir(e.libID); err != nil {
		return nil, err
	}
	c, err := p.start(p.spec(e.libID))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.pid, e.started = c.pid(), time.Now()
	p.tellLocked(e)
	return c, nil
}

// finish clears what an ended child leaves and takes e out of the pool. how
// tells its end, for the case that nobody asked for it.
func (p *pool) finish(e *entry, how string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	had := e.place // not so when there was but a directory to delete
	if e.place {
		e.place = false
		p.places--
		close(p.freed)
		p.freed = make(chan struct{})
	}
	if e.status == statusStarting || e.status == statusReady {
		e.died = true
	}
	if e.fault != "" {
		how = e.fault + ": " + how
	}
	if e.died {
		p.log.Error("a daemon died", "lib_id", e.libID, "pid", e.pid, "ready", e.wasReady, "error", how)
		if e.status == statusStarting {
			e.failed = &poolError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable,
				message:  fmt.Sprintf("starting the daemon for %s: %s", e.libID, how),
				diedOnce: respawnDelay(e.history.after(time.Now(), how).inRow) == 0}
		}
	} else if had {
		p.log.Info("a daemon was stopped", "lib_id", e.libID, "pid", e.pid)
	}
	if had {
		p.countEndLocked(e)
	}
	e.status, e.pid, e.active = statusStopping, 0, 0
	p.endProbeLocked(e, false)
	e.settleLocked()
	removed := e.remove
	if removed {
		p.mu.Unlock()
		err := p.removeWorkDir(e.libID)
		p.mu.Lock()
		e.removeErr = err
	}
	e.status = statusExited
	delete(p.entries, e.libID)
	view := p.viewLocked(e)
	if e.died && !removed {
		view = p.buryLocked(e, how)
	} else {
		delete(p.graves, e.libID)
	}
	if had {
		p.onEvent(view)
	}
	close(e.gone)
}

// countEndLocked counts a start that came to nothing, or a death.
func (p *pool) countEndLocked(e *entry) {
	switch {
	case e.wasReady && e.died:
		p.metrics.died()
	case e.wasReady:
	case e.failed != nil && e.failed.code == codeSpawnTimeout:
		p.metrics.spawned(spawnTimeout, 0)
	case e.died:
		p.metrics.spawned(spawnFailed, 0)
	default:
		p.metrics.spawned(spawnStopped, 0)
	}
}

// errUnwanted ends an entry that was told to stop before it had a child.
var errUnwanted = errors.New("stopped before it was started")
