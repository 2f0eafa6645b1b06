package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of the HTTP server; a body's are readBody's.
const (
	headerTimeout = 5 * time.Second
	keepAliveTime = 60 * time.Second
	maxHeader     = 16 << 10
)

// scheduler is the composition: the pool, the hub when there is no other
// server, and the HTTP server in front of both.
type scheduler struct {
	cfg     *schedulerConfig
	pool    *pool
	hub     *hub // nil with --server
	events  *events
	api     *api
	usage   *diskSize
	http    *http.Server
	main    net.Listener
	inner   net.Listener // for the children's links, where they cannot use main; else nil
	tokens  *childTokens
	wg      sync.WaitGroup // the HTTP servers and the hub's watch
	endWork context.CancelFunc
}

// runScheduler is c4a-daemon-scheduler; it returns the exit status. Called by
// the daemon's name it is the daemon: one file on a server is enough.
func runScheduler(p *program) int {
	if p.calledAsDaemon() {
		return runDaemon(p)
	}
	if len(p.args) > 1 && p.args[1] == "call" {
		return p.exit(schedulerName+" call", p.call(p.args[2:]))
	}
	return p.exit(schedulerName, p.scheduler())
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
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stopSignals()...)
	defer signal.Stop(signals)
	defer surviveBrokenPipe()()
	s, err := startScheduler(cfg, p)
	if err != nil {
		return err
	}
	system := newNotifier(p.getenv, cfg.log)
	watched, unwatch := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { system.beat(watched) })
	system.tell("READY=1")
	cfg.log.Info("listening", "url", s.url(), "workspace", s.pool.workspace)
	<-signals
	cfg.log.Info("stopping")
	system.tell("STOPPING=1")
	// A second signal kills what does not end.
	hurry, rush := context.WithCancelCause(context.Background())
	wg.Go(func() {
		select {
		case <-signals:
			rush(errSecondSignal)
		case <-watched.Done():
		}
	})
	s.stop(hurry)
	unwatch()
	wg.Wait()
	err = context.Cause(hurry)
	rush(nil)
	return err
}

// healthcheck asks a running scheduler; degraded is a failure.
func (p *program) healthcheck(cfg *schedulerConfig) error {
	client := &callClient{base: cfg.baseURL(), http: cfg.localClient()}
	defer client.http.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	response, err := client.do(ctx, http.MethodGet, "/health", nil, "application/json")
	if err != nil {
		return fmt.Errorf("asking the scheduler: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the scheduler says %s", response.Status)
	}
	return nil
}

