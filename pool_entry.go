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
	died      bool      // ended unasked, or by the pool for a fault
	fault     string    // that one: not ready in time, or hung
	failed    *apiError // why those who wait for ready do not get it
	remove    bool      // DELETE: the directory goes too
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
			e.failed = &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable,
				message:  fmt.Sprintf("starting the daemon for %s: %s", e.libID, how),
				retryNow: respawnDelay(e.history.after(time.Now(), how).inRow) == 0}
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

const (
	// probeLimit is how long a child may take to answer a quiesce.
	probeLimit = time.Second
	// housekeeping is how often an owner looks after its child, at most; it is
	// sooner again, and then less and less often, after the log was too long: a
	// child that logs without end writes hundreds of megabytes a second.
	housekeeping      = time.Second
	housekeepingLeast = 10 * time.Millisecond
	// silenceAsked is how long a ready child may say nothing before it is asked for
	// a word, silenceEnded how long until it is taken for hung: it had a minute for
	// the answer, as it has for a heartbeat. The pauses of the housekeeping are
	// added up, so that a scheduler that was itself stopped blames nobody.
	silenceAsked = 30 * time.Second
	silenceEnded = silenceAsked + time.Minute
)

// supervise carries wishes to the child and its words to the pool until it is
// reaped.
func (p *pool) supervise(e *entry, c child) {
	spawnLimit := time.NewTimer(p.spawnTimeout)
	defer spawnLimit.Stop()
	pause := housekeepingLeast
	chores := time.NewTimer(pause)
	defer chores.Stop()
	events := c.events()
	var grace, answer <-chan time.Time
	var hurry <-chan struct{}
	stopping := false
	asks := int64(0)
	silence, asked := time.Duration(0), false // since its last word
	resume := func() { p.say(e, c, controlOp{Op: opResume}) }
	for {
		p.mu.Lock()
		stop, question := e.status == statusStopping, e.probe
		ask := question != nil && !question.sent
		if ask {
			asks++
			question.sent, question.ask = true, asks
		}
		p.mu.Unlock()
		switch {
		case stop && !stopping:
			stopping = true
			c.terminate()
			grace, hurry = time.After(p.stopTimeout), p.hurry
		case ask && !stop:
			answer = time.After(probeLimit)
			p.say(e, c, controlOp{Op: opQuiesce, IdleMS: question.idle.Milliseconds(), Ask: asks})
		}

		select {
		case <-c.done():
			return
		case <-e.wake:
		case event, ok := <-events:
			if !ok {
				events = nil // the child may still be alive, but soon counts as hung
				continue
			}
			silence, asked = 0, false
			if p.heard(e, event) {
				resume()
			}
		case <-spawnLimit.C:
			p.endLate(e, c.lastLines)
		case <-answer:
			answer = nil
			if p.unanswered(e) {
				resume() // it may yet read the question, and this behind it
			}
		case <-grace:
			p.log.Warn("a daemon did not stop in time and is killed", "lib_id", e.libID, "limit", p.stopTimeout)
			grace = nil
			c.kill()
		case <-hurry:
			hurry = nil
			c.kill()
		case <-chores.C:
			silence += pause
			pause = min(2*pause, housekeeping)
			if c.trimLog() {
				pause = housekeepingLeast
			}
			chores.Reset(pause)
			switch {
			case stopping:
			case silence >= silenceEnded:
				p.endHung(e)
			case silence >= silenceAsked && !asked:
				asked = true
				p.say(e, c, controlOp{Op: opStatus})
			}
		}
	}
}

// endLate ends a child that is not ready in time.
func (p *pool) endLate(e *entry, lastLines func() string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.status != statusStarting {
		return
	}
	e.died, e.fault = true, fmt.Sprintf("it was not ready within %v", p.spawnTimeout)
	p.stopLocked(e, &apiError{code: codeSpawnTimeout, status: http.StatusGatewayTimeout,
		message: fmt.Sprintf("the daemon for %s was not ready within %v: see its %s%s", e.libID, p.spawnTimeout, logFileName, indented(lastLines()))})
}

// endHung ends a child that was ready and answers no more.
func (p *pool) endHung(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.status != statusReady {
		return
	}
	e.died, e.fault = true, fmt.Sprintf("it said nothing for %v", silenceEnded)
	p.stopLocked(e, &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable,
		message: fmt.Sprintf("the daemon for %s hung: %s", e.libID, e.fault)})
}

// unanswered ends a probe whose answer did not come in time. It tells whether
// there was one.
func (p *pool) unanswered(e *entry) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.probe == nil || !e.probe.sent {
		return false
	}
	p.log.Warn("a daemon does not answer", "lib_id", e.libID, "limit", probeLimit)
	e.mute = true
	p.endProbeLocked(e, false)
	return true
}

func (p *pool) say(e *entry, c child, op controlOp) {
	if err := c.send(op); err != nil {
		p.log.Warn("telling a daemon", "lib_id", e.libID, "op", op.Op, "error", err)
	}
}

// heard takes in what the child said. It tells whether the child must be told
// to resume: it refuses requests, and nobody wants that (any more).
func (p *pool) heard(e *entry, event controlEvent) (resume bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	e.mute = false
	switch event.Event {
	case eventReady:
		if e.status != statusStarting {
			return false
		}
		e.status, e.wasReady, e.lastUsed = statusReady, true, now
		e.settleLocked()
		p.metrics.spawned(spawnReady, now.Sub(e.admitted))
		p.log.Info("a daemon is ready", "lib_id", e.libID, "pid", e.pid, "after", now.Sub(e.started))
	case eventStatus:
		was := e.active
		e.active = event.Active
		used := now
		if event.Active == 0 {
			// Bounded before it is a Duration, which a large number would overflow.
			idle := min(event.IdleMS, now.Sub(e.started).Milliseconds())
			used = now.Add(-time.Duration(idle) * time.Millisecond)
		}
		if used.After(e.lastUsed) {
			e.lastUsed = used
		}
		if e.status != statusReady {
			return false
		}
		// What it says by itself may be older than the question.
		if e.probe != nil && e.probe.sent && event.Ask == e.probe.ask {
			if event.Quiesced && !e.probe.wanted {
				// From here on it refuses requests: nothing can be lost by ending it.
				p.metrics.evicted(e.probe.reason)
				p.stopLocked(e, nil)
				return false
			}
			p.endProbeLocked(e, false)
			resume = event.Quiesced // an ensure came meanwhile
		}
		if e.active == was {
			return resume // nothing that a view would show
		}
	case eventClone:
		p.metrics.cloned(event.OK, time.Duration(event.TookMS)*time.Millisecond)
		return false
	default:
		return false // a later version's word
	}
	p.tellLocked(e)
	return resume
}

// stopLocked asks the owner to end the child; why is what those get who wait
// for it to be ready. A nil why is an eviction.
func (p *pool) stopLocked(e *entry, why *apiError) {
	if e.status == statusStopping || e.status == statusExited {
		return
	}
	e.status = statusStopping
	if !e.wasReady {
		e.failed = why
	}
	e.settleLocked()
	p.endProbeLocked(e, why == nil)
	p.tellLocked(e)
	e.notify()
}

func (p *pool) endProbeLocked(e *entry, leaves bool) {
	if e.probe == nil {
		return
	}
	e.probe.leaves = leaves
	close(e.probe.done)
	e.probe = nil
}
