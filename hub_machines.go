package main

import (
	linked "container/list"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// This file is what the hub remembers of machines, connected or not.

const (
	// maxOffline and maxOfflineBytes bound the machines without a library that are
	// remembered while they are offline; those that left longest ago are forgotten
	// first. A machine with a library is always remembered, but beyond
	// maxOfflineBytes without its handshake.
	maxOffline      = 1000
	maxOfflineBytes = 8 << 20
	// maxMachinesPage bounds the handshakes in one page of GET /machines in bytes.
	maxMachinesPage = 1 << 20
)

// machine holds what the hub knows about one machine id.
type machine struct {
	beat      heartbeat     // the last one of the link
	view      machineView   // its active_requests are those that are not calls of this hub
	conn      *hubConn      // nil when offline
	bound     bool          // a library is bound to it
	left      time.Time     // when the last link ended
	released  bool          // for another scheduler
	changed   chan struct{} // closed, and replaced, when conn changes
	announced chan struct{} // closed when the last change is published; nil before the first

	gone *linked.Element // in a list of offlineMachines; nil if it is in none
	size int             // what it counts for there, in bytes
}

// offlineMachines are the machines that are offline and whose handshakes are
// remembered, those first that left first.
type offlineMachines struct {
	bound, unbound linked.List // of *machine
	bytes          int
}

func (o *offlineMachines) add(m *machine) {
	of := &o.unbound
	if m.bound {
		of = &o.bound
	}
	m.gone, m.size = of.PushBack(m), m.view.bytes()
	o.bytes += m.size
}

// remove does nothing for a machine that is not there.
func (o *offlineMachines) remove(m *machine) {
	if m.gone == nil {
		return
	}
	o.bytes -= m.size
	o.unbound.Remove(m.gone) // each does nothing with an element of the other
	o.bound.Remove(m.gone)
	m.gone = nil
}

// machineView is a machine as GET /machines shows it.
type machineView struct {
	handshakeParams
	LibID           string     `json:"lib_id"`
	Status          string     `json:"status" enum:"online,offline"`
	ConnectedAt     *time.Time `json:"connected_at" doc:"null if it was not connected since the scheduler started"`
	LastHeartbeatAt *time.Time `json:"last_heartbeat_at"`
	ActiveRequests  int        `json:"active_requests"`
	Node            string     `json:"node,omitempty" doc:"with nodes=all, the URL of its scheduler"`
}

// shownInstance returns what callers are shown of an instance_id, a hash: a daemon
// that knows the instance_id of another takes its place without a question.
func shownInstance(instanceID string) string {
	sum := sha256.Sum256([]byte(instanceID))
	return hex.EncodeToString(sum[:16])
}

// offlineLocked notes that a machine is offline, and bounds what is remembered of
// those that are.
func (h *hub) offlineLocked(m *machine) {
	o := &h.offline
	o.add(m)
	for o.unbound.Len() > maxOffline || o.bytes > maxOfflineBytes && o.unbound.Len() > 0 {
		oldest := o.unbound.Front().Value.(*machine)
		o.remove(oldest)
		delete(h.machines, oldest.view.MachineID)
	}
	for o.bytes > maxOfflineBytes && o.bound.Len() > 0 {
		oldest := o.bound.Front().Value.(*machine)
		o.remove(oldest)
		oldest.view = offlineView(oldest.view.MachineID, oldest.view.LibID)
	}
}

// shareMethods makes the handshake share the list of methods with the one before, if
// they are equal: it is half of a handshake.
func (h *hub) shareMethods(p *handshakeParams) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Equal(p.Methods, h.methodList) {
		p.Methods = h.methodList
	}
	h.methodList = p.Methods
}

// offlineView is a machine of which only the library is known.
func offlineView(machineID, libID string) machineView {
	return machineView{handshakeParams: handshakeParams{MachineID: machineID, AllowedPaths: []string{}, Methods: []string{}}, LibID: libID, Status: "offline"}
}

// page returns machines sorted by id, those after the id of another, and reports
// whether there are more: at most limit, and at most maxMachinesPage but for one.
func (h *hub) page(after string, limit int) (views []machineView, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	views = []machineView{}
	bytes := 0
	for _, id := range h.namesLocked(after, limit+1) {
		m := h.machines[id]
		bytes += m.view.bytes()
		if len(views) == limit || len(views) > 0 && bytes > maxMachinesPage {
			return views, true
		}
		views = append(views, h.liveViewLocked(m))
	}
	return views, false
}

// namesLocked returns the first machines after another, sorted by id. It takes
// time for all machines but memory only for twice the limit.
func (h *hub) namesLocked(after string, limit int) (names []string) {
	last := "" // once there are enough: the last of them
	for id, m := range h.machines {
		if id <= after || last != "" && id > last || m.view.MachineID == "" {
			continue
		}
		if names = append(names, id); len(names) >= 2*limit {
			slices.Sort(names)
			names = names[:limit]
			last = names[limit-1]
		}
	}
	slices.Sort(names)
	return names[:min(len(names), limit)]
}

// view returns one machine; false when it was never connected.
func (h *hub) view(machineID string) (machineView, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[machineID]
	if m == nil || m.view.MachineID == "" {
		return machineView{}, false
	}
	return h.liveViewLocked(m), true
}

// liveViewLocked returns the view of a machine.
//
// The requests that this hub waits for are counted now; the heartbeat, which may
// be half a minute old, adds those that no caller waits for any more.
func (h *hub) liveViewLocked(m *machine) machineView {
	view := m.view
	if m.conn != nil {
		view.ActiveRequests += m.conn.peer.pending()
	}
	return view
}

// bound sets the library that a machine is shown with, "" for none. A machine with
// a library is known, also before it connects.
func (h *hub) bound(machineID, libID string) {
	if machineID == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[machineID]
	switch {
	case m == nil && libID == "":
		return
	case m == nil:
		m = &machine{changed: make(chan struct{}), view: offlineView(machineID, libID)}
		h.machines[machineID] = m
	case libID == "" && m.conn == nil && m.view.ConnectedAt == nil:
		delete(h.machines, machineID)
	}
	listed := m.gone != nil
	h.offline.remove(m)
	m.view.LibID, m.bound = libID, libID != ""
	if listed {
		h.offlineLocked(m)
	}
}
