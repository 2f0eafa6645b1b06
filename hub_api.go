package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/coder/websocket"
)

// hubAPI is the hub's part of the HTTP API.
type hubAPI struct {
	callRouter
	tokens      *childTokens
	daemonToken secret
	tokensFile  *tokensFile // nil without one
	cluster     bool        // other schedulers have machines too
	peers       *peers      // nil without --peers
	clients     clientCertificates
	limits      *apiLimits  // nil bounds no handshakes
	refuses     func() bool // new work; set by register
	unsent      unsentAnswers
	log         *slog.Logger
}

// register adds the hub's routes (REFERENCE.md).
func (h *hubAPI) register(a *api) {
	h.refuses = a.refuses
	a.handleOpen("GET "+linkPath, h.connect) // admit checks the daemons' tokens
	a.handle("GET /machines", h.listMachines)
	a.handle("GET /machines/{machine_id}", h.getMachine)
	a.handle("POST /machines/{machine_id}/rpc", h.callMachine)
	a.handle("POST /machines/{machine_id}/release", h.releaseMachine)
	a.handle("GET /libraries", h.listLibraries)
	a.handle("PUT /libraries/{lib_id}", h.bindLibrary)
	a.handle("GET /libraries/{lib_id}", h.getLibrary)
	a.handle("DELETE /libraries/{lib_id}", h.freeLibrary)
	a.handle("POST /libraries/{lib_id}/rpc", h.callLibrary)
}

// GET /ws/daemon
func (h *hubAPI) connect(w http.ResponseWriter, r *http.Request) {
	admitted, err := h.admit(r)
	if errors.Is(err, errNoDaemonToken) {
		if h.limits != nil {
			h.limits.strangers.pause()
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		writeProblem(w, http.StatusUnauthorized, codeUnauthorized, err.Error())
		return
	}
	if err != nil {
		writeError(w, err)
		return
	}
	if admitted.child == "" {
		if h.refuses() { // the pool's daemons still have calls
			refuseDraining(w)
			return
		}
		if err := h.limits.beginHandshake(); err != nil {
			writeError(w, err)
			return
		}
	}
	admitted.claimed, err = url.PathUnescape(r.Header.Get(machineIDHeader))
	if err != nil {
		writeError(w, badRequest("the header "+machineIDHeader+" is not percent-encoded"))
		return
	}
	if admitted.claimed != "" && admitted.certified != "" && admitted.claimed != admitted.certified {
		writeError(w, refusedCertificate(otherMachine(admitted.certified)))
		return
	}
	hooks := &linkHooks{}
	conn, err := websocket.Accept(hooks.wrapWriter(w), r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // Origin and Host were checked for every route
		CompressionMode:    websocket.CompressionNoContextTakeover, CompressionThreshold: minCompressed,
		OnPingReceived: hooks.ping, OnPongReceived: hooks.pong,
	})
	if err != nil {
		h.log.Debug("a request could not become a WebSocket", "error", err)
		if hooks.refusal.status != 0 { // else the connection is gone
			writeProblem(w, hooks.refusal.status, codeBadRequest, shownText(strings.TrimSpace(hooks.refusal.reason)))
		}
		return
	}
	h.hub.serve(conn, hooks, admitted)
}

var errNoDaemonToken = errors.New("the daemon's token is missing or wrong")

// admit returns as which machine the request may open a link. The pool's daemons
// need no certificate: their tokens name the machine. Without a daemon token and a
// tokens file users' daemons are admitted with a certificate, or where none is
// required from this machine only.
func (h *hubAPI) admit(r *http.Request) (linkAdmission, error) {
	given := bearerOf(r)
	if given != "" {
		if child := h.tokens.machineFor(given); child != "" {
			return linkAdmission{child: child}, nil
		}
	}
	by := h.clients.newest() // first: they may change after the check
	certified, err := h.clients.machine(r)
	a := linkAdmission{certified: certified, chain: h.clients.chainOf(r, by)}
	switch {
	case err != nil:
		return a, err
	case h.daemonToken != "" && equalSecrets(given, h.daemonToken):
		return a, nil
	case h.tokensFile != nil:
		if t := h.tokensFile.find(given); t != nil && t.allows(rightDaemon) {
			a.token, a.tokens = t, h.tokensFile
			return a, nil
		}
		return a, errNoDaemonToken
	case h.daemonToken != "", forwarded(r): // a proxy on this machine forwards for another machine
		return a, errNoDaemonToken
	case certified != "":
		return a, nil
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return a, nil // a Unix socket: the permissions of the file decide
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.Unmap().IsLoopback() {
		return a, errNoDaemonToken
	}
	return a, nil
}

// maxPage bounds the limit of a list.
const maxPage = 1000

// readPage reads the limit and the cursor of a list that is sorted by name. The
// cursor is the base64 of the last name of the page before.
func readPage(r *http.Request) (after string, limit int, err error) {
	query := r.URL.Query()
	limit = maxPage
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPage {
			return "", 0, badRequest(fmt.Sprintf("limit must be 1 to %d", maxPage))
		}
	}
	last, err := base64.RawURLEncoding.DecodeString(query.Get("cursor"))
	if err != nil {
		return "", 0, badRequest("cursor was not returned by this list")
	}
	return string(last), limit, nil
}

