package main

import (
	"sync"
	"time"
)

// This file bounds what one machine costs the hub.

const (
	// maxMachineCalls and maxMachineBytes bound the calls that wait for one machine, and
	// their params. A daemon runs 64 requests while 1,000 wait (rpc_dispatch.go).
	maxMachineCalls = 2000
	maxMachineBytes = 64 << 20
	// unaskedRate is how many messages of a daemon that are no answers are handled in a
	// second: 64 requests send 4 progress notifications each. Those of a clone that
	// changes nothing come faster, and so do the late answers to the calls of a
	// caller that went away: unaskedBurst is for these.
	unaskedRate  = 500
	unaskedBurst = 2000
	// unaskedBegin is the burst of a new link: a daemon must not gain by connecting
	// again.
	unaskedBegin = 64
	// unaskedPiece is how many bytes of a message count as one more message.
	unaskedPiece = 64 << 10
	// maxUnaskedPause bounds a pause between two messages; a message of 16 MiB
	// has half a second.
	maxUnaskedPause = time.Second
)

// machineLoad counts the calls to one machine.
type machineLoad struct {
	mu    sync.Mutex // guards the fields below
	calls int
	bytes int

	// Of the calls without clones, which the daemon runs beside them (hub_share.go).
	shares  []*callerShare
	waiting int       // calls in shares that wait
	swept   time.Time // when those that are idle were removed last
}

// begin counts a call with params of some bytes. The error is an *apiError.
func (l *machineLoad) begin(bytes int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls >= maxMachineCalls || l.calls > 0 && l.bytes+bytes > maxMachineBytes {
		return tooMany("too many calls wait for this machine: try again")
	}
	l.calls++
	l.bytes += bytes
	return nil
}

func (l *machineLoad) end(bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls--
	l.bytes -= bytes
}

// unasked is called in the reading goroutine for each message that answers no call
// of the hub: a heartbeat, progress, a request, an answer to nothing, or none of
// these; and for each ping, pong and short part of a message. While there are more than unaskedRate, reading pauses, so that the
// daemon, and not the other machines, waits.
func (c *hubConn) unasked(bytes int) {
	pause, _ := c.pace.take(1+float64(bytes)/unaskedPiece, maxUnaskedPause)
	if pause <= 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.link.done:
	}
}

// rateLimit allows a number of events in a second, and bursts.
type rateLimit struct {
	perSecond, burst float64

	mu   sync.Mutex // guards the fields below
	left float64    // of the burst; negative while those that take wait
	at   time.Time  // when left was computed
}

// newRateLimit returns one that allows a burst at first.
func newRateLimit(perSecond, burst float64) *rateLimit {
	return &rateLimit{perSecond: perSecond, burst: burst, left: burst, at: time.Now()}
}

// take takes n events and returns how long to wait before them. If that is longer
// than most it takes none and returns false.
func (l *rateLimit) take(n float64, most time.Duration) (pause time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.left = min(l.burst, l.left+now.Sub(l.at).Seconds()*l.perSecond)
	l.at = now
	pause = time.Duration(max(0, n-l.left) / l.perSecond * float64(time.Second))
	if pause > most {
		return most, false
	}
	l.left -= n
	return pause, true
}
