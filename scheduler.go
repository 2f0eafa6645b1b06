package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// minFreeHeap is how much a hub allocates between two collections at least. Its heap
// is small, and most of it lives for one call: with the default settings it would
// be collected dozens of times a second.
const minFreeHeap = 16 << 20

// Limits of the HTTP server. readBody limits the size of a body.
const (
	headerTimeout = 5 * time.Second
	keepAliveTime = 60 * time.Second
	maxHeader     = 16 << 10
)

// scheduler connects the parts of c4a-daemon-scheduler: the pool, the hub
// unless --server names another server, and the HTTP server in front of both.
type scheduler struct {
	cfg      *schedulerConfig
	pool     *pool
	hub      *hub    // nil with --server
	mcp      *mcpAPI // likewise
	events   *events
	requests *requestLog
	idle     chan struct{} // closed when a drained scheduler has nothing left to do
	api      *api
	usage    *diskSize
	libs     *libraries // nil with --server
	program  *executable
	http     *http.Server
	main     *endingListener
	inner    net.Listener // for the children's links, if they cannot use main; else nil
	tokens   *childTokens
	wg       sync.WaitGroup // the HTTP servers and hub.sweep
	endWork  context.CancelFunc
}

// runScheduler runs c4a-daemon-scheduler and returns its exit status. Started
// under the name of the daemon it runs the daemon, so that a server needs only
// one executable.
func runScheduler(p *program) int {
	if p.calledAsDaemon() {
		return runDaemon(p)
	}
	return p.runCommands(schedulerName, schedulerCommands(), p.scheduler)
}

func (p *program) scheduler() error {
	cfg, err := p.schedulerConfig()
	switch {
	case err != nil:
		return err
	case cfg.version:
		fmt.Fprint(p.stdout, versionText(schedulerName))
		return nil
	case cfg.healthcheck:
		return p.healthcheck(cfg)
	case cfg.check:
		return p.checkScheduler(cfg)
	}
	p.surviveBrokenPipe()
	signals := p.watchSignals(signalPlan{name: schedulerName, limit: cfg.stopLimit(), kill: p.started.kill})
	defer signals.close()
	ballast := paceCollector(p.getenv)
	defer runtime.KeepAlive(ballast)
	s, err := startScheduler(cfg, p)
	if err != nil {
		return err
	}
	defer watchLevel(cfg.logs.current, s.api.setLevel)()
	system := newNotifier(p.getenv, cfg.log)
	watched, unwatch := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { system.beat(watched) })
	system.tell("READY=1")
	cfg.log.Info("listening", "url", s.url(), "workspace", s.pool.workspace)
	select {
	case <-signals.stopping.Done():
		system.tell("STOPPING=1")
		s.drainBefore(signals.stopping, signals.force)
	case <-s.idle:
		cfg.log.Info("drained: nothing runs any more")
		signals.stop(nil)
	}
	cfg.log.Info("stopping")
	system.tell("STOPPING=1")
	s.stop(signals.force)
	unwatch()
	wg.Wait()
	return context.Cause(signals.force)
}

// paceCollector makes the garbage collector of a hub run after minFreeHeap at least,
// and otherwise when the heap has doubled, which is the default. The percentage of
// the daemon (setMemory) would not do: the heap of a hub grows with its links. The
// result must be kept alive: it is memory that counts as heap and that is never
// written, so that the system never provides it. GOGC and GOMEMLIMIT from the
// operator take precedence.
func paceCollector(getenv func(string) string) (ballast []byte) {
	if getenv("GOGC") != "" || getenv("GOMEMLIMIT") != "" {
		return nil
	}
	return make([]byte, minFreeHeap)
}

// stopLimit bounds the time from the first signal to the end: that of the
// daemons, that of the HTTP requests and files, and with --cluster that of the drain.
func (c *schedulerConfig) stopLimit() time.Duration {
	limit := c.stopTimeout + closeTime
	if c.cluster {
		limit += drainLimit
	}
	return limit
}

