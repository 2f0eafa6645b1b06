package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"
)

// lockProbe is a log handler that looks, from within each call, whether a lock
// is free.
type lockProbe struct {
	slog.Handler
	t *testing.T

	mu     sync.Mutex // guards the fields below
	inside func()     // takes the lock and lets go of it; nil while there is none
	seen   []string
}

func newLockProbe(t *testing.T) *lockProbe { return &lockProbe{Handler: slog.DiscardHandler, t: t} }

func (l *lockProbe) Enabled(context.Context, slog.Level) bool { return true }

func (l *lockProbe) Handle(_ context.Context, r slog.Record) error {
	l.look(r.Message)
	return nil
}

func (l *lockProbe) watch(inside func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inside = inside
}

func (l *lockProbe) look(from string) {
	l.mu.Lock()
	l.seen = append(l.seen, from)
	inside := l.inside
	l.mu.Unlock()
	if inside == nil {
		return
	}
	done := make(chan struct{})
	go func() { // ends at once, or when the lock is released
		defer close(done)
		inside()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		l.t.Errorf("%q is told while the lock is held, want it told after the lock is released", from)
		l.watch(nil) // once is enough
	}
}

// wantSeen checks that all of it was told.
func (l *lockProbe) wantSeen(all ...string) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, want := range all {
		if !slices.Contains(l.seen, want) {
			l.t.Errorf("told %q, want %q among them", l.seen, want)
		}
	}
}