// nextCursor returns the cursor of the page after the last name, nil if there is
// none.
func nextCursor(last string, more bool) *string {
	if !more {
		return nil
	}
	cursor := base64.RawURLEncoding.EncodeToString([]byte(last))
	return &cursor
}

// GET /machines
func (h *hubAPI) listMachines(w http.ResponseWriter, r *http.Request) {
	after, limit, err := readPage(r)
	if err != nil {
		writeError(w, err)
		return
	}
	views, more := h.hub.page(after, limit)
	last := ""
	if more {
		last = views[len(views)-1].MachineID
	}
	caller := callerOf(r)
	views = dropIf(views, func(v *machineView) bool { return !caller.mayUseMachine(v.MachineID) })
	if h.peers.wanted(r) {
		writeJSON(w, http.StatusOK, h.peers.machines(r, after, limit, views, last))
		return
	}
	writeJSON(w, http.StatusOK, machineList{Machines: views, NextCursor: nextCursor(last, more)})
}

// GET /machines/{machine_id}
func (h *hubAPI) getMachine(w http.ResponseWriter, r *http.Request) {
	view, ok := h.hub.view(r.PathValue("machine_id"))
	if !ok {
		writeProblem(w, http.StatusNotFound, codeNotFound, "no such machine was ever connected")
		return
	}
	writeJSON(w, http.StatusOK, view)
}

// binding is a library and the machine that it is bound to.
type binding struct {
	LibID     string `json:"lib_id"`
	MachineID string `json:"machine_id"`
}

// PUT /libraries/{lib_id}
func (h *hubAPI) bindLibrary(w http.ResponseWriter, r *http.Request) {
	libID := r.PathValue("lib_id")
	var body struct {
		MachineID string `json:"machine_id"`
	}
	if err := checkLibID(libID); err != nil {
		writeError(w, err)
		return
	}
	if err := readJSON(w, r, &body); err != nil {
		writeError(w, err)
		return
	}
	if err := checkMachineID(body.MachineID); err != nil {
		writeError(w, badRequest("machine_id: "+err.Error()))
		return
	}
	if strings.HasPrefix(body.MachineID, cloudPrefix) {
		writeError(w, badRequest("machine_id: "+cloudPrefix+"… daemons are the pool's; a library without a binding has its own"))
		return
	}
	// Through the library its caller could use the machine.
	if err := requireMachine(r, body.MachineID); err != nil {
		writeError(w, err)
		return
	}
	if err := h.libraries.set(libID, body.MachineID); err != nil {
		h.log.Error("binding a library failed", "lib_id", libID, "error", err)
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, binding{libID, body.MachineID})
}

// GET /libraries
func (h *hubAPI) listLibraries(w http.ResponseWriter, r *http.Request) {
	after, limit, err := readPage(r)
	if err != nil {
		writeError(w, err)
		return
	}
	page, next := h.libraries.list(after, limit, callerOf(r).mayUseLibrary)
	writeJSON(w, http.StatusOK, libraryList{page, nextCursor(next, next != "")})
}

// GET /libraries/{lib_id}
func (h *hubAPI) getLibrary(w http.ResponseWriter, r *http.Request) {
	libID := r.PathValue("lib_id")
	machineID, ok := h.libraries.get(libID)
	if !ok {
		writeProblem(w, http.StatusNotFound, codeNotFound, "the library is bound to no machine: the pool serves it")
		return
	}
	writeJSON(w, http.StatusOK, binding{libID, machineID})
}

