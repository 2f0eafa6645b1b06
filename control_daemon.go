package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// statusPause is the minimum time between two status events that do not answer
// an op.
const statusPause = 250 * time.Millisecond

// controlClient is the daemon's end of the control channel to its scheduler.
type controlClient struct {
	reader   *controlReader
	out      io.Writer // must not block
	activity *activity
	clones   *clonePlaces
	level    *slog.LevelVar
	log      *slog.Logger

	sending sync.Mutex // keeps status events in the order of what they report
}

// token returns the daemon's token, the first line from the scheduler. If ctx ends
// first, it returns the cause.
func (c *controlClient) token(ctx context.Context) (secret, error) {
	type result struct {
		token secret
		err   error
	}
	read := make(chan result, 1)
	go func() { // nobody waits for it: only the scheduler's end interrupts the read
		token, err := c.reader.token()
		read <- result{token, err}
	}()
	c.log.Debug("waiting for the scheduler's token")
	select {
	case r := <-read:
		return r.token, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// send writes one event to the scheduler. An event that a scheduler does not read
// is dropped and only logged: the end of standard input tells the daemon that its
// scheduler has exited.
func (c *controlClient) send(e controlEvent) { c.logLost(writeControl(c.out, e)) }

func (c *controlClient) logLost(err error) {
	if err != nil {
		c.log.Debug("sending an event to the scheduler failed", "error", err)
	}
}

func (c *controlClient) sendReady(instanceID string) {
	c.send(controlEvent{Event: eventReady, PID: os.Getpid(), InstanceID: instanceID})
}

// sendStatus sends the current activity. ask is the number of the op that this
// event answers, or 0.
func (c *controlClient) sendStatus(ask int64) { c.logLost(c.writeStatus(ask)) }

func (c *controlClient) writeStatus(ask int64) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	active, idle, quiesced := c.activity.state()
	e := controlEvent{Event: eventStatus, Active: active, IdleMS: idle.Milliseconds(), Quiesced: quiesced, Ask: ask}
	if c.clones.changed != nil {
		e.Clones = c.clones.wanted()
	}
	return writeControl(c.out, e)
}

// sendClone sends the duration and the outcome of a vcs/clone that has ended.
func (c *controlClient) sendClone(took time.Duration, err error) {
	c.send(controlEvent{Event: eventClone, OK: err == nil, TookMS: took.Milliseconds()})
}

// handleOps executes the ops of the scheduler until standard input ends, and
// then calls gone.
func (c *controlClient) handleOps(gone func()) {
	err := c.reader.ops(func(op controlOp) {
		switch op.Op {
		case opQuiesce:
			c.activity.quiesce(time.Duration(op.IdleMS) * time.Millisecond)
		case opResume:
			c.activity.resume()
		case opLogLevel:
			if level, err := parseLevel(op.Level); err == nil {
				c.level.Set(level)
			}
		case opClones:
			c.clones.update(op.Places)
			return
		case opStatus:
		default:
			c.log.Warn("unknown op from the scheduler", "op", cleanText(op.Op))
			return
		}
		c.sendStatus(op.Ask)
	})
	if err != nil {
		c.log.Warn("reading from the scheduler failed", "error", err)
	}
	gone()
}

// reportActivity sends a status event after each change of the activity, at
// most four a second, until ctx ends.
func (c *controlClient) reportActivity(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-c.activity.changed:
			c.sendStatus(0)
		case <-ctx.Done():
			return
		}
		pause.Reset(statusPause)
	}
}
