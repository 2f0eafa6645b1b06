package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// apiConfig configures the HTTP API.
type apiConfig struct {
	pool        *pool
	events      *events
	token       secret      // the API token; "" without one
	tokens      *tokensFile // nil without one
	hosts       []string    // names that are accepted in Host, besides IP literals and localhost
	version     string
	program     *executable                                                // nil in tests
	minFreeDisk float64                                                    // percent of the workspace's disk; with less free the health is degraded
	usage       *diskSize                                                  // of the workspace
	hub         bool                                                       // this scheduler is the server of its daemons
	requests    *requestLog                                                // nil makes one
	level       *slog.LevelVar                                             // of log; nil makes one
	console     *lineQueue                                                 // the log; nil counts no dropped lines
	moreMetrics func(*metricsPage)                                         // of the hub; nil adds none
	degraded    func() bool                                                // reports whether the bindings cannot be read; nil means they can
	peers       *peers                                                     // nil without --peers
	viaLibrary  func(machineID string, match func(libID string) bool) bool // see scoped; nil without --cluster
	clients     clientCertificates
	limits      *apiLimits // nil bounds nothing
	gradual     bool       // work is taken while it drains
	onDrain     func()     // called once, by drain
	log         *slog.Logger
}

// api is the scheduler's HTTP API. Every request passes, in this order: Host
// and Origin, the client certificate, the token, the limits of its caller, the route.
type api struct {
	apiConfig
	access   apiAccess
	mux      *http.ServeMux
	patterns []string        // of all routes, in the order in which they were added
	open     map[string]bool // the patterns that need no API token
	started  time.Time
	draining atomic.Bool // /readyz fails
	streams  openStreams
}

func newAPI(cfg apiConfig) *api {
	if cfg.requests == nil {
		cfg.requests = newRequestLog()
	}
	if cfg.level == nil {
		cfg.level = &slog.LevelVar{}
	}
	if cfg.limits == nil {
		cfg.limits = newAPILimits(0, 0, 0, 0)
	}
	a := &api{apiConfig: cfg, access: apiAccess{cfg.token, cfg.tokens}, mux: http.NewServeMux(), open: map[string]bool{}, started: time.Now()}
	a.handle("POST /daemons", a.postDaemons)
	a.handle("GET /daemons", a.listDaemons)
	a.handle("PUT /daemons/{lib_id}", a.putDaemon)
	a.handle("GET /daemons/{lib_id}", a.getDaemon)
	a.handle("DELETE /daemons/{lib_id}", a.deleteDaemon)
	a.handle("POST /stop", a.postStop)
	a.registerControl()
	a.handle("GET /events", a.revocable(a.events.serve))
	a.handle("GET /metrics", a.getMetrics)
	a.handleOpen("GET /health", a.getHealth)
	a.handleOpen("GET /livez", a.getLivez)
	a.handleOpen("GET /readyz", a.getReadyz)
	return a
}

// handle adds a route, with a pattern of ServeMux, that needs the API token. Routes
// must be added before the first request.
func (a *api) handle(pattern string, h http.HandlerFunc) {
	a.patterns = append(a.patterns, pattern)
	a.mux.HandleFunc(pattern, a.scoped(pattern, h))
}

