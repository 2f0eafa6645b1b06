package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This file bounds what each caller of the HTTP API has in flight, so that one that
// floods the scheduler does not slow the others.

const (
	defaultCallerRequests = 256
	defaultCallerBytes    = 64 << 20
	defaultCallerStreams  = 64
	// defaultHandshakes are the upgrades of users' daemons in a second. After a
	// restart of the scheduler all its daemons dial at once: those of
	// handshakeBurst seconds are accepted without a pause.
	defaultHandshakes = 1000
	handshakeBurst    = 10
	// busyPause is the Retry-After of a caller that has too much in flight.
	busyPause = time.Second
	// refusedStart and refusedTime bound what is read of the body of a call that is
	// refused, for its id, and how long that takes.
	refusedStart = 1 << 10
	refusedTime  = time.Second
	// refusedRate is how many refusals a caller gets in a second after the first
	// refusedBurst: the others wait, at most refusedPause. A caller that repeats its
	// requests at once, over thousands of connections, would else keep a core busy.
	// All who have no valid token count as one.
	refusedRate  = 500
	refusedBurst = 100
	refusedPause = 20 * time.Second
	refusedBeat  = 50 * time.Millisecond
)

// callerOfRequest returns the name of the caller of a request that came with the
// token t, nil for none: "token NAME" for a token of the tokens file, else the
// address, for the API token has many callers, and "" on a Unix socket. Of an IPv6
// address the first 64 bits count: a host may use all the others (RFC 4291,
// section 2.5.4).
func callerOfRequest(r *http.Request, t *apiToken) string {
	if t != nil && t.caller != "" {
		return t.caller
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); !ip.Is6() {
		return ip.String()
	}
	bits := ip.As16()
	clear(bits[8:])
	return netip.AddrFrom16(bits).String()
}

// apiLimits bounds what each caller has in flight, and the handshakes of users'
// daemons. A limit of 0 is none.
type apiLimits struct {
	requests, streams int
	bytes             int64
	handshakes        *rateLimit
	strangers         *rateLimit // refusals of requests without a valid token

	mu      sync.Mutex // guards the fields below
	callers map[string]*callerLoad
	refused [4]uint64 // requests by the limit that refused them
}

// The limits that refuse, as indexes of apiLimits.refused.
const (
	limitRequests = iota
	limitStreams
	limitBytes
	limitHandshakes
)

// limitName returns the name of a limit in its flag and in metrics.
func limitName(limit int) string {
	return [...]string{"caller-requests", "caller-streams", "caller-bytes", "handshakes"}[limit]
}

// callerLoad counts what a caller has in flight.
type callerLoad struct {
	open     int // callerRequests
	requests int
	streams  int
	bytes    int64
	refusals *rateLimit // nil before the first
}

// newAPILimits returns limits; handshakes are those in a second.
func newAPILimits(requests int, bytes int64, streams, handshakes int) *apiLimits {
	perSecond := float64(handshakes)
	l := &apiLimits{requests: requests, bytes: bytes, streams: streams, callers: map[string]*callerLoad{}, handshakes: newRateLimit(perSecond, perSecond*handshakeBurst)}
	l.strangers = newRateLimit(refusedRate, refusedBurst)
	return l
}

// callerRequest is a request that counts for its caller. It is the ResponseWriter
// of the handler, so that the bytes of the answer count, too. The methods of a nil
// one do nothing.
type callerRequest struct {
	http.ResponseWriter
	id     string
	limits *apiLimits
	load   *callerLoad
	own    callerLoad // its part of load; guarded by the lock of limits
}

// Unwrap is for http.ResponseController.
func (q *callerRequest) Unwrap() http.ResponseWriter { return q.ResponseWriter }

// ReadFrom lets net/http send a file without copying it.
func (q *callerRequest) ReadFrom(r io.Reader) (int64, error) { return io.Copy(q.ResponseWriter, r) }

// callerRequestOf returns the request of a handler, nil for one without limits.
func callerRequestOf(w http.ResponseWriter) *callerRequest {
	q, _ := w.(*callerRequest)
	return q
}

// caller returns the name of the caller, "" for a request without limits.
func (q *callerRequest) caller() string {
	if q == nil {
		return ""
	}
	return q.id
}

// unlimited reports whether the requests of a route are not counted: a health check
// must never fail because others flood, and links have a limit of their own.
func unlimited(pattern string) bool {
	switch pattern {
	case "GET /livez", "GET /readyz", "GET /health", "GET " + linkPath:
		return true
	}
	return false
}

