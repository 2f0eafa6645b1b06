package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// defaultOfflineThreshold is the original's DAEMON_OFFLINE_THRESHOLD.
	defaultOfflineThreshold = 60 * time.Second
	// oldLinkTimeout is how long a connected daemon has to prove that it is alive
	// when another claims its machine id.
	oldLinkTimeout = 2 * time.Second
	// returnTimeout is how long a call waits for a machine whose link was lost.
	returnTimeout = 15 * time.Second
	// maxResends bounds how often a call is sent again after a lost link.
	maxResends = 2
	// maxOffline bounds the machines that are remembered although they are gone;
	// the longest ago connected go first.
	maxOffline = 1000
	// maxHandshake bounds a handshake, which is kept and shown: room for a thousand
	// allowed paths.
	maxHandshake = 64 << 10
)

// hubConfig is what a hub needs of its surroundings.
type hubConfig struct {
	maxMessage        int
	offlineThreshold  time.Duration
	heartbeatInterval time.Duration
	times             linkTimes
	libraryOf         func(machineID string) string // for the handshake's lib_id
	methods           map[string]*method            // the built-in ones, for their time limits
	publish           func(event string, params any)
	log               *slog.Logger
}

// hub is the server's side of all links: who is here, and the way to ask them.
type hub struct {
	hubConfig
	wg sync.WaitGroup // the links, and the watch for silence

	mu       sync.Mutex // guards the fields below
	closed   bool
	conns    map[*hubConn]struct{} // all that are open, greeted or not
	machines map[string]*machine
	progress map[string]map[*progressWatch]struct{} // by task id
}

// machine is what is known of one machine id.
type machine struct {
	view    machineView
	conn    *hubConn      // nil when offline
	changed chan struct{} // closed, and replaced, when conn changes
}

// machineView is a machine as GET /machines shows it.
type machineView struct {
	handshakeParams
	LibID           string     `json:"lib_id"`
	Status          string     `json:"status" enum:"online,offline"`
	ConnectedAt     time.Time  `json:"connected_at"`
	LastHeartbeatAt *time.Time `json:"last_heartbeat_at"`
	ActiveRequests  int        `json:"active_requests"`
}

// progressWatch gets the progress of a call; a full channel drops the older.
type progressWatch struct {
	call    *call
	newest  chan json.RawMessage
	percent int // the last one, under the hub's lock
}

func newHub(c hubConfig) *hub {
	return &hub{hubConfig: c, conns: map[*hubConn]struct{}{}, machines: map[string]*machine{}, progress: map[string]map[*progressWatch]struct{}{}}
}

// hubConn is one daemon's link. It is the handler of its peer.
type hubConn struct {
	hub     *hub
	link    *link
	peer    *peer
	child   string // the machine id that its token is for; "" for a user's daemon
	claimed string // the machine id of the upgrade's header; "" without one

	mu    sync.Mutex // guards the field below
	hello *handshakeParams
	done  chan struct{} // closed when the link has ended
}

// serve runs a link from the upgrade to its end.
func (h *hub) serve(conn *websocket.Conn, hooks *linkHooks, child, claimed string) {
	l := newLink(conn, hooks, h.maxMessage, h.times, h.log)
	c := &hubConn{hub: h, link: l, child: child, claimed: claimed, done: make(chan struct{})}
	c.peer = newPeer(l, c, h.maxMessage, h.log)
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.conns[c] = struct{}{}
		h.wg.Add(1)
	}
	h.mu.Unlock()
	if closed {
		l.close(websocket.StatusGoingAway, "the server stops")
		return
	}
	defer h.wg.Done()
	late := time.AfterFunc(handshakeTimeout, func() {
		if c.greeted() == nil {
			l.sendClose(websocket.StatusPolicyViolation, "no handshake")
		}
	})
	defer late.Stop()
	err := c.peer.run()
	h.drop(c, err)
	close(c.done)
	l.close(websocket.StatusNormalClosure, "")
}

func (c *hubConn) greeted() *handshakeParams {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello
}

// request takes the daemon's handshake; it asks nothing else.
func (c *hubConn) request(r *incoming) {
	if r.method != handshakeMethod {
		r.answer(nil, &rpcError{Code: codeMethodNotFound, Message: fmt.Sprintf("method not found: %q", r.method)}, nil)
		return
	}
	var hello handshakeParams
	if err := decodeParams(r.params, &hello); err != nil {
		r.answer(nil, err, nil)
		return
	}
	c.mu.Lock()
	again := c.hello != nil
	if !again {
		c.hello = &hello
	}
	c.mu.Unlock()
	if again {
		r.answer(nil, &rpcError{Code: codeInvalidRequest, Message: "invalid request: the handshake was made already"}, nil)
		return
	}
	// It may have to ask an older link first. Ends within oldLinkTimeout.
	c.hub.wg.Go(func() { c.greet(r, hello) })
}

