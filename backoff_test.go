package main

import (
	"testing"
	"time"
)

func TestRespawnDelay(t *testing.T) {
	for n, want := range []time.Duration{0, 0, 1, 2, 4, 8, 16, 30, 30} {
		if got := respawnDelay(n); got != want*time.Second {
			t.Errorf("after crash %d: got %v, want %v", n, got, want*time.Second)
		}
	}
	if got := respawnDelay(1 << 30); got != respawnMost {
		t.Errorf("after very many crashes: got %v, want %v", got, respawnMost)
	}
}

func TestCrashHistory(t *testing.T) {
	now := time.Now()
	h := crashHistory{}.after(now, "a").after(now.Add(time.Second), "b")
	if want := (crashHistory{inRow: 2, total: 2, last: now.Add(time.Second), lastError: "b"}); h != want {
		t.Errorf("two crashes: got %+v, want %+v", h, want)
	}
	if got, want := h.wait(now.Add(1500*time.Millisecond)), 500*time.Millisecond; got != want {
		t.Errorf("the wait half a second after the second: got %v, want %v", got, want)
	}
	h = h.after(now.Add(time.Hour), "c")
	if want := (crashHistory{inRow: 1, total: 3, last: now.Add(time.Hour), lastError: "c"}); h != want {
		t.Errorf("a crash much later: got %+v, want %+v", h, want)
	}
}
