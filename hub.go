package main

import (
	"cmp"
	linked "container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// defaultOfflineThreshold is the original's DAEMON_OFFLINE_THRESHOLD.
	defaultOfflineThreshold = 60 * time.Second
	// oldLinkTimeout is how long a connected daemon has to answer a ping when
	// another daemon comes with its machine id.
	oldLinkTimeout = 2 * time.Second
	// returnTimeout is how long a call waits for a machine whose link was lost.
	returnTimeout = 15 * time.Second
	// maxResends bounds how often a call is sent again after a lost link.
	maxResends = 2
	// maxUnfinished bounds the links of users' daemons whose handshake was not
	// accepted yet; the oldest one makes room. Each may cost 100 KiB for
	// handshakeTimeout. For unfinishedGrace there may be maxUnfinishedBurst, each with
	// less than 1 KiB as a rule: ten thousand daemons dial at once after a restart of
	// the server, and those that are sent away come back seconds later.
	maxUnfinished      = 512
	maxUnfinishedBurst = 8192
	unfinishedGrace    = 2 * time.Second
	// manyChanges is how many links must begin or end between two sweeps for unused
	// memory to be returned afterwards. A handshake takes some 20 KiB for a moment, an
	// idle link half of it; the collector alone would return the rest in minutes.
	manyChanges = 500
)

// hubConfig configures a hub.
type hubConfig struct {
	maxMessage        int
	offlineThreshold  time.Duration
	heartbeatInterval time.Duration
	times             linkTimes
	libraryOf         func(machineID string) string // for the handshake's lib_id; called under the hub's lock
	methods           map[string]*method            // the built-in ones, for their time limits
	publish           func(event string, params any)
	requests          *requestLog  // nil makes one
	calls             *callMetrics // nil makes one
	log               *slog.Logger
}

// hub is the server's side of all links: it knows which daemons are connected,
// and carries calls to them.
type hub struct {
	hubConfig
	started time.Time
	wg      sync.WaitGroup // the links, and the watch for silence
	clock   *linkClock     // of all links; run by sweep
	buffers bufferPool     // of the answers
	frames  sync.Pool      // see frameGuard.buffers

	mu       sync.Mutex // guards the fields below
	closed   bool
	conns    map[*hubConn]struct{} // all open links, before the handshake too
	machines map[string]*machine
	offline  offlineMachines

	unfinished linked.List // of *hubConn, the oldest first: users' daemons whose handshake was not accepted yet
	methodList []string    // of the latest handshake: most daemons have the same
	changed    int         // links that have begun or ended
	progress   map[progressName]map[*progressWatch]struct{}
}

func newHub(c hubConfig) *hub {
	if c.requests == nil {
		c.requests = newRequestLog()
	}
	if c.calls == nil {
		c.calls = newCallMetrics(c.methods)
	}
	return &hub{hubConfig: c, started: time.Now(), clock: newLinkClock(c.times, c.log), conns: map[*hubConn]struct{}{}, machines: map[string]*machine{}, progress: map[progressName]map[*progressWatch]struct{}{}}
}

// drop notes the end of a link, unless its machine has a newer one.
func (h *hub) drop(c *hubConn, err error) {
	if announce := h.dropConn(c, err); announce != nil {
		announce()
	}
}

func (h *hub) dropConn(c *hubConn, err error) (announce func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
	h.changed++
	h.finishLocked(c)
	params := c.handshake()
	if params == nil {
		return nil
	}
	m := h.machines[params.MachineID]
	if m == nil || m.conn != c {
		return nil
	}
	m.view.Status = "offline"
	m.view.ActiveRequests = 0
	m.left, m.released = time.Now(), c.leaving
	announce = h.setConnLocked(m, nil, sessionError(err).Error())
	h.offlineLocked(m)
	return announce
}

// setConnLocked changes a machine's link. It returns what logs and publishes the
// change, to be called without the lock. Announcements of one machine wait for
// each other, so that subscribers see its changes in order.
func (h *hub) setConnLocked(m *machine, c *hubConn, reason string) (announce func()) {
	token := cmp.Or(c, m.conn).token.label() // one of them is not nil
	m.conn = c
	close(m.changed)
	m.changed = make(chan struct{})
	before, announced := m.announced, make(chan struct{})
	m.announced = announced
	status := machineStatus{
		MachineID: m.view.MachineID, LibID: m.view.LibID, Status: m.view.Status, Reason: reason, Token: token, At: time.Now().UTC(),
	}
	return func() {
		defer close(announced)
		if before != nil {
			<-before
		}
		h.log.Info("machine "+status.Status, withToken([]any{"machine_id", status.MachineID, "reason", reason}, token)...)
		h.publish(statusMethod, status)
	}
}

