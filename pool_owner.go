package main

import (
	"errors"
	"time"
)

const (
	// quiesceLimit is how long a child may take to answer a quiesce.
	quiesceLimit = time.Second
	// housekeeping is how often an owner looks after its child, at most. It is
	// sooner after the log was too long, and then less and less often: a child
	// that logs without end writes hundreds of megabytes a second.
	housekeeping      = time.Second
	housekeepingLeast = 10 * time.Millisecond
)

// errNotStarted ends an entry that was told to stop before it had a child.
var errNotStarted = errors.New("stopped before it was started")

// run owns e from its admission to its end. It ends when the child is reaped and
// everything is cleared up.
func (p *pool) run(e *entry) {
	c, err := p.launch(e)
	if err != nil {
		refused, _ := errors.AsType[*apiError](err)
		p.finish(e, childEnded{err.Error(), refused})
		return
	}
	p.supervise(e, c)
	exit, lines := c.close()
	p.finish(e, childEnded{how: exit + indented(lines)})
}

// launch makes the work dir and starts the child in it. An *apiError refuses the
// lib_id; any other error is a start that failed.
func (p *pool) launch(e *entry) (child, error) {
	if fx := p.apply(e, ownerTurn{}); fx.terminate {
		return nil, errNotStarted
	}
	if err := p.makeWorkDir(e.libID); err != nil {
		return nil, err
	}
	c, err := p.start(p.spec(e.libID))
	if err != nil {
		return nil, err
	}
	p.apply(e, childStarted{c.pid()})
	return c, nil
}

// supervise carries what others want to the child, and what the child sends to
// the entry, until the child is reaped.
func (p *pool) supervise(e *entry, c child) {
	spawnLimit := time.NewTimer(p.spawnTimeout)
	defer spawnLimit.Stop()
	pause := housekeepingLeast
	chores := time.NewTimer(pause)
	defer chores.Stop()
	events := c.events()
	var grace, answer <-chan time.Time
	var force <-chan struct{}
	apply := func(event entryEvent) {
		fx := p.apply(e, event)
		for _, op := range fx.send {
			if op.Op == opQuiesce {
				answer = time.After(quiesceLimit)
			}
			p.sendOp(e, c, op)
		}
		if fx.terminate {
			c.terminate()
			grace, force = time.After(p.stopTimeout), p.force
		}
	}
	for {
		apply(ownerTurn{})
		select {
		case <-c.done():
			return
		case <-e.wake:
		case event, ok := <-events:
			if ok {
				apply(event)
			} else {
				events = nil // the child may still be alive, but soon counts as hung
			}
		case <-spawnLimit.C:
			apply(startTimedOut{p.spawnTimeout, c.lastLines()})
		case <-answer:
			answer = nil
			apply(quiesceTimedOut{})
		case <-grace:
			grace = nil
			p.log.Warn("a daemon did not stop in time and is killed", "lib_id", e.libID, "limit_ms", p.stopTimeout.Milliseconds())
			c.kill()
		case <-force:
			force = nil
			c.kill()
		case <-chores.C:
			passed := pause
			pause = min(2*pause, housekeeping)
			if c.trimLog() {
				pause = housekeepingLeast
			}
			chores.Reset(pause)
			apply(timePassed{passed})
		}
	}
}

func (p *pool) sendOp(e *entry, c child, op controlOp) {
	if err := c.send(op); err != nil {
		p.log.Warn("an op could not be sent to a daemon", "lib_id", e.libID, "op", op.Op, "error", err)
	}
}

// finish clears up after a child that has ended, or was never started, and takes
// e out of the pool. The entry leaves only when its end is published: the next
// one of its lib_id begins behind that.
func (p *pool) finish(e *entry, end childEnded) {
	if fx := p.apply(e, end); fx.removeDir {
		p.apply(e, dirRemoved{p.removeWorkDir(e.libID)})
	}
	p.update(func(s *poolState) { delete(s.entries, e.libID) })
	close(e.gone)
}
