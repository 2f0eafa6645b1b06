//go:build linux || darwin

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestRepliesOverSocket: the reading goroutine writes its answers itself. Each
// request is answered once, also when the client takes nothing for a while: then
// the writer sends what the kernel did not take.
func TestRepliesOverSocket(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		all  int // requests
		size int // of an answer
		wait int // requests that run before the client reads
	}{
		{"short answers", 5000, 10, 0}, {"client that takes nothing at first", 5000, 4000, maxUnsent},
		{"one long answer", 1, maxFrame + 5000, 0}, {"long answers to a client that takes nothing at first", 150, maxFrame + 5000, maxQuickBytes / (2 * maxFrame)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int64
			answer := `"` + strings.Repeat("x", test.size) + `"`
			regular := newMethod("test/many", "", func(context.Context, none) (string, error) { return strings.Repeat("x", test.size), nil })
			many := regular.quickly(func(to []byte, _ json.RawMessage) ([]byte, bool) {
				runs.Add(1)
				return append(to, answer...), true
			})
			s := newLinkServer(t, many)
			c := dialRaw(t, s.address)
			go func() { // ends when all is sent, or with the connection
				var frames []byte
				for id := range test.all {
					frames = append(frames, whole(frameFin|frameText, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"test/many"}`, id))...)
				}
				if _, err := c.Write(frames); err != nil {
					t.Error(err)
				}
			}()
			for limit := time.Now().Add(patience); int(runs.Load()) < test.wait; time.Sleep(time.Millisecond) {
				if time.Now().After(limit) {
					t.Fatalf("%d requests ran, want %d", runs.Load(), test.wait)
				}
			}
			seen := map[int]bool{}
			for len(seen) < test.all {
				var got struct {
					ID             int
					Method, Result string
				}
				payload, err := c.message()
				if err == nil {
					err = json.Unmarshal(payload, &got)
				}
				if err != nil {
					t.Fatal(err)
				}
				if got.Method != "" {
					continue // progress of a regular request
				}
				if seen[got.ID] || len(got.Result) != test.size {
					t.Fatalf("request %d was answered with %d bytes, seen before: %v, want %d bytes once", got.ID, len(got.Result), seen[got.ID], test.size)
				}
				seen[got.ID] = true
			}
		})
	}
}