// localClient reaches the scheduler of the same flags on this machine.
func (c *schedulerConfig) localClient() *http.Client {
	transport := &http.Transport{}
	if path, ok := strings.CutPrefix(c.host, unixPrefix); ok {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	if c.certificate != nil {
		// Its own certificate names its public host, not the loopback.
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	return &http.Client{Transport: transport}
}

// startScheduler takes the workspace, ends what an earlier scheduler left
// there, and listens.
func startScheduler(cfg *schedulerConfig, p *program) (_ *scheduler, err error) {
	s := &scheduler{cfg: cfg, tokens: &childTokens{}, events: newEvents(cfg.log)}
	bin := cfg.daemonBin
	if bin == "" {
		if bin, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("finding this program, to run it as the daemon: %w", err)
		}
	}
	s.pool, err = newPool(poolConfig{
		workspace: cfg.workspace, daemonBin: bin, maxDaemons: cfg.maxDaemons,
		idleTimeout: cfg.idleTimeout, spawnTimeout: cfg.spawnTimeout, stopTimeout: cfg.stopTimeout,
		childArgs: cfg.childArgs(), token: s.childToken, environ: p.environ(), log: cfg.log,
		onEvent: func(e poolEntry) {
			if e.Status == statusExited {
				s.tokens.revoke(e.MachineID)
			}
			s.events.publish("pool/entry", e)
		},
	})
	if err != nil {
		return nil, err
	}
	work, end := context.WithCancel(context.Background())
	s.endWork = end
	defer func() {
		if err != nil {
			s.stop(context.Background())
		}
	}()
	s.usage = newDiskSize(work, s.pool.workspace, cfg.log)
	s.api = newAPI(apiConfig{
		pool: s.pool, events: s.events, token: cfg.apiToken, hosts: append([]string{hostName(), cfg.host}, cfg.allowHosts...),
		version: programVersion, minFreeDisk: cfg.minFreeDisk, usage: s.usage, log: cfg.log,
	})
	if cfg.server == nil {
		libs, err := openLibraries(s.pool.workspace)
		if err != nil {
			return nil, err
		}
		s.hub = newHub(hubConfig{
			maxMessage: defaultMaxMessage, offlineThreshold: cfg.offlineThreshold,
			heartbeatInterval: min(defaultHeartbeatInterval, cfg.offlineThreshold/2),
			times:             p.times, libraryOf: libs.of, methods: methodsByName(builtinMethods()), publish: s.events.publish, log: cfg.log,
		})
		s.wg.Go(func() { s.hub.sweep(work) })
		(&hubAPI{callRouter: callRouter{hub: s.hub, pool: s.pool, libraries: libs}, tokens: s.tokens, daemonToken: cfg.daemonToken, log: cfg.log}).register(s.api)
	}
	if err := s.listen(); err != nil {
		return nil, err
	}
	return s, nil
}

// listen opens the port and tells the pool where its children dial.
func (s *scheduler) listen() (err error) {
	network, address := "tcp", net.JoinHostPort(s.cfg.host, strconv.Itoa(s.cfg.port))
	if path, ok := strings.CutPrefix(s.cfg.host, unixPrefix); ok {
		network, address = "unix", path
		if err := removeStaleSocket(path); err != nil {
			return err
		}
	}
	if s.main, err = net.Listen(network, address); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	s.http = &http.Server{
		Handler: s.api, ReadHeaderTimeout: headerTimeout, IdleTimeout: keepAliveTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.cfg.log.Handler(), slog.LevelDebug),
	}
	server := s.cfg.server
	if server == nil {
		dial := s.main
		if network == "unix" || s.cfg.certificate != nil {
			// Children dial plain TCP on loopback. Nothing but their link is there.
			if s.inner, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return fmt.Errorf("listening for the daemons: %w", err)
			}
			dial = s.inner
		}
		server = &url.URL{Scheme: "ws", Host: s.hostPort(dial), Path: linkPath}
	}
	s.pool.setServer(server.String())
	main := s.main
	if s.cfg.certificate != nil {
		main = tls.NewListener(main, &tls.Config{Certificates: []tls.Certificate{*s.cfg.certificate}})
	}
	s.wg.Go(func() { s.serve(s.http, main) })
	if s.inner != nil {
		links := http.NewServeMux()
		links.HandleFunc("GET "+linkPath, func(w http.ResponseWriter, r *http.Request) {
			// Who may not open the socket, or has no certificate to trust, is not to come
			// in here.
			if s.tokens.machineFor(bearerOf(r)) == "" {
				writeProblem(w, http.StatusUnauthorized, codeUnauthorized, "this port is for the daemons of the pool")
				return
			}
			s.api.ServeHTTP(w, r)
		})
		s.wg.Go(func() {
			s.serve(&http.Server{Handler: links, ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeader}, s.inner)
		})
	}
	return nil
}

// serve ends when the listener is closed.
func (s *scheduler) serve(server *http.Server, l net.Listener) {
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		s.cfg.log.Error("serving HTTP", "err", err)
	}
}

// removeStaleSocket deletes the socket of a scheduler that is gone; a file that
// is no socket, or one that answers, stays.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("listening: %s is there and is no socket: remove it or choose another path", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return fmt.Errorf("listening: another program listens at %s", path)
	}
	return os.Remove(path)
}

// hostPort is a listener's address as this machine dials it.
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

// url is where the HTTP API is.
func (s *scheduler) url() string {
	if strings.HasPrefix(s.cfg.host, unixPrefix) {
		return s.cfg.host
	}
	scheme := "http"
	if s.cfg.certificate != nil {
		scheme = "https"
	}
	return scheme + "://" + s.hostPort(s.main)
}

// stop ends everything, in this order: no new work, the children side by side
// (SIGTERM, then SIGKILL; at once when hurry ends), the links, the requests of
// the API that still wait, the lock of the workspace.
func (s *scheduler) stop(hurry context.Context) {
	unhook := context.AfterFunc(hurry, s.pool.killNow)
	defer unhook()
	if s.main != nil {
		_ = s.main.Close() // no new connections
	}
	if err := s.pool.shutdown(context.Background()); err != nil {
		s.cfg.log.Error("stopping the daemons", "err", err)
	}
	s.endWork()
	if s.hub != nil {
		s.hub.close()
	}
	if s.inner != nil {
		_ = s.inner.Close()
	}
	if s.http != nil {
		s.events.close()
		// Answers that are being written get a moment; streams are cut.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			_ = s.http.Close()
		}
	}
	s.wg.Wait()
	if s.usage != nil {
		s.usage.close()
	}
}

// childToken is the token that a child dials with: the operator's for another
// server, else one of its own that is good for its machine id alone.
func (s *scheduler) childToken(libID string) secret {
	if s.cfg.server != nil {
		return s.cfg.serverToken
	}
	return s.tokens.issue(machineIDOf(libID))
}
