package main

import (
	"maps"
	"slices"
	"time"
)

// This file is what the hub remembers of machines, connected or not.

const (
	// maxOffline and maxOfflineBytes bound the machines without a library that are
	// remembered while they are offline; those that connected longest ago are
	// forgotten first. A machine with a library is always remembered, but beyond
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
	changed   chan struct{} // closed, and replaced, when conn changes
	announced chan struct{} // closed when the last change is published; nil before the first
}

// machineView is a machine as GET /machines shows it.
type machineView struct {
	handshakeParams
	LibID           string     `json:"lib_id"`
	Status          string     `json:"status" enum:"online,offline"`
	ConnectedAt     *time.Time `json:"connected_at" doc:"null if it was not connected since the scheduler started"`
	LastHeartbeatAt *time.Time `json:"last_heartbeat_at"`
	ActiveRequests  int        `json:"active_requests"`
}

// forgetLocked bounds what is remembered of machines that are offline.
func (h *hub) forgetLocked() {
	var offline []*machine
	unbound, bytes := 0, 0
	for _, m := range h.machines {
		if m.conn != nil || m.view.ConnectedAt == nil {
			continue
		}
		offline = append(offline, m)
		bytes += m.view.bytes()
		if !m.bound {
			unbound++
		}
	}
	if unbound <= maxOffline && bytes <= maxOfflineBytes {
		return
	}
	sortBy(offline, func(a, b *machine) int {
		if a.bound != b.bound {
			if b.bound {
				return -1
			}
			return 1
		}
		return a.view.ConnectedAt.Compare(*b.view.ConnectedAt)
	})
	for _, m := range offline {
		if unbound <= maxOffline && bytes <= maxOfflineBytes {
			return
		}
		bytes -= m.view.bytes()
		if m.bound {
			m.view = offlineView(m.view.MachineID, m.view.LibID)
			continue
		}
		unbound--
		delete(h.machines, m.view.MachineID)
	}
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
	for _, id := range slices.Sorted(maps.Keys(h.machines)) {
		m := h.machines[id]
		if id <= after || m.view.MachineID == "" {
			continue
		}
		bytes += m.view.bytes()
		if len(views) == limit || len(views) > 0 && bytes > maxMachinesPage {
			return views, true
		}
		views = append(views, h.liveViewLocked(m))
	}
	return views, false
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
	m.view.LibID, m.bound = libID, libID != ""
}
