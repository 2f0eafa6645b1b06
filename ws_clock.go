package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// wallCheck is the longest time between two looks of a clock. It then compares
	// the wall clock with the monotonic clock: a difference of more than wallJump
	// means that the machine was suspended, so that the links may be dead.
	wallCheck = 5 * time.Second
	wallJump  = 15 * time.Second
	// looksPerPing bounds how often a clock looks at its links: every second when
	// pings are sent after 20 s. A look at 10,000 links takes a millisecond.
	looksPerPing = 20
)

// linkClock sends the pings of links. A hub has one for all: a timer for each link
// would take more processor time than everything else that idle links do.
type linkClock struct {
	times linkTimes
	log   *slog.Logger

	mu    sync.Mutex // guards the field below, and the place of each link
	links []*link
}

func newLinkClock(times linkTimes, log *slog.Logger) *linkClock {
	return &linkClock{times: times, log: log}
}

func (c *linkClock) add(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.place = len(c.links)
	c.links = append(c.links, l)
}

// remove forgets a link that has failed.
func (c *linkClock) remove(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.links) - 1
	c.links[l.place], c.links[last].place = c.links[last], l.place
	c.links[last] = nil // allows it to be freed
	c.links = c.links[:last]
}

// run looks at the links until done is closed. It pings the other side of a link
// from which nothing was received for a while, and all when the wall clock jumped.
func (c *linkClock) run(done <-chan struct{}) {
	wall := c.times.wall().Round(0) // without the monotonic clock, which stops while the machine is suspended
	mono := time.Now()
	trimmed := mono
	wait := time.Duration(0)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-timer.C:
		}
		nowWall, nowMono := c.times.wall().Round(0), time.Now()
		jump := (nowWall.Sub(wall) - nowMono.Sub(mono)).Abs() > wallJump
		wall, mono = nowWall, nowMono
		if jump {
			c.log.Info("the wall clock jumped, the machine was probably suspended: checking the links")
		}
		trim := mono.Sub(trimmed) >= c.longest()
		if trim {
			trimmed = mono
		}
		var due []*link
		due, wait = c.look(jump, trim)
		for _, l := range due {
			l.checkAlive()
		}
		timer.Reset(wait)
	}
}

// longest returns the longest time between two looks.
func (c *linkClock) longest() time.Duration { return min(wallCheck, c.times.ping/4) }

// look returns the links whose other side is pinged, all with all, and the time to
// the next look. A ping that would be due before the next look is sent now, so that
// a dead peer is detected within the ping and pong times.
//
// While a long message is being received, a ping is also due when nothing was sent
// for half that time. The pings of the other side then wait in all the buffers
// behind its message; without a ping from this side, the other side would hear
// nothing and take a slow link for a dead one.
func (c *linkClock) look(all, trim bool) (due []*link, wait time.Duration) {
	shortest := min(c.times.ping/looksPerPing, c.longest())
	wait = c.longest()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.links {
		if trim {
			l.gather.trim()
		}
		now, heard := time.Since(l.began), time.Duration(l.lastRead.Load())
		if pinged := time.Duration(l.pinged.Load()); pinged > heard { // the response is awaited
			left := pinged + c.times.pong - now
			if left <= 0 {
				due = append(due, l)
			} else {
				wait = min(wait, left)
			}
			continue
		}
		left := heard + c.times.ping - shortest - now
		if all || left <= 0 || l.receiving.Load() && now-time.Duration(l.lastSent.Load()) >= c.times.ping/2 {
			due = append(due, l)
		} else {
			wait = min(wait, left)
		}
	}
	return due, max(wait, shortest)
}

// checkAlive pings the other side, unless a ping is on its way already, and fails
// the link if there is no response.
func (l *link) checkAlive() {
	if l.overloaded() {
		// Pongs are not read while reading pauses; the writer's watchdog detects a
		// dead link instead.
		l.lastRead.Store(int64(time.Since(l.began)))
		return
	}
	pinged := time.Duration(l.pinged.Load())
	if pinged > time.Duration(l.lastRead.Load()) {
		if time.Since(l.began)-pinged >= l.times.pong && !l.sending.Load() {
			l.start(func() { l.fail(errPingTimeout) })
		}
		return
	}
	if l.pinging.Load() {
		return
	}
	if l.guard.server {
		// Before it is sent: the response is later.
		l.pinged.Store(int64(time.Since(l.began)))
		if l.sendControl(finalPing, nil) {
			return
		}
		l.pinged.Store(0)
	}
	l.pinging.Store(true)
	l.start(func() {
		err := l.ping(l.times.pong)
		l.pinging.Store(false)
		if err != nil && !errors.Is(err, net.ErrClosed) { // else the reader fails the link with the reason
			l.fail(err)
		}
	})
}

// sendControl sends a control frame of a server if the link is idle. It does not
// wait.
func (l *link) sendControl(first byte, payload []byte) (sent bool) {
	sent, complete := l.gather.tryControl(first, payload)
	if sent {
		l.lastSent.Store(int64(time.Since(l.began)))
	}
	if sent && !complete {
		l.start(func() { _ = l.gather.flush() }) // the reader sees the error, too
	}
	return sent
}

// start runs f in a goroutine that close waits for, unless the link has failed.
func (l *link) start(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.wg.Go(f)
	}
}

// ping sends a ping. Any byte that is received within the limit counts as the
// response. While a long message is being written, a missing pong is not an
// error, because the ping may still wait behind the frames of that message; the
// watchdog of the writer detects a dead link then.
func (l *link) ping(limit time.Duration) error {
	before := l.lastRead.Load()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := l.conn.Ping(ctx)
	l.lastSent.Store(int64(time.Since(l.began)))
	switch {
	case err == nil, l.lastRead.Load() != before:
		return nil
	case errors.Is(err, net.ErrClosed):
		return err
	case l.sending.Load():
		return nil
	case ctx.Err() != nil:
		return errPingTimeout
	}
	return nil
}
