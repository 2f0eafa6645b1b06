package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"
)

// statusPause is the least time between two events that nobody asked for.
const statusPause = 250 * time.Millisecond

// controlClient is a daemon's end of the talk with its scheduler.
type controlClient struct {
	reader   *controlReader
	out      *os.File
	activity *activity
	log      *slog.Logger

	mu sync.Mutex // one line at a time
}

// event tells the scheduler something. A scheduler that is gone is noticed by
// the end of its input, not here.
func (s *controlClient) event(e controlEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := writeControl(s.out, e); err != nil {
		s.log.Debug("telling the scheduler", "err", err)
	}
}

func (s *controlClient) ready(instanceID string) {
	s.event(controlEvent{Event: eventReady, PID: os.Getpid(), InstanceID: instanceID})
}

// status tells what goes on; ask is the number of the op that wants to know, 0
// for none.
func (s *controlClient) status(ask int64) {
	active, idle, shut := s.activity.state()
	s.event(controlEvent{Event: eventStatus, Active: active, IdleMS: idle.Milliseconds(), Quiesced: shut, Ask: ask})
}

// cloned tells the end of a vcs/clone.
func (s *controlClient) cloned(took time.Duration, err error) {
	s.event(controlEvent{Event: eventClone, OK: err == nil, TookMS: took.Milliseconds()})
}

// listen does what the scheduler says until its end of the input is closed,
// and then calls gone.
func (s *controlClient) listen(gone func()) {
	err := s.reader.ops(func(op controlOp) {
		switch op.Op {
		case opQuiesce:
			s.activity.quiesce(time.Duration(op.IdleMS) * time.Millisecond)
		case opResume:
			s.activity.resume()
		case opStatus:
		default:
			s.log.Warn("the scheduler said something unknown", "op", cleanText(op.Op))
			return
		}
		s.status(op.Ask)
	})
	if err != nil {
		s.log.Warn("reading from the scheduler", "err", err)
	}
	gone()
}

// report tells each change of the activity, at most 4 a second, until ctx
// ends.
func (s *controlClient) report(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-s.activity.changed:
			s.status(0)
		case <-ctx.Done():
			return
		}
		pause.Reset(statusPause)
	}
}