// handleOpen adds a route that needs no API token and no client certificate, because
// it is open or checks a token of its own.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func (a *api) handleOpen(pattern string, h http.HandlerFunc) {
	a.open[pattern] = true
	a.handle(pattern, h)
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		// net/http reads the rest of a body that the handler did not read, before it
		// sends the answer. readBody lifts the limit once it has the body.
		_ = control.SetReadDeadline(time.Now().Add(bodyLimit)) // fails in tests without a connection
	}
	// For the bytes that net/http holds back until the handler returns. It clears the
	// deadline before the next request of the connection.
	defer func() {
		if _, err := w.Write(nil); errors.Is(err, http.ErrHijacked) {
			return // the connection is a link's
		}
		_ = control.SetWriteDeadline(time.Now().Add(sendLimit))
	}()
	if why := a.foreign(r); why != "" {
		writeProblem(w, http.StatusForbidden, codeForbidden, why)
		return
	}
	if a.access.open() && forwarded(r) {
		writeProblem(w, http.StatusForbidden, codeForbidden,
			"a proxy forwarded this request and no API token is set, so that anybody could send it: set --api-token-file, or let the proxy connect to --host unix:/path")
		return
	}
	// Ask the mux for the route and not the path: a path in another spelling must not
	// count as open and then be served by a route that is not.
	h, pattern := a.mux.Handler(r)
	var caller *apiToken
	if !a.open[pattern] {
		if err := a.clients.check(r); err != nil {
			writeError(w, err)
			return
		}
		caller = a.access.identify(r)
		if caller == nil {
			a.limits.strangers.pause()
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, http.StatusUnauthorized, codeUnauthorized, "this needs an API token: Authorization: Bearer TOKEN")
			return
		}
		if caller.name != "" {
			r = withCaller(r, caller) // copies the request, which the usual caller is spared
		}
		if err := requireRight(r, routeRight(pattern)); err != nil && pattern != "" {
			writeError(w, err)
			return
		}
	}
	if a.peers.isSelf(r) {
		writeProblem(w, http.StatusMisdirectedRequest, codeBadRequest, errSelf.Error())
		return
	}
	if a.draining.Load() {
		w.Header().Set("Connection", "close") // the end of the program must not cut a request that a client sends on it
		if a.refuses() && startsWork(pattern) {
			refuseDraining(w)
			return
		}
	}
	if pattern != "" {
		if !unlimited(pattern) {
			q, err := a.limits.begin(w, r, callerOfRequest(r, caller), pattern)
			if err != nil {
				q.refuse(r, pattern, err)
				return
			}
			defer q.end()
			w = q
		}
		a.mux.ServeHTTP(w, r)
		if routeRight(pattern) == rightManage && !a.open[pattern] {
			a.logChange(r)
		}
		return
	}
	// No route. The handler of ServeMux knows whether another method has one.
	refusal := &statusOnly{header: http.Header{}}
	h.ServeHTTP(refusal, r)
	if refusal.status == http.StatusMethodNotAllowed {
		allow := refusal.header.Get("Allow")
		w.Header().Set("Allow", allow)
		writeProblem(w, http.StatusMethodNotAllowed, codeMethodNotAllowed, "only "+allow+" here")
		return
	}
	writeProblem(w, http.StatusNotFound, codeNotFound, "there is nothing at this path")
}

// logChange writes the line of a request that may have changed something: at debug
// for one that asks for a daemon, which comes with each use of a library.
func (a *api) logChange(r *http.Request) {
	level := slog.LevelInfo
	if startsWork(r.Pattern) {
		level = slog.LevelDebug
	}
	args := []any{"route", r.Pattern}
	if libID := r.PathValue("lib_id"); libID != "" {
		args = append(args, "lib_id", shownText(libID))
	}
	a.log.Log(r.Context(), level, "a change was requested", withToken(args, callerOf(r).name)...)
}

// statusOnly is a ResponseWriter that drops the body.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

// foreign returns why a request may come from a foreign web page, "" if it does
// not. A page can have its own name resolve to this address (DNS rebinding): then
// Host is not one of our names. A page that calls another site sends its Origin.
func (a *api) foreign(r *http.Request) string {
	if !a.knownHost(r.Host) && !withoutHost(r) {
		return "the Host header is missing or names a host that is not this one: add it with --allow-host"
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || !strings.EqualFold(u.Host, r.Host) {
			return "requests of another origin's pages are refused"
		}
	}
	// Browsers send Sec-Fetch-Site where they send no Origin, too. Following a link
	// to here is allowed: it changes nothing, and the other page cannot read it.
	navigates := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate"
	if site := r.Header.Get("Sec-Fetch-Site"); (site == "cross-site" || site == "same-site") && !navigates {
		return "requests of another site's pages are refused"
	}
	return ""
}

// withoutHost reports whether r is a health check of HTTP/1.0, which has no Host
// header. Browsers do not speak HTTP/1.0.
func withoutHost(r *http.Request) bool {
	health := r.URL.Path == "/health" || r.URL.Path == "/livez" || r.URL.Path == "/readyz"
	return r.Host == "" && !r.ProtoAtLeast(1, 1) && health
}

// forwarded reports whether a proxy forwarded r for another machine. On a Unix
// socket the proxy may do that: the permissions of the file decide who connects.
func forwarded(r *http.Request) bool {
	if _, _, err := net.SplitHostPort(r.RemoteAddr); err != nil {
		return false // a Unix socket has no port
	}
	for name := range r.Header {
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return true
		}
	}
	return false
}

func (a *api) knownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return strings.EqualFold(host, "localhost") || slices.ContainsFunc(a.hosts, func(own string) bool { return strings.EqualFold(own, host) })
}

// POST /daemons {"lib_id"}
func (a *api) postDaemons(w http.ResponseWriter, r *http.Request) {
	var body struct {
		LibID string `json:"lib_id"`
	}
	if err := readJSON(w, r, &body); err != nil {
		writeError(w, err)
		return
	}
	a.ensure(w, r, body.LibID)
}