// healthcheck queries /health of a running scheduler. Any status but 200, such
// as that of a degraded scheduler, is an error.
func (p *program) healthcheck(cfg *schedulerConfig) error {
	client := &apiClient{base: cfg.baseURL(), shown: cfg.baseURL(), http: cfg.localClient()}
	defer client.close()
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	response, err := client.do(ctx, http.MethodGet, "/health", nil, "Accept", "application/json")
	if err != nil {
		return fmt.Errorf("querying the scheduler: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the scheduler is not healthy: GET /health returned %s", response.Status)
	}
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		return fmt.Errorf("querying the scheduler: another program answers, with %s: check --host and --port", cmp.Or(cleanText(kind), "no Content-Type"))
	}
	return nil
}

// localClient returns an HTTP client for a scheduler on this machine that was
// started with the same flags.
func (c *schedulerConfig) localClient() *http.Client {
	transport := &http.Transport{}
	if path, ok := strings.CutPrefix(c.host, unixPrefix); ok {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	if c.tls != nil {
		transport.TLSClientConfig, _ = clientTLS("", c.clientPair) // fails for a file of authorities only
		if transport.TLSClientConfig == nil {
			transport.TLSClientConfig = &tls.Config{}
		}
		// Not verified: the certificate is for the scheduler's public name, and
		// this client dials loopback.
		transport.TLSClientConfig.InsecureSkipVerify = true
	}
	return &http.Client{Transport: transport}
}

// startScheduler locks the workspace, ends processes that an earlier scheduler
// left in it, and listens.
func startScheduler(cfg *schedulerConfig, p *program) (_ *scheduler, err error) {
	s := &scheduler{cfg: cfg, tokens: &childTokens{}, events: newEvents(cfg.log), requests: newRequestLog(), idle: make(chan struct{})}
	if s.program, err = openExecutable(cfg.log); err != nil {
		return nil, err
	}
	s.pool, err = newPool(poolConfig{
		workspace: cfg.workspace, daemonBin: cfg.daemonBin, start: s.startDaemon, maxDaemons: cfg.maxDaemons, maxClones: cfg.maxClones,
		idleTimeout: cfg.idleTimeout, spawnTimeout: cfg.spawnTimeout, stopTimeout: cfg.stopTimeout,
		childArgs: cfg.childArgs(), denied: cfg.deny, token: s.childToken, environ: p.environ(), log: cfg.log, started: p.started,
		onEvent: func(e poolEntry) {
			if e.Status == statusExited {
				s.tokens.revoke(e.MachineID)
			}
			if e.crashed {
				s.requests.failed(failedRequest{LibID: e.LibID, MachineID: e.MachineID, At: time.Now().UTC(), Code: "DAEMON_DIED", Message: e.LastError})
			}
			s.events.publish("pool/entry", e)
		},
	})
	if err != nil {
		s.program.close()
		return nil, explainOwner(cfg.workspace, err)
	}
	work, end := context.WithCancel(context.Background())
	s.endWork = end
	defer func() {
		if err != nil {
			s.stop(context.Background())
		}
	}()
	s.wg.Go(func() { (&tempDirs{}).sweep(work, cfg.log) })
	s.usage = newDiskSize(work, s.pool.workspace, cfg.log)
	s.api = newAPI(apiConfig{
		pool: s.pool, events: s.events, token: cfg.apiToken, tokens: cfg.tokens, hosts: append([]string{hostName(), cfg.host}, cfg.allowHosts...),
		version: programVersion(), program: s.program, minFreeDisk: cfg.minFreeDisk, usage: s.usage, log: cfg.log,
		hub: cfg.server == nil, requests: s.requests, level: cfg.logs.current, console: p.console, limits: cfg.limits,
		gradual: cfg.cluster, onDrain: func() { s.wg.Go(func() { s.drain(work) }) },
	})
	if cfg.tls != nil && cfg.tls.clientCA != "" {
		s.api.clients.authorities = cfg.tls.authorities
	}
	(&installAPI{program: s.program}).register(s.api)
	newStatusPage().register(s.api)
	if cfg.server == nil {
		path := filepath.Join(s.pool.workspace, librariesFile)
		libs, err := openLibraries(cmp.Or(cfg.bindings, path), cfg.bindings != "", cfg.log)
		if err != nil {
			return nil, err
		}
		s.libs = libs
		s.hub = newHub(hubConfig{
			maxMessage: int(cfg.maxMessage), offlineThreshold: cfg.offlineThreshold,
			heartbeatInterval: min(defaultHeartbeatInterval, cfg.offlineThreshold/2),
			times:             p.times, libraryOf: libs.of, methods: methodsByName(builtinMethods()), publish: s.events.publish, requests: s.requests, log: cfg.log,
		})
		s.api.moreMetrics = s.hub.writeMetrics
		libs.watchMachines(func(machineID string) { s.hub.bound(machineID, libs.of(machineID)) })
		if cfg.bindings != "" {
			if _, err := os.Lstat(path); err == nil {
				cfg.log.Warn("the workspace has bindings that are not used, because --bindings names another file", "path", path)
			}
			s.api.degraded = libs.file.broken.Load
			s.wg.Go(func() { libs.watch(work) })
		}
		if cfg.cluster {
			s.api.viaLibrary = libs.anyOf
			config, err := clientTLS(cfg.caFile, cfg.clientPair)
			if err != nil {
				return nil, err
			}
			s.api.peers = newPeers(cfg.peers, config)
			s.events.peers = s.api.peers
		}
		s.wg.Go(func() { s.hub.sweep(work) })
		hub := &hubAPI{callRouter: callRouter{hub: s.hub, pool: s.pool, libraries: libs}, cluster: cfg.cluster, peers: s.api.peers, tokens: s.tokens, daemonToken: cfg.daemonToken, tokensFile: cfg.tokens, clients: s.api.clients, limits: cfg.limits, log: cfg.log}
		hub.register(s.api)
		s.mcp = newMCPAPI(hub, newMCPTools())
		s.mcp.register(s.api)
	}
	if cfg.tokens != nil {
		s.wg.Go(func() { cfg.tokens.watch(work, cfg.log, s.endRevoked) })
	}
	if cfg.tls != nil {
		s.wg.Go(func() { cfg.tls.watch(work, cfg.log, s.endRevoked) })
	}
	if err := s.listen(); err != nil {
		return nil, err
	}
	if s.api.peers != nil {
		name := s.nodeName()
		s.api.peers.name.Store(&name)
	}
	return s, nil
}

// endRevoked ends the streams and links whose tokens or client certificates were
// revoked.
func (s *scheduler) endRevoked() {
	s.api.endRevoked()
	if s.hub != nil {
		s.hub.endRevoked()
	}
}

// listen opens the port and gives the pool the URL that its children dial.
func (s *scheduler) listen() (err error) {
	network, address := "tcp", net.JoinHostPort(s.cfg.host, strconv.Itoa(s.cfg.port))
	if path, ok := strings.CutPrefix(s.cfg.host, unixPrefix); ok {
		network, address = "unix", path
		if err := removeStaleSocket(path); err != nil {
			return err
		}
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return listenError(err)
	}
	s.main = &endingListener{Listener: listener}
	s.http = s.newServer(s.api)
	if s.api.clients.authorities != nil {
		s.http.ConnContext = withVerdict
	}
	server := s.cfg.server
	if server == nil {
		var dial net.Listener = s.main
		if network == "unix" || s.cfg.tls != nil || s.cfg.cluster {
			// Children dial plain TCP on loopback, also when main has ended (drain). This
			// port serves only their links.
			if s.inner, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return fmt.Errorf("listening for the daemons: %w", err)
			}
			dial = s.inner
		}
		server = &url.URL{Scheme: "ws", Host: s.hostPort(dial), Path: linkPath}
	}
	s.pool.setServer(server.String())
	var main net.Listener = s.main
	if s.cfg.tls != nil {
		main = s.cfg.tls.listen(main)
	}
	s.wg.Go(func() { s.serve(s.http, main) })
	if s.inner != nil {
		links := s.newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// A client that may not open the Unix socket, or does not trust the
			// certificate, must not get around that through this port: only the
			// tokens of children are accepted.
			if r.URL.Path != linkPath || s.tokens.machineFor(bearerOf(r)) == "" {
				writeProblem(w, http.StatusUnauthorized, codeUnauthorized, "this port is for the daemons of the pool")
				return
			}
			s.api.ServeHTTP(w, r)
		}))
		links.SetKeepAlivesEnabled(false) // after a refusal a stranger has no reason to stay
		s.wg.Go(func() {
			s.serve(links, s.inner)
			_ = links.Close() // connections that have not sent a request
		})
	}
	return nil
}

