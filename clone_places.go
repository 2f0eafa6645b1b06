package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
)

// maxClones bounds the clones of a daemon that run at once: each runs a git that
// needs a core to unpack and check out.
const maxClones = 4

// clonePlaces lets clones run in the order in which they came: maxClones of them at
// once. In a pool with --max-clones these need a place in the pool as well, which
// the scheduler gives (control.go). A daemon asks it for at most maxClones, so that
// a long queue of one library does not keep the others waiting.
type clonePlaces struct {
	changed func() // called when wanted has changed; nil without a limit of the pool

	mu     sync.Mutex // guards the fields below and the places of the tickets
	lastID int64
	queue  []*cloneTicket // in order of arrival
}

// cloneTicket is a clone that runs or waits.
type cloneTicket struct {
	pool  clonePlace    // Position is -1 before the scheduler's first answer
	moved chan struct{} // 1-buffered
}

// acquire returns when the clone may run, or with the cause of ctx's end. It calls
// waiting with the clone's place in the queue, and again when that changes.
func (c *clonePlaces) acquire(ctx context.Context, waiting func(place string)) (release func(), err error) {
	t := c.add()
	release = func() { c.remove(t) }
	for {
		place, runs := c.place(t)
		if runs {
			return release, nil
		}
		if place != "" {
			waiting(place)
		}
		select {
		case <-t.moved:
		case <-ctx.Done():
			release()
			return nil, context.Cause(ctx)
		}
	}
}

func (c *clonePlaces) add() *cloneTicket {
	c.mu.Lock()
	c.lastID++
	t := &cloneTicket{pool: clonePlace{ID: c.lastID, Position: -1}, moved: make(chan struct{}, 1)}
	c.queue = append(c.queue, t)
	c.mu.Unlock()
	c.tell()
	return t
}

func (c *clonePlaces) remove(t *cloneTicket) {
	c.mu.Lock()
	c.queue = slices.DeleteFunc(c.queue, func(other *cloneTicket) bool { return other == t })
	for _, other := range c.queue {
		wake(other.moved)
	}
	c.mu.Unlock()
	c.tell()
}

func (c *clonePlaces) tell() {
	if c.changed != nil {
		c.changed()
	}
}

// place reports whether the clone may run, and otherwise where it waits; "" if that
// is not known yet.
func (c *clonePlaces) place(t *cloneTicket) (place string, runs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch i := slices.Index(c.queue, t); {
	case i >= maxClones:
		return fmt.Sprintf("%s of %d in this daemon", ordinal(i+1-maxClones), len(c.queue)-maxClones), false
	case c.changed == nil || t.pool.Position == 0:
		return "", true
	case t.pool.Position > 0:
		return fmt.Sprintf("%s of %d in the pool", ordinal(t.pool.Position), t.pool.Of), false
	}
	return "", false
}

// wanted returns the ids of the clones that have a place in the pool or wait for
// one.
func (c *clonePlaces) wanted() (ids []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.queue[:min(len(c.queue), maxClones)] {
		ids = append(ids, t.pool.ID)
	}
	return ids
}

// update takes the answer of the scheduler. A place that was given is kept.
func (c *clonePlaces) update(places []clonePlace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.queue {
		for _, p := range places {
			if p.ID == t.pool.ID && t.pool.Position != 0 {
				t.pool = p
				wake(t.moved)
			}
		}
	}
}

// ordinal returns 1st, 2nd, 3rd, 4th and so on.
func ordinal(n int) string {
	suffix := "th"
	if tens := n / 10 % 10; tens != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.Itoa(n) + suffix
}