// PUT /daemons/{lib_id}
func (a *api) putDaemon(w http.ResponseWriter, r *http.Request) {
	// The body is ignored, but it has the same bounds.
	if _, err := readBody(w, r, maxBody); err != nil {
		writeError(w, err)
		return
	}
	a.ensure(w, r, r.PathValue("lib_id"))
}

func (a *api) ensure(w http.ResponseWriter, r *http.Request, libID string) {
	if err := requireLibrary(r, libID); err != nil {
		writeError(w, err)
		return
	}
	daemon, err := a.pool.ensure(r.Context(), libID)
	switch {
	case err != nil:
		a.writeError(w, r, err)
	case daemon.started:
		writeJSON(w, http.StatusCreated, daemon.view)
	default:
		writeJSON(w, http.StatusOK, daemon.view)
	}
}

func (a *api) writeError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		a.log.Warn("a request failed", "method", r.Method, "route", r.Pattern, "error", err)
	}
	writeError(w, err)
}

// GET /daemons
func (a *api) listDaemons(w http.ResponseWriter, r *http.Request) {
	after, limit, err := readPage(r)
	if err != nil {
		writeError(w, err)
		return
	}
	caller, last := callerOf(r), ""
	list := daemonList{Max: a.pool.maxDaemons}
	list.Daemons = dropIf(a.pool.list(), func(e *poolEntry) bool { return e.LibID <= after || !caller.mayUseLibrary(e.LibID) })
	if len(list.Daemons) > limit {
		list.Daemons = list.Daemons[:limit]
		last = list.Daemons[limit-1].LibID
	}
	if a.peers.wanted(r) {
		last = a.peers.daemons(r, after, limit, &list, last)
	}
	list.NextCursor = nextCursor(last, last != "")
	writeJSON(w, http.StatusOK, list)
}

// GET /daemons/{lib_id}
func (a *api) getDaemon(w http.ResponseWriter, r *http.Request) {
	libID := r.PathValue("lib_id")
	if err := checkLibID(libID); err != nil {
		writeError(w, err)
		return
	}
	entry, found := a.pool.get(libID)
	if !found {
		writeProblem(w, http.StatusNotFound, codeNotFound, "no daemon runs for "+libID)
		return
	}
	writeJSON(w, http.StatusOK, entry)
}

// DELETE /daemons/{lib_id}
func (a *api) deleteDaemon(w http.ResponseWriter, r *http.Request) {
	if err := a.pool.remove(r.Context(), r.PathValue("lib_id")); err != nil {
		a.writeError(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// POST /stop
func (a *api) postStop(w http.ResponseWriter, r *http.Request) {
	if err := a.pool.stopAll(r.Context()); err != nil {
		a.writeError(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// healthView is the answer of GET /health.
type healthView struct {
	Status        string     `json:"status" enum:"ok,degraded,stopping"`
	Version       string     `json:"version"`
	UptimeSeconds int64      `json:"uptime_seconds"`
	Daemons       poolCounts `json:"daemons"`
	Disk          diskUsage  `json:"disk"`
	RestartDue    bool       `json:"restart_due" doc:"whether the executable was replaced or removed"`
	Hub           bool       `json:"hub" doc:"whether this scheduler is the server of its daemons; false with --server"`
}

// GET /health
func (a *api) getHealth(w http.ResponseWriter, _ *http.Request) {
	disk, err := statDisk(a.pool.workspace)
	if err == nil && !a.pool.stopping() {
		err = a.pool.writable()
	}
	answer := healthView{"ok", a.version, int64(time.Since(a.started).Seconds()), a.pool.counts(), disk, a.program != nil && a.program.replaced(), a.hub}
	status := http.StatusOK
	switch {
	case a.pool.stopping(), a.draining.Load():
		answer.Status, status = "stopping", http.StatusServiceUnavailable
	case err != nil, disk.freePercent() < a.minFreeDisk, a.degraded != nil && a.degraded():
		if err != nil {
			a.log.Warn("the workspace cannot be used", "error", err)
		}
		answer.Status, status = "degraded", http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}

// GET /livez
func (a *api) getLivez(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// GET /readyz
func (a *api) getReadyz(w http.ResponseWriter, _ *http.Request) {
	status, answer := http.StatusOK, "ok"
	if a.draining.Load() {
		status, answer = http.StatusServiceUnavailable, "draining"
	} else if a.pool.stopping() {
		status, answer = http.StatusServiceUnavailable, "stopping"
	} else if err := a.pool.writable(); err != nil {
		a.log.Warn("the workspace cannot be used", "error", err)
		status, answer = http.StatusServiceUnavailable, "degraded"
	}
	writeJSON(w, status, map[string]string{"status": answer})
}
