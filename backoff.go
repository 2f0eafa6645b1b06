package main

import (
	"math/rand/v2"
	"time"
)

const (
	// crashWindow is how close together two crashes of a child must be to look
	// like a crash loop.
	crashWindow = 60 * time.Second
	// respawnBase and respawnMost bound the delay before a respawn: a crash loop
	// costs one start in 30 s, a child that recovers is back soon.
	respawnBase = time.Second
	respawnMost = 30 * time.Second
	// reconnectBase and reconnectMost bound the delay before a daemon dials again.
	reconnectBase = 2 * time.Second
	reconnectMost = 30 * time.Second
)

// reconnectDelay is how long to wait before attempt n = 1, 2, …: uniform in
// [base/2, base] with base = 2 s, 4 s, 8 s, up to 30 s. Such equal jitter
// spreads a thousand daemons that lost their server at once and keeps none
// waiting much longer than the others.
func reconnectDelay(n int) time.Duration {
	base := expDelay(reconnectBase, reconnectMost, n-1)
	return base/2 + rand.N(base/2+1)
}

// respawnDelay is how long a respawn waits after the n-th crash in a row,
// counted from 1: not at all after the first, then 1 s, 2 s, 4 s, up to 30 s.
func respawnDelay(crashes int) time.Duration {
	if crashes <= 1 {
		return 0
	}
	return expDelay(respawnBase, respawnMost, crashes-2)
}

// expDelay is base doubled n times, at most most.
func expDelay(base, most time.Duration, n int) time.Duration {
	delay := base
	for range n {
		if delay >= most/2 {
			return most
		}
		delay *= 2
	}
	return min(delay, most)
}

// crashHistory counts the children of one lib_id that ended without being
// stopped.
type crashHistory struct {
	inRow     int       // each within crashWindow of the one before
	total     int       // since a child last ended in order
	last      time.Time // of the latest
	lastError string
}

// after returns the history with one more crash.
func (h crashHistory) after(now time.Time, text string) crashHistory {
	if h.inRow > 0 && now.Sub(h.last) > crashWindow {
		h.inRow = 0
	}
	return crashHistory{inRow: h.inRow + 1, total: h.total + 1, last: now, lastError: text}
}

// wait returns how long a respawn must still wait at now.
func (h crashHistory) wait(now time.Time) time.Duration {
	return max(0, respawnDelay(h.inRow)-now.Sub(h.last))
}