// begin counts a request, before its body is read. The caller of begin calls end,
// or refuse after an error.
// GET /events is a stream, of which the events close the oldest for another.
func (l *apiLimits) begin(w http.ResponseWriter, r *http.Request, id string, pattern string) (*callerRequest, error) {
	requests := 1
	if pattern == "GET /events" {
		requests = 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	load := l.callers[id]
	if load == nil {
		load = &callerLoad{}
		l.callers[id] = load
	}
	q := &callerRequest{ResponseWriter: w, id: id, limits: l, load: load}
	if err := q.addLocked(requests, 0, min(max(r.ContentLength, 0), maxRPCBody)); err != nil { // readBody refuses a longer body
		return q, err
	}
	load.open++
	if r.ContentLength < 0 {
		r.Body = &countedBody{r.Body, q}
	}
	return q, nil
}

// countedBody counts a body whose length was not declared while it is read.
type countedBody struct {
	io.ReadCloser
	request *callerRequest
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if busy := b.request.addBytes(n); busy != nil {
		return 0, busy
	}
	return n, err
}

// end removes the request from what its caller has in flight.
func (q *callerRequest) end() {
	q.limits.mu.Lock()
	defer q.limits.mu.Unlock()
	q.load.add(-q.own.requests, -q.own.streams, -q.own.bytes)
	q.load.open--
	if q.load.open == 0 {
		delete(q.limits.callers, q.id)
	}
}

// add counts more for the request, or less: a stream need not be a request. The
// error is an *apiError.
func (q *callerRequest) add(requests, streams, bytes int) error {
	if q == nil {
		return nil
	}
	q.limits.mu.Lock()
	defer q.limits.mu.Unlock()
	return q.addLocked(requests, streams, int64(bytes))
}

// addBytes counts bytes of the body, or of an answer that waits for the client to
// take it.
func (q *callerRequest) addBytes(n int) error { return q.add(0, 0, n) }

// addLocked counts more for the request, if the caller has room for it. The bytes
// of the only request of a caller are never too many: other limits bound them.
func (q *callerRequest) addLocked(requests, streams int, bytes int64) error {
	l, load := q.limits, q.load
	full := 0
	switch {
	case requests > 0 && l.requests > 0 && load.requests+requests > l.requests && load.requests > q.own.requests:
		full = limitRequests
	case streams > 0 && l.streams > 0 && load.streams+streams > l.streams:
		full = limitStreams
	case bytes > 0 && l.bytes > 0 && load.bytes+bytes > l.bytes && load.bytes > q.own.bytes:
		full = limitBytes
	default:
		load.add(requests, streams, bytes)
		q.own.add(requests, streams, bytes)
		return nil
	}
	l.refused[full]++
	return tooMany("this caller has as much in flight as --max-" + limitName(full) + " allows: wait for an answer before sending the next")
}

func (l *callerLoad) add(requests, streams int, bytes int64) {
	l.requests += requests
	l.streams += streams
	l.bytes += bytes
}

// tooMany is the refusal of a request that may be repeated after a pause.
func tooMany(message string) *apiError {
	return &apiError{code: codeTooManyRequests, status: http.StatusTooManyRequests, message: message, retryAfter: busyPause}
}

// pauseRefusal waits until the request may be refused.
func (q *callerRequest) pauseRefusal() {
	q.limits.mu.Lock()
	if q.load.refusals == nil {
		q.load.refusals = newRateLimit(refusedRate, refusedBurst)
	}
	refusals := q.load.refusals
	q.limits.mu.Unlock()
	refusals.pause()
}

// pause waits until a refusal may be sent. Those that wait are sent together, every
// refusedBeat: to wake up for each would take longer than the refusal.
func (l *rateLimit) pause() {
	if pause, _ := l.take(1, refusedPause); pause > 0 {
		time.Sleep(time.Until(time.Now().Add(pause).Truncate(refusedBeat).Add(refusedBeat)))
	}
}

// beginHandshake counts the handshake of a user's daemon. The error is an
// *apiError.
func (l *apiLimits) beginHandshake() error {
	if l == nil || l.handshakes.perSecond == 0 {
		return nil
	}
	if _, ok := l.handshakes.take(1, 0); ok {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused[limitHandshakes]++
	return tooMany("too many daemons connect at once (--max-handshakes): try again")
}

// refuse answers a request whose caller has too much in flight. A call gets a
// JSON-RPC error if the start of its body has arrived and holds its id.
func (q *callerRequest) refuse(r *http.Request, pattern string, err error) {
	w := q.ResponseWriter
	q.pauseRefusal()
	if strings.HasSuffix(pattern, "/rpc") && r.Header.Get("Expect") == "" {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedTime)) // fails in tests without a connection
		start := make([]byte, refusedStart)
		n, _ := r.Body.Read(start) // a client that sends nothing gets the problem
		if id := readID(start[:n]); id != nil {
			refuseCall(w, id, err)
			return
		}
	}
	writeError(w, err)
}

// refuseCall answers a call whose caller has too much in flight.
func refuseCall(w http.ResponseWriter, id json.RawMessage, err error) {
	w.Header().Set("Retry-After", strconv.Itoa(int(busyPause.Seconds())))
	writeCallError(w, http.StatusTooManyRequests, id, err)
}

// writeMetrics appends what callers have in flight to a page.
func (l *apiLimits) writeMetrics(page *metricsPage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	requests, bytes := 0, int64(0)
	for _, load := range l.callers {
		requests += load.requests
		bytes += load.bytes
	}
	page.family("c4a_caller_requests", "gauge", "Requests of all callers in flight.")
	page.sample("c4a_caller_requests", float64(requests))
	page.family("c4a_caller_bytes", "gauge", "Bytes of their bodies, and of answers that were not taken yet.")
	page.sample("c4a_caller_bytes", float64(bytes))
	page.family("c4a_refused_requests_total", "counter", "Requests and handshakes refused with 429, by the limit.")
	for limit, count := range l.refused {
		page.sample("c4a_refused_requests_total", float64(count), "limit", limitName(limit))
	}
}
