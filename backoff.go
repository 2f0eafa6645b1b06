package main

import (
	"math/rand/v2"
	"time"
)

const (
	// deathWindow is how close together two deaths of a child must be to look
	// like a crash loop.
	deathWindow = 60 * time.Second
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

// respawnDelay is how long a respawn waits after the n-th death in a row,
// counted from 1: not at all after the first, then 1 s, 2 s, 4 s, up to 30 s.
func respawnDelay(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return expDelay(respawnBase, respawnMost, deaths-2)
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

// deaths is what is remembered of the children of one lib_id that died
// unasked.
type deaths struct {
	inRow     int       // each within deathWindow of the one before
	total     int       // since the last orderly end
	last      time.Time // of the latest
	lastError string
}

// after is the record with one more death.
func (d deaths) after(now time.Time, text string) deaths {
	if d.inRow > 0 && now.Sub(d.last) > deathWindow {
		d.inRow = 0
	}
	return deaths{inRow: d.inRow + 1, total: d.total + 1, last: now, lastError: text}
}

// wait is how long a respawn must still wait at now.
func (d deaths) wait(now time.Time) time.Duration {
	return max(0, respawnDelay(d.inRow)-now.Sub(d.last))
}