// greet answers the handshake. A refused link is closed with 1008.
func (c *hubConn) greet(r *incoming, hello handshakeParams) {
	reason := c.objection(hello)
	if len(r.params) > maxHandshake {
		reason = fmt.Sprintf("a handshake has at most %d bytes", maxHandshake)
	}
	if reason == "" {
		reason = c.hub.register(c, hello)
	}
	if reason != "" {
		c.hub.log.Warn("a daemon was refused", "machine_id", hello.MachineID, "reason", reason)
		r.answer(handshakeResult{Reason: reason}, nil, func() {
			// Not here, in the link's writer. Ends within closeTimeout.
			c.hub.wg.Go(func() { c.link.sendClose(websocket.StatusPolicyViolation, closeReason(reason)) })
		})
		return
	}
	r.answer(handshakeResult{
		Accepted: true, LibID: c.hub.libraryOf(hello.MachineID),
		HeartbeatIntervalMS: c.hub.heartbeatInterval.Milliseconds(),
	}, nil, nil)
}

// closeReason fits a text into a close frame (RFC 6455, section 5.5: 125
// bytes with the code).
func closeReason(text string) string {
	const most = 120
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

// objection is why a handshake cannot be accepted, whoever else is here.
func (c *hubConn) objection(hello handshakeParams) string {
	switch {
	case hello.ProtocolVersion != protocolVersion:
		return fmt.Sprintf("protocol_version %d is not spoken here, %d is", hello.ProtocolVersion, protocolVersion)
	case checkMachineID(hello.MachineID) != nil:
		return "machine_id: " + checkMachineID(hello.MachineID).Error()
	case hello.InstanceID == "":
		return "instance_id is missing"
	case c.claimed != "" && c.claimed != hello.MachineID:
		return "machine_id differs from the header " + machineIDHeader
	case c.child != "" && c.child != hello.MachineID:
		return "the token is for another machine_id"
	case c.child == "" && strings.HasPrefix(hello.MachineID, cloudPrefix):
		return "machine ids that begin with " + cloudPrefix + " belong to the pool of this server"
	}
	return ""
}

// register makes c the link of its machine, before the answer tells the daemon
// so. It returns a reason when another has the place: a user's daemon that is
// alive keeps it.
func (h *hub) register(c *hubConn, hello handshakeParams) string {
	for {
		h.mu.Lock()
		m := h.machines[hello.MachineID]
		if m == nil {
			m = &machine{changed: make(chan struct{})}
			h.machines[hello.MachineID] = m
			h.forgetLocked()
		}
		old := m.conn
		stranger := old != nil && m.view.InstanceID != hello.InstanceID
		if old == nil || !stranger || c.child != "" {
			m.conn = c
			m.view = machineView{
				handshakeParams: hello, LibID: h.libraryOf(hello.MachineID), Status: "online", ConnectedAt: time.Now().UTC(),
			}
			close(m.changed)
			m.changed = make(chan struct{})
			h.tellLocked(m, "connected")
			h.mu.Unlock()
			if stranger {
				h.wg.Go(func() { old.link.sendClose(closeReplaced, "replaced by another daemon of this machine id") }) // ends within closeTimeout
			} else if old != nil {
				_ = old.link.fail(errReplaced) // the same process came back; its old link is dead
			}
			return ""
		}
		h.mu.Unlock()
		if old.link.ping(oldLinkTimeout) == nil {
			return fmt.Sprintf("a daemon with the machine_id %q is connected already", hello.MachineID)
		}
		_ = old.link.fail(errPingTimeout)
		<-old.done // its place is free now
	}
}

// drop notes the end of a link, unless a newer one has its place.
func (h *hub) drop(c *hubConn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
	hello := c.greeted()
	if hello == nil {
		return
	}
	m := h.machines[hello.MachineID]
	if m == nil || m.conn != c {
		return
	}
	m.conn = nil
	m.view.Status = "offline"
	m.view.ActiveRequests = 0
	close(m.changed)
	m.changed = make(chan struct{})
	h.tellLocked(m, sessionError(err).Error())
}

// tellLocked publishes a machine's status; under the lock, so that subscribers
// hear of changes in their order.
func (h *hub) tellLocked(m *machine, reason string) {
	h.log.Info("machine "+m.view.Status, "machine_id", m.view.MachineID, "reason", reason)
	h.publish(statusMethod, machineStatus{
		MachineID: m.view.MachineID, LibID: m.view.LibID, Status: m.view.Status, Reason: reason, At: time.Now().UTC(),
	})
}

// forgetLocked keeps the number of remembered machines bounded.
func (h *hub) forgetLocked() {
	var offline []*machine
	for _, m := range h.machines {
		if m.conn == nil && m.view.MachineID != "" {
			offline = append(offline, m)
		}
	}
	if len(offline) <= maxOffline {
		return
	}
	slices.SortFunc(offline, func(a, b *machine) int { return a.view.ConnectedAt.Compare(b.view.ConnectedAt) })
	for _, m := range offline[:len(offline)-maxOffline] {
		delete(h.machines, m.view.MachineID)
	}
}

// notify takes the daemon's heartbeats and progress.
func (c *hubConn) notify(method string, params json.RawMessage) {
	switch method {
	case heartbeatMethod:
		var beat heartbeat
		if decodeParams(params, &beat) != nil {
			return
		}
		c.hub.beat(c, beat)
	case progressMethod:
		if c.greeted() != nil {
			c.hub.progressed(c, params)
		}
	}
}

func (h *hub) beat(c *hubConn, beat heartbeat) {
	hello := c.greeted()
	if hello == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.machines[hello.MachineID]; m != nil && m.conn == c {
		now := time.Now().UTC()
		m.view.LastHeartbeatAt = &now
		m.view.ActiveRequests = beat.ActiveRequests
	}
}

// progressed hands a daemon's progress to the calls that went to it by this link
// and to the subscribers. Task ids are each daemon's own. What falls behind, from
// the next daemon of a call that was sent again, is left out.
func (h *hub) progressed(c *hubConn, params json.RawMessage) {
	var task struct {
		TaskID  string `json:"task_id"`
		Percent int    `json:"percent"`
	}
	if decodeParams(params, &task) != nil {
		return
	}
	h.publish(progressMethod, params)
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.progress[task.TaskID] {
		if w.call.via.Load() != c || task.Percent < w.percent {
			continue
		}
		w.percent = task.Percent
		select {
		case <-w.newest: // nobody took the one before
		default:
		}
		w.newest <- params
	}
}

// watch gives a call the progress of its task until stop is called.
func (h *hub) watch(c *call) (w *progressWatch, stop func()) {
	w = &progressWatch{call: c, newest: make(chan json.RawMessage, 1)}
	taskID := c.taskID
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.progress[taskID] == nil {
		h.progress[taskID] = map[*progressWatch]struct{}{}
	}
	h.progress[taskID][w] = struct{}{}
	return w, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.progress[taskID], w)
		if len(h.progress[taskID]) == 0 {
			delete(h.progress, taskID)
		}
	}
}

