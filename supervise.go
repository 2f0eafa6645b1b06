package main

import (
	"fmt"
	"net/http"
	"time"
)

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
	p.stopLocked(e, &poolError{code: codeSpawnTimeout, status: http.StatusGatewayTimeout,
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
	p.stopLocked(e, &poolError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable,
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
func (p *pool) stopLocked(e *entry, why *poolError) {
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
