package main

import "encoding/json"

// This file passes the progress of daemons to the subscribers and to the calls.

// progressName names a request as the progress of its daemon does: by the task_id, or
// without one the id of the request, which is another for each link that the
// request goes out by.
type progressName struct {
	conn *hubConn
	id   string
}

// progressWatch receives the progress of a call. Only the newest is kept.
type progressWatch struct {
	call   *call
	newest chan json.RawMessage // 1-buffered

	// Guarded by the hub's lock.
	name    progressName // of the attempt that was sent last; the zero value before the first
	percent int          // of the newest
}

// progressed passes a daemon's progress to the subscribers, and to the calls that
// went out by this link: another daemon may use the same task id. A percent that
// is lower than the last is left out: it comes from the next daemon of a call
// that was sent again, and a caller never sees it fall.
func (h *hub) progressed(c *hubConn, params json.RawMessage) {
	var task taskProgress
	if decodeParams(params, &task) != nil {
		return
	}
	view, ok := h.viewOf(c)
	if !ok {
		return
	}
	token := h.requests.progressed(c, task)
	h.publish(progressMethod, machineProgress{MachineID: view.MachineID, LibID: view.LibID, Token: token, taskProgress: task})
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.progress[progressName{c, task.TaskID}] {
		if task.Percent < w.percent {
			continue
		}
		w.percent = task.Percent
		params := params
		if w.call.taskID == "" { // the caller knows the request by its own id
			task.TaskID = w.call.idText()
			var err error
			if params, err = json.Marshal(task); err != nil {
				continue // cannot happen: a taskProgress has strings and numbers only
			}
		}
		select {
		case <-w.newest: // the one before was not taken
		default:
		}
		w.newest <- params
	}
}

// viewOf returns the machine whose link c is; false before its handshake was
// accepted, and after another link took its place.
func (h *hub) viewOf(c *hubConn) (machineView, bool) {
	params := c.handshake()
	if params == nil {
		return machineView{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[params.MachineID]
	if m == nil || m.conn != c {
		return machineView{}, false
	}
	return m.view, true
}

// watch collects the progress of a call, until stop is called. It must be called
// before perform.
func (h *hub) watch(c *call) (w *progressWatch, stop func()) {
	w = &progressWatch{call: c, newest: make(chan json.RawMessage, 1)}
	c.watch = w
	return w, func() { h.expect(w, progressName{}) }
}

// expect makes the progress with this name that of the watch, in place of the name
// of the attempt before; the zero value stands for none.
func (h *hub) expect(w *progressWatch, name progressName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.progress[w.name], w)
	if len(h.progress[w.name]) == 0 {
		delete(h.progress, w.name)
	}
	w.name = name
	if name.conn == nil {
		return
	}
	if h.progress[name] == nil {
		h.progress[name] = map[*progressWatch]struct{}{}
	}
	h.progress[name][w] = struct{}{}
}
