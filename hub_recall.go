package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// This file moves the link of a machine between schedulers behind one proxy. When
// a scheduler stops or returns, the proxy sends the calls of some machines to
// another one than before, but their daemons stay connected where they are. The
// scheduler that gets a call for such a machine asks the others to close its link,
// and waits: the daemon dials again, and the proxy sends it the way of the calls.

const (
	// recallGrace is how long a scheduler that does not answer is believed to have had
	// the machine that is called: daemons notice within half a minute that it is gone.
	recallGrace = time.Minute
	// recallRetry is how long a scheduler is not asked again that has not answered
	// for recallGrace.
	recallRetry = 5 * time.Second
	// recallWait is how long a call waits for its machine before the proxy is asked
	// again where to: a daemon dials again after 1 to 2 s, the second time after 2 to
	// 4 s.
	recallWait = 3 * time.Second
	// recallStay is how long a link is not closed after it began. A call elsewhere is
	// then probably late, and is sent again after recallSoon.
	recallStay = time.Second
	recallSoon = 500 * time.Millisecond
	// recallQuiet is how long no call may run on a link before it is closed. A call
	// may be on its way to the link when the proxy begins to send others elsewhere.
	recallQuiet = 100 * time.Millisecond
	// recallPoll is how often a link and a machine are looked at meanwhile.
	recallPoll = 10 * time.Millisecond
)

// peerSilent notes when another scheduler was asked, in Unix nanoseconds.
type peerSilent struct {
	since atomic.Int64 // it does not answer; 0 if it does
	asked atomic.Int64
}

// summon asks the others for the machine of a request and waits until it is
// connected here. It reports whether it was not, but may be elsewhere by now: the
// proxy may have changed its mind meanwhile, and with it the daemon.
func (h *hubAPI) summon(r *http.Request, machineID string) (elsewhere bool) {
	if conn, _ := h.hub.connOf(machineID); conn != nil || h.peers == nil {
		return false
	}
	wait := h.peers.recall(r, machineID)
	if wait == 0 && h.hub.isNew() {
		wait = recallWait
	}
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(recallPoll) {
		if conn, _ := h.hub.connOf(machineID); conn != nil || r.Context().Err() != nil {
			return false
		}
	}
	return wait > 0
}

// recall asks the others to release a machine, with the caller's token, and returns
// how long to wait for it to dial here.
func (p *peers) recall(r *http.Request, machineID string) time.Duration {
	ctx, cancel := context.WithTimeout(r.Context(), peerTimeout)
	defer cancel()
	waits := make([]time.Duration, len(p.urls))
	var wg sync.WaitGroup
	for i := range p.urls {
		wg.Go(func() { // ends within peerTimeout
			if waits[i] = p.recallFrom(ctx, r, i, machineID); waits[i] != 0 {
				cancel() // one has had it
			}
		})
	}
	wg.Wait()
	return slices.Max(waits)
}

// recallFrom asks one. A scheduler that has just stopped answering may have had the
// machine.
func (p *peers) recallFrom(ctx context.Context, r *http.Request, i int, machineID string) time.Duration {
	silent, now := &p.silent[i], time.Now().UnixNano()
	since := silent.since.Load()
	gone := since != 0 && now-since > int64(recallGrace)
	if gone && now-silent.asked.Load() < int64(recallRetry) {
		return 0
	}
	silent.asked.Store(now)
	response, err := p.do(ctx, r, http.MethodPost, p.urls[i]+"/machines/"+url.PathEscape(machineID)+"/release", "")
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return 0 // another one had it, or the caller went away
		}
		silent.since.CompareAndSwap(0, now)
		if gone {
			return 0
		}
		return recallWait
	}
	_ = response.Body.Close() // nothing of it is used
	silent.since.Store(0)
	switch response.StatusCode {
	case http.StatusNoContent:
		return recallWait
	case http.StatusConflict:
		return recallSoon
	}
	return 0
}

// POST /machines/{machine_id}/release
func (h *hubAPI) releaseMachine(w http.ResponseWriter, r *http.Request) {
	if caller := callerOf(r); !caller.allows(rightCall) && !caller.allows(rightClone) && !caller.allows(rightMCP) {
		writeError(w, lacksRight(caller, "lacks the right call, clone or mcp"))
		return
	}
	if status := h.hub.release(r.PathValue("machine_id")); status != http.StatusNoContent {
		writeProblem(w, status, codeNotFound, "the machine is not connected here, or has just come")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// isNew reports whether a hub cannot know yet which machines were connected to the
// scheduler that ran before it.
func (h *hub) isNew() bool { return time.Since(h.started) < returnTimeout }

// release closes the link of a user's machine when no call runs on it. It returns 204
// if there is one, or may have been one within returnTimeout, 409 if it has just begun
// and stays, and else 404.
func (h *hub) release(machineID string) (status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[machineID]
	switch {
	case strings.HasPrefix(machineID, cloudPrefix):
		return http.StatusNotFound // a daemon of the pool
	case m == nil, m.conn == nil:
		if !h.isNew() && (m == nil || time.Since(m.left) >= returnTimeout) {
			return http.StatusNotFound
		}
	case time.Since(m.conn.link.began) < recallStay:
		return http.StatusConflict
	default:
		h.leaveLocked(m.conn)
	}
	return http.StatusNoContent
}

func (h *hub) leaveLocked(c *hubConn) {
	if !c.leaving && !h.closed {
		c.leaving = true
		h.wg.Go(c.leave)
	}
}

// leave closes the link with 1001, so that its daemon dials again. It ends with the
// last call, or with the link.
func (c *hubConn) leave() {
	ticker := time.NewTicker(recallPoll)
	defer ticker.Stop()
	for quiet := time.Duration(0); quiet < recallQuiet; quiet += recallPoll {
		select {
		case <-ticker.C:
		case <-c.done:
			return
		}
		if c.peer.pending() > 0 {
			quiet = 0
		}
	}
	c.hub.drop(c, errReleased) // no call may find it any more
	c.link.sendClose(websocket.StatusGoingAway, "another scheduler has the calls now: dial again")
}

var errReleased = errors.New("another scheduler has the calls of the machine")

// moved reports whether a machine has just left for another scheduler.
func (h *hub) moved(machineID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[machineID]
	return m != nil && m.conn == nil && m.released && time.Since(m.left) < returnTimeout
}
