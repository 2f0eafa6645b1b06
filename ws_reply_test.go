//go:build linux || darwin

package main

import (
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
	const all = 5000
	for _, test := range []struct {
		name string
		size int // of an answer
		wait int // requests that run before the client reads
	}{{"short answers", 10, 0}, {"client that takes nothing at first", 4000, maxUnsent}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int64
			answer := `"` + strings.Repeat("x", test.size) + `"`
			many := bigMethod("test/many").quickly(func(to []byte, _ json.RawMessage) ([]byte, bool) {
				runs.Add(1)
				return append(to, answer...), true
			})
			s := newLinkServer(t, many)
			c := dialRaw(t, s.address)
			go func() { // ends when all is sent, or with the connection
				var frames []byte
				for id := range all {
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
			for range all {
				var got struct {
					ID     int
					Result string
				}
				_, payload, err := c.next()
				if err == nil {
					err = json.Unmarshal(payload, &got)
				}
				if err != nil {
					t.Fatal(err)
				}
				if seen[got.ID] || len(got.Result) != test.size {
					t.Fatalf("request %d was answered with %d bytes, seen before: %v, want %d bytes once", got.ID, len(got.Result), seen[got.ID], test.size)
				}
				seen[got.ID] = true
			}
		})
	}
}