// sweep ends links that were silent for too long, until ctx ends. Pieces of a
// message count as life, pongs do not.
func (h *hub) sweep(ctx context.Context) {
	const most = 5 * time.Second
	ticker := time.NewTicker(max(time.Millisecond, min(most, h.offlineThreshold/8)))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			h.sweepOnce()
		case <-ctx.Done():
			return
		}
	}
}

func (h *hub) sweepOnce() {
	h.mu.Lock()
	var silent []*hubConn
	for _, m := range h.machines {
		if m.conn != nil && m.conn.link.silence() >= h.offlineThreshold {
			silent = append(silent, m.conn)
		}
	}
	h.mu.Unlock()
	for _, c := range silent {
		h.wg.Go(func() { c.link.closeWith(closeHeartbeat, fmt.Sprintf("no heartbeat within %v", h.offlineThreshold)) }) // ends within closeTimeout
	}
}

// views lists the machines by id.
func (h *hub) views() []machineView {
	h.mu.Lock()
	defer h.mu.Unlock()
	views := []machineView{}
	for _, id := range slices.Sorted(maps.Keys(h.machines)) {
		if m := h.machines[id]; m.view.MachineID != "" {
			views = append(views, m.view)
		}
	}
	return views
}

// view is one machine; false when it was never here.
func (h *hub) view(machineID string) (machineView, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[machineID]
	if m == nil || m.view.MachineID == "" {
		return machineView{}, false
	}
	return m.view, true
}

// bound updates the library that a machine is shown with.
func (h *hub) bound(machineID, libID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.machines[machineID]; m != nil {
		m.view.LibID = libID
	}
}

// close ends all links with 1001 and waits for them.
func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	all := maps.Clone(h.conns)
	h.mu.Unlock()
	for c := range all {
		h.wg.Go(func() { c.link.close(websocket.StatusGoingAway, "the server stops") })
	}
	h.wg.Wait()
}

var (
	errUnknownMachine = errors.New("no such machine was ever connected")
	errOffline        = errors.New("the machine is not connected")
)

// connected is the link of a machine, awaited for at most wait and until gone
// is closed (nil never is).
func (h *hub) connected(ctx context.Context, machineID string, wait time.Duration, gone <-chan struct{}) (*hubConn, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		h.mu.Lock()
		m := h.machines[machineID]
		if m == nil {
			h.mu.Unlock()
			return nil, errUnknownMachine
		}
		c, changed := m.conn, m.changed
		h.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-gone:
			return nil, errOffline
		case <-timer.C:
			return nil, errOffline
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