// listenError adds to the error of a listener what to do.
func listenError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listening: %w: stop the program that listens there, or choose another --port", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listening: %w: choose a --port from 1024, or another path", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listening: %w: --host must be an address of this machine", err)
	}
	return fmt.Errorf("listening: %w", err)
}

// newServer returns an HTTP server with the limits of every listener.
func (s *scheduler) newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: keepAliveTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.cfg.log.Handler(), slog.LevelDebug),
	}
}

// serve serves HTTP until the listener is closed.
func (s *scheduler) serve(server *http.Server, l net.Listener) {
	if err := server.Serve(&acceptLogger{Listener: l, log: s.cfg.log}); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		s.cfg.log.Error("serving HTTP failed", "error", err)
	}
}

// removeStaleSocket deletes the socket that a previous scheduler left. It
// returns an error if the file is not a socket, or if a program still listens
// on it.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("listening: %s exists and is not a socket: remove it or choose another path", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return fmt.Errorf("listening: another program listens on %s", path)
	}
	return os.Remove(path)
}

// hostPort returns the address of a listener as clients on this machine dial
// it.
func (s *scheduler) hostPort(l net.Listener) string {
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if l == s.inner {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return net.JoinHostPort(s.cfg.dialHost(), port)
}

// url returns the base URL of the HTTP API, or unix:/path.
func (s *scheduler) url() string {
	if strings.HasPrefix(s.cfg.host, unixPrefix) {
		return s.cfg.host
	}
	scheme := "http"
	if s.cfg.tls != nil {
		scheme = "https"
	}
	return (&url.URL{Scheme: scheme, Host: s.hostPort(s.main)}).String() // escapes a zone
}

// nodeName returns the name of this scheduler in a list of all: its URL, with the
// name of this host if it accepts on all addresses. One that --peers names has its
// name there, once it has found itself.
func (s *scheduler) nodeName() string {
	if ip, err := netip.ParseAddr(s.cfg.host); err == nil && ip.IsUnspecified() {
		return strings.NewReplacer("[::1]", hostName(), "127.0.0.1", hostName()).Replace(s.url())
	}
	return s.url()
}

// stop ends everything in this order: the listener, so that no new connection
// arrives; the children in parallel, with SIGTERM and later SIGKILL, or with
// SIGKILL as soon as force ends; the links; the HTTP requests that still wait;
// the lock of the workspace.
func (s *scheduler) stop(force context.Context) {
	unregister := context.AfterFunc(force, s.pool.killNow)
	defer unregister()
	if s.main != nil {
		_ = s.main.Close() // no new connections
	}
	if err := s.pool.shutdown(context.Background()); err != nil {
		s.cfg.log.Error("stopping the daemons failed", "error", err)
	}
	s.endWork()
	if s.hub != nil {
		s.mcp.close()
		s.hub.close()
	}
	if s.api != nil && s.api.peers != nil {
		s.api.peers.client.CloseIdleConnections()
	}
	if s.inner != nil {
		_ = s.inner.Close()
	}
	if s.http != nil {
		s.events.close()
		// Responses that are being written get a second; then connections are closed.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			_ = s.http.Close()
		}
	}
	s.wg.Wait()
	if s.libs != nil {
		s.libs.close()
	}
	if s.usage != nil {
		s.usage.close()
	}
	s.program.close()
}

// startDaemon starts a daemon: --daemon-bin, or this very executable.
func (s *scheduler) startDaemon(spec childSpec) (child, error) {
	if spec.bin == "" {
		var err error
		if spec.bin, err = s.program.program(); err != nil {
			return nil, err
		}
	}
	return startChild(spec)
}

// childToken returns the token that a child dials with: for another server the
// token of --token-file, for the hub a token that is valid for the machine id
// of this child only.
func (s *scheduler) childToken(libID string) secret {
	if s.cfg.server != nil {
		return s.cfg.serverToken
	}
	return s.tokens.issue(machineIDOf(libID))
}
