package main

import (
	"context"
	"slices"
	"time"
)

// This file shares a machine among its callers. A daemon runs some requests at a time
// and the others in order, so a caller with hundreds of calls in flight would keep all
// others waiting behind them. One that has the machine for itself is not held back.

const (
	// sharedCalls is how many calls of several callers a daemon gets at a time: as many
	// as it runs by default. A caller that has its share of them waits here, so that the calls of
	// the others find a free place.
	sharedCalls = 64
	// minShare is the least share of a caller, so that it does not wait for the link
	// after each call where there are many.
	minShare = 4
	// shareKeep is how long a caller keeps its share after its last call: one that makes
	// call after call finds a free place for each.
	shareKeep = time.Second
)

// callerShare counts the calls of one caller to a machine.
type callerShare struct {
	caller  string
	calls   int             // that were sent
	waiting []chan struct{} // one for each call that waits, closed when it may be sent
	left    time.Time       // when the last call ended
}

// idle reports whether the caller has had no call for shareKeep.
func (s *callerShare) idle(now time.Time) bool {
	return s.calls == 0 && len(s.waiting) == 0 && now.Sub(s.left) >= shareKeep
}

// shareLocked returns the share of a caller, a new one if it has none.
func (l *machineLoad) shareLocked(caller string) *callerShare {
	for _, s := range l.shares {
		if s.caller == caller {
			return s
		}
	}
	s := &callerShare{caller: caller}
	l.shares = append(l.shares, s)
	return s
}

// mayBeginLocked reports whether a caller may have one more call at the machine.
func (l *machineLoad) mayBeginLocked(s *callerShare) bool {
	if len(l.shares) == 1 {
		return true
	}
	if now := time.Now(); now.Sub(l.swept) >= shareKeep {
		l.swept = now
		l.shares = slices.DeleteFunc(l.shares, func(other *callerShare) bool { return other != s && other.idle(now) })
	}
	return len(l.shares) == 1 || s.calls < max(minShare, sharedCalls/len(l.shares))
}

// enter waits until the caller may have one more call at the machine, or the link is
// lost. After nil the caller of enter calls leave.
func (l *machineLoad) enter(ctx context.Context, caller string, lost <-chan struct{}) error {
	turn := l.queue(caller)
	if turn == nil {
		return nil
	}
	select {
	case <-turn:
		return nil
	case <-lost: // which is noticed when the call is sent
		l.giveUp(caller, turn, true)
		return nil
	case <-ctx.Done():
		l.giveUp(caller, turn, false)
		return context.Cause(ctx)
	}
}

// queue counts a call and returns nil, or a channel that is closed when it is counted.
func (l *machineLoad) queue(caller string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shareLocked(caller)
	if len(s.waiting) == 0 && l.mayBeginLocked(s) {
		s.calls++
		return nil
	}
	turn := make(chan struct{})
	s.waiting = append(s.waiting, turn)
	l.waiting++
	return turn
}

// giveUp ends the wait for a turn that may have come meanwhile. begun says that the
// call is counted in any case.
func (l *machineLoad) giveUp(caller string, turn <-chan struct{}, begun bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shareLocked(caller)
	i := slices.IndexFunc(s.waiting, func(t chan struct{}) bool { return t == turn })
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		l.waiting--
		s.calls++
	}
	if !begun {
		l.leaveLocked(s)
	}
}

// leave notes the end of a call, and lets those begin that wait.
func (l *machineLoad) leave(caller string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(l.shareLocked(caller))
}

func (l *machineLoad) leaveLocked(s *callerShare) {
	if s.calls--; s.calls == 0 {
		s.left = time.Now()
	}
	if l.waiting == 0 {
		return
	}
	for _, next := range slices.Clone(l.shares) { // mayBeginLocked removes some
		for len(next.waiting) > 0 && l.mayBeginLocked(next) {
			close(next.waiting[0])
			next.waiting = next.waiting[1:]
			next.calls++
			l.waiting--
		}
	}
}
