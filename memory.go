package main

import (
	"runtime/debug"
	"time"
)

// memoryIdle is how long a daemon does nothing before it gives memory back. A
// server that works through a repository comes back sooner.
const memoryIdle = 5 * time.Second

// setMemory tells the garbage collector what a daemon is: a small heap and, now
// and then, answers of megabytes. At Go's own pace it would run dozens of times
// within each of those. The limit is where it hurries; it is above all that
// is kept: listings, remembered answers, messages on their way. The operator's
// own GOGC and GOMEMLIMIT win.
func setMemory(getenv func(string) string) {
	const (
		percent = 400
		limit   = 80 << 20
	)
	if getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// giveBackMemory returns to the system what the last requests left. At the pace
// of setMemory an idle daemon would keep it, and a scheduler has many of them.
// One that was not used yet is better left alone: what a collection needs for
// itself is more than it would find.
func giveBackMemory() { debug.FreeOSMemory() }