// DELETE /libraries/{lib_id}
func (h *hubAPI) freeLibrary(w http.ResponseWriter, r *http.Request) {
	libID := r.PathValue("lib_id")
	if _, ok := h.libraries.get(libID); !ok {
		writeProblem(w, http.StatusNotFound, codeNotFound, "the library is bound to no machine")
		return
	}
	if err := h.libraries.set(libID, ""); err != nil {
		h.log.Error("freeing a library failed", "lib_id", libID, "error", err)
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// POST /machines/{machine_id}/rpc
func (h *hubAPI) callMachine(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, h.hub.machineTarget(r.PathValue("machine_id")))
}

// POST /libraries/{lib_id}/rpc
func (h *hubAPI) callLibrary(w http.ResponseWriter, r *http.Request) {
	libID := r.PathValue("lib_id")
	if err := checkLibID(libID); err != nil {
		writeError(w, err)
		return
	}
	h.answer(w, r, h.libraryTarget(libID))
}

// answer carries one JSON-RPC request to a daemon and writes its answer, as JSON
// or as a stream with progress.
func (h *hubAPI) answer(w http.ResponseWriter, r *http.Request, find target) {
	body, err := readBody(w, r, maxRPCBody)
	if err != nil {
		h.refuseBody(w, body, err)
		return
	}
	c, err := parseCall(body, h.hub.methods)
	if err != nil {
		writeError(w, badRequest("no JSON-RPC request: "+err.Error()))
		return
	}
	if err := requireRight(r, methodRight(c.method)); err != nil {
		writeError(w, err)
		return
	}
	if h.redirect(w, r) {
		return
	}
	c.libID, c.machineID, c.token = r.PathValue("lib_id"), r.PathValue("machine_id"), callerOf(r).name
	c.caller = callerRequestOf(w).caller()
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		h.stream(w, r, c, find)
		return
	}
	result, err := h.hub.perform(r.Context(), c, find)
	if err == nil {
		err = callerRequestOf(w).addBytes(len(result))
	}
	status := http.StatusOK
	if refusal, ok := errors.AsType[*apiError](err); ok {
		status = refusal.status
		refusal.setRetryAfter(w.Header())
	}
	head, rest := callAnswer(c, result, err)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(head)+len(rest)))
	w.WriteHeader(status)
	h.logWriteError(h.unsent.send(w, head, rest))
	h.hub.giveBack(c)
}

// refuseBody answers a request whose body could not be read to its end. A body
// that is too large gets a JSON-RPC error if its id is in the part that was
// read.
func (h *hubAPI) refuseBody(w http.ResponseWriter, body []byte, err error) {
	refusal, ok := errors.AsType[*apiError](err)
	id := readID(body)
	if !ok || refusal.code != codeBodyTooLarge || id == nil {
		writeError(w, err)
		return
	}
	writeCallError(w, refusal.status, id, &rpcError{Code: codeInvalidRequest, Message: "invalid request: " + refusal.message})
}

// writeCallError answers a call with an error under the caller's id.
func writeCallError(w http.ResponseWriter, status int, id json.RawMessage, err error) {
	answer, _ := callAnswer(&call{id: id}, nil, err)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(status)
	_ = send(w, answer) // the client may be gone
}

// callAnswer returns the JSON-RPC answer with the caller's id, in two parts: a long
// result stays where it was received.
func callAnswer(c *call, result json.RawMessage, err error) (head, rest []byte) {
	if refusal, ok := errors.AsType[*apiError](err); ok {
		err = refusal.rpc()
	}
	var buf bytes.Buffer
	// The daemon ends its answer with the result and the bracket.
	if begin := len(c.message) - len(result) - 1; err == nil && len(result) > minLent && begin > 0 && &c.message[begin] == &result[0] {
		writeAnswer(&buf, c.id, []byte(nil), nil)
		buf.Truncate(buf.Len() - 1)
		return buf.Bytes(), c.message[begin:]
	}
	buf.Grow(len(result) + 100) // one allocation is enough
	writeAnswer(&buf, c.id, []byte(result), err)
	return buf.Bytes(), nil
}

// stream answers with Server-Sent Events: progress, then the result.
func (h *hubAPI) stream(w http.ResponseWriter, r *http.Request, c *call, find target) {
	q := callerRequestOf(w)
	if err := q.add(0, 1, 0); err != nil {
		q.pauseRefusal()
		refuseCall(w, c.id, err)
		return
	}
	watch, stop := h.hub.watch(c)
	defer stop()
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan [2][]byte, 1)
	go func() { // waited for below
		result, err := h.hub.perform(ctx, c, find)
		if err == nil {
			err = q.addBytes(len(result))
		}
		head, rest := callAnswer(c, result, err)
		done <- [2][]byte{head, rest}
	}()
	defer func() {
		cancel()
		<-done
	}()
	events := newEventStream(w)
	events.send = h.unsent.sendNow
	defer events.beat.Stop()
	err := events.flush() // the header
	for err == nil {
		select {
		case p := <-watch.newest:
			events.add(0, "progress", p)
		case answer := <-done:
			done <- answer // for the deferred wait
			select {
			case p := <-watch.newest: // it came before the answer
				events.add(0, "progress", p)
			default:
			}
			h.logWriteError(h.unsent.send(w, events.text.Bytes(), []byte("event: result\ndata: "), oneLine(answer[0]), oneLine(answer[1]), []byte("\n\n")))
			h.hub.giveBack(c)
			return
		case <-events.beat.C:
			err = events.comment("")
			continue
		}
		err = events.flush()
	}
	h.logWriteError(err)
}

// logWriteError notes a client that does not take its answer.
//
//go:noinline // each copy counts in the size of a release
func (h *hubAPI) logWriteError(err error) {
	if err != nil {
		h.log.Debug("a client did not take its answer", "error", err)
	}
}