// notify takes the daemon's heartbeats and progress. It ignores one that could not
// be published.
func (c *hubConn) notify(method string, params json.RawMessage) {
	if len(params) > maxEvent {
		return
	}
	switch method {
	case heartbeatMethod:
		var beat heartbeat
		if !beat.scan(params) {
			beat = heartbeat{}
			if decodeParams(params, &beat) != nil {
				return
			}
		}
		c.hub.beat(c, beat)
	case progressMethod:
		c.hub.progressed(c, params)
	}
}

func (h *hub) beat(c *hubConn, beat heartbeat) {
	params := c.handshake()
	if params == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.machines[params.MachineID]; m != nil && m.conn == c {
		now := time.Now().UTC()
		m.view.LastHeartbeatAt = &now // a new one each time: views that were returned share it
		m.beat = beat
		m.view.ActiveRequests = max(0, beat.ActiveRequests-c.peer.pending())
	}
}

// firstRequestID returns the id before the first request of a link: a random one,
// because progress names a request without a task_id by its id, and the task_id of
// another caller on the same link must not be the same by chance. Ids stay below
// 2^53, up to which JavaScript's numbers are exact.
func firstRequestID() int64 { return 1<<52 + rand.Int64N(1<<51) }

// sweep runs the clock of the links and closes those that were silent for too long,
// until ctx ends. Pieces of a message are signs of life, pongs are not: a daemon
// that hangs still sends them.
func (h *hub) sweep(ctx context.Context) {
	const most = 5 * time.Second
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { h.clock.run(ctx.Done()) })
	ticker := time.NewTicker(max(time.Millisecond, min(most, h.offlineThreshold/8)))
	defer ticker.Stop()
	due, changes := false, 0
	for {
		select {
		case <-ticker.C:
			h.sweepOnce()
			before := changes
			if changes = h.changes(); changes-before >= manyChanges {
				due = true
			} else if due {
				due = false
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return
		}
	}
}

// changes returns how many links have begun or ended.
func (h *hub) changes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *hub) sweepOnce() {
	for _, c := range h.silent() {
		h.wg.Go(func() { c.link.closeWith(closeHeartbeat, fmt.Sprintf("no heartbeat within %v", h.offlineThreshold)) }) // ends within closeTimeout
	}
}

// silent returns the links that were silent for offlineThreshold.
func (h *hub) silent() (silent []*hubConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if c.link.trusted() && c.link.silence() >= h.offlineThreshold {
			silent = append(silent, c)
		}
	}
	return silent
}

// close closes all links with 1001 and waits for them.
func (h *hub) close() {
	for c := range h.refuseLinks() {
		h.wg.Go(func() { c.link.close(websocket.StatusGoingAway, "the server stops") })
	}
	h.wg.Wait()
}

// refuseLinks refuses new links and returns the open ones.
func (h *hub) refuseLinks() map[*hubConn]struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return maps.Clone(h.conns)
}

var (
	errTooManyUnfinished = errors.New("too many daemons have not made their handshake")
	errUnknownMachine    = errors.New("no such machine was ever connected")
	errOffline           = errors.New("the machine is not connected")
)

// connected returns the link of a machine. It waits for one at most the given
// time, and until gone is closed; a nil gone never is.
func (h *hub) connected(ctx context.Context, machineID string, wait time.Duration, gone <-chan struct{}) (*hubConn, error) {
	var timeout <-chan time.Time
	for {
		c, changed := h.connOf(machineID)
		switch {
		case changed == nil:
			return nil, errUnknownMachine
		case c != nil:
			// A request must not overtake the answer to the handshake.
			select {
			case <-c.ready:
				return c, nil
			case <-c.done:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if timeout == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-changed:
		case <-gone:
			return nil, errOffline
		case <-timeout:
			return nil, errOffline
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// connOf returns the link of a machine, nil when it is offline, and a channel
// that is closed when that changes, nil when the machine was never connected.
func (h *hub) connOf(machineID string) (*hubConn, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[machineID]
	if m == nil {
		return nil, nil
	}
	return m.conn, m.changed
}
