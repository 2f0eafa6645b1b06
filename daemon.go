package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// How long running requests may go on after the first signal, for a user's
// daemon and for one under a scheduler, which has to be gone within 2 s.
const (
	drainTime          = 10 * time.Second
	scheduledDrainTime = 1500 * time.Millisecond
)

// daemon is the composition: one row of methods over the rooms that do the
// work.
type daemon struct {
	cfg         *daemonConfig
	lock        *os.File // the work dir's; nil without one
	access      *access
	git         *gitRunner
	credentials *credentials
	cloner      *cloner
	handlers    []*method
	service     *service
	instanceID  string
	began       time.Time
}

// runDaemon is c4a-daemon; it returns the exit status.
func runDaemon(p *program) int { return p.exit(daemonName, p.daemon()) }

// daemon runs from the command line to the end. The order of the shutdown:
// requests are refused, running ones get their time, what is left is ended
// (git first), answers go out, the link says goodbye.
func (p *program) daemon() error {
	cfg, err := p.daemonConfig()
	switch {
	case err != nil:
		return err
	case cfg.version:
		fmt.Fprint(p.stdout, versionText(daemonName))
		return nil
	}
	// The first signal ends stopping, the second ends hurry.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stopSignals()...)
	defer signal.Stop(signals)
	defer surviveBrokenPipe()()
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	hurry, rush := context.WithCancelCause(context.Background())
	defer rush(nil)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(ended)
	wg.Go(func() { // ends with this function
		for _, act := range []func(){stop, func() { rush(errSecondSignal) }} {
			select {
			case <-signals:
				act()
			case <-ended:
				return
			}
		}
	})

	var parent *controlClient
	if cfg.scheduled {
		parent = &controlClient{reader: newControlReader(p.stdin, cfg.log), out: p.stdout, log: cfg.log}
		if cfg.token, err = parent.reader.token(); err != nil {
			return err
		}
	}
	setMemory(p.getenv)
	work, end := context.WithCancel(context.Background())
	defer end()
	d, err := newDaemon(work, cfg, p)
	if err != nil {
		return err
	}
	defer d.close(end)
	if cfg.check {
		return d.check(p)
	}
	if parent != nil {
		parent.activity = d.service.activity
		d.cloner.ended = parent.cloned
		// Blocked in a read of the standard input, which nothing but the process's
		// end or the scheduler's can interrupt: it is not waited for.
		go parent.listen(stop)
		wg.Go(func() { parent.report(work) }) // ends with d.close
	}
	return d.serve(stopping, hurry, parent, p)
}

// newDaemon opens what the daemon works on. base ends the work that belongs to
// the daemon and not to a request.
func newDaemon(base context.Context, cfg *daemonConfig, p *program) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, began: time.Now()}
	defer func() {
		if err != nil {
			d.release()
		}
	}()
	allow, workDir, died := cfg.allow, cfg.workDir, false
	if workDir != "" {
		if err := os.MkdirAll(workDir, 0o700); err != nil {
			return nil, fmt.Errorf("creating the work dir: %w", err)
		}
		d.lock, died, err = lockWorkDir(workDir, cfg.log)
		if _, held := errors.AsType[*heldError](err); held && cfg.check {
			// --check beside the daemon itself: it looks and changes nothing.
			allow, workDir, err = slices.Concat(allow, []string{workDir}), "", nil
		}
		if err != nil {
			return nil, err
		}
	}
	d.git = newGitRunner(p.getenv, cfg.caFile)
	if d.access, err = openAccess(allow, workDir); err != nil {
		return nil, err
	}
	if d.git.path == "" {
		cfg.log.Warn("git was not found in the PATH: only files can be served")
	}
	if d.credentials, err = openCredentials(d.access, d.git); err != nil {
		return nil, err
	}
	d.instanceID = randomHex(16)

	tasks := newFlightGroup(base, taskKeep, taskKept(cfg.maxMessage))
	d.cloner = newCloner(clonerConfig{
		git: d.git, access: d.access, credentials: d.credentials, log: cfg.log, base: base,
		maxFiles: cfg.maxCloneFiles, maxBytes: cfg.maxCloneBytes, allowHosts: cfg.allowGitHosts, minFreeDisk: cfg.minFreeDisk, predecessorDied: died,
	})
	d.handlers = newCommandMethods(cfg.handlers, p.environ(), cfg.maxMessage, cfg.log)
	d.service = &service{
		methods:       map[string]*method{},
		tasks:         tasks,
		maxConcurrent: cfg.maxConcurrent,
		log:           cfg.log,
	}
	d.service.activity = newActivity(func() int { return max(tasks.running(), d.cloner.flights.running()) }) // a clone may be both
	d.service.activity.whenIdle(memoryIdle, giveBackMemory)
	tasks.ended, d.cloner.flights.ended = d.service.activity.touch, d.service.activity.touch
	for _, m := range d.methods() {
		d.service.methods[m.name] = m
	}
	return d, nil
}

// methods is the table that the dispatcher calls.
func (d *daemon) methods() []*method {
	get := newMethod("config/get", "Tell how the daemon was set up; never a token.", d.configGet)
	get.inline = true
	return newDiscovery(slices.Concat(
		[]*method{get},
		d.credentials.methods(),
		d.cloner.methods(),
		newFSService(d.access, d.git, d.cfg.log).methods(),
		newGitReader(d.git, d.access, d.cloner.remotes, d.cfg.log).methods(),
		d.handlers,
	))
}

// serve keeps the link until a signal, or until it makes no sense.
func (d *daemon) serve(stopping, hurry context.Context, parent *controlClient, p *program) error {
	system := newNotifier(p.getenv, d.cfg.log)
	isReady := false
	c := &connector{
		server: d.cfg.server, client: d.cfg.client, token: d.cfg.token, compress: d.cfg.compress,
		maxMessage: d.cfg.maxMessage, attempts: d.cfg.maxAttempts, heartbeat: d.cfg.heartbeat,
		times: p.times, hello: d.handshake(), service: d.service, began: d.began, log: d.cfg.log,
		onState: func(state string) { system.tell("STATUS=" + state) },
		onAccepted: func(handshakeResult) {
			if isReady {
				return
			}
			isReady = true
			system.tell("READY=1")
			if parent != nil {
				parent.ready(d.instanceID)
			}
		},
	}
	linked, unlink := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer unlink()
	wg.Go(func() { system.beat(linked) })
	done := make(chan error, 1)
	wg.Go(func() { done <- c.run(linked, stopping) })
	select {
	case err := <-done:
		if stopping.Err() == nil {
			return err
		}
	case <-stopping.Done():
	}
	system.tell("STOPPING=1")
	d.drain(hurry)
	unlink()
	wg.Wait()
	return context.Cause(hurry)
}

// drain refuses new requests and gives the running ones their time.
func (d *daemon) drain(hurry context.Context) {
	limit := drainTime
	if d.cfg.scheduled {
		limit = scheduledDrainTime
	}
	d.service.activity.drain()
	if active, _, _ := d.service.activity.state(); active > 0 {
		d.cfg.log.Info("stopping: waiting for running requests", "active", active, "at_most", limit)
	}
	d.service.activity.awaitIdle(hurry, limit)
}

// close ends the work that is left, git first, and waits for it.
func (d *daemon) close(end context.CancelFunc) {
	end()
	d.cloner.wait()
	d.service.tasks.wait()
	d.service.wait()
	if d.lock != nil {
		if err := unlockFile(d.lock); err != nil {
			d.cfg.log.Warn("giving the work dir back", "error", err)
		}
		d.lock = nil
	}
	d.release()
}

// release closes what was opened, the lock last.
func (d *daemon) release() {
	if d.service != nil {
		d.service.activity.close()
	}
	if d.git != nil {
		d.git.version() // it may still be asked for
	}
	if d.access != nil {
		d.access.close()
	}
	if d.lock != nil {
		_ = d.lock.Close() // nothing is written any more
	}
}

func (d *daemon) handshake() handshakeParams {
	return handshakeParams{
		MachineID: d.cfg.machineID, InstanceID: d.instanceID, ProtocolVersion: protocolVersion, Version: programVersion,
		Hostname: hostName(), OS: runtime.GOOS, Arch: runtime.GOARCH, PID: os.Getpid(),
		AllowedPaths: d.access.allowed(), WorkDir: d.workDir(), GitVersion: d.git.version(),
		Methods:             slices.Sorted(maps.Keys(d.service.methods)),
		HeartbeatIntervalMS: d.cfg.heartbeat.Milliseconds(),
	}
}

// workDir is the real path of the work dir, nil without one.
func (d *daemon) workDir() *string {
	if d.access.workDir == "" {
		return nil
	}
	return &d.access.workDir
}

// check tries what the daemon needs and tells each result.
func (d *daemon) check(p *program) error {
	failed := false
	tell := func(what string, err error, detail string) {
		if err != nil {
			failed = true
			fmt.Fprintf(p.stdout, "FAIL %s: %v\n", what, err)
			return
		}
		fmt.Fprintf(p.stdout, "ok   %s: %s\n", what, detail)
	}
	for _, path := range d.access.allowed() {
		_, err := os.ReadDir(path)
		tell("path", err, path)
	}
	var err error
	if d.git.version() == "" {
		err = errors.New("not found in the PATH: install git")
	}
	tell("git", err, d.git.version())
	c := &connector{
		server: d.cfg.server, client: d.cfg.client, token: d.cfg.token, compress: d.cfg.compress,
		maxMessage: d.cfg.maxMessage, times: p.times, hello: d.handshake(), log: d.cfg.log,
	}
	tell("server", c.try(), d.cfg.server.String())
	if failed {
		return errPrinted
	}
	return nil
}

// memoryIdle is how long a daemon does nothing before it gives memory back. A
// server that works through a repository comes back sooner.
const memoryIdle = 5 * time.Second

// setMemory tells the garbage collector what a daemon is: a small heap and, now
// and then, answers of megabytes. At Go's own pace it would run dozens of times
// within each of those. The limit is where it hurries; it is above all that
// is kept: listings, remembered answers, messages on their way. The operator's
// own GOGC and GOMEMLIMIT win.
func setMemory(getenv func(string) string) {
	const (
		percent = 400
		limit   = 80 << 20
	)
	if getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// giveBackMemory returns to the system what the last requests left. At the pace
// of setMemory an idle daemon would keep it, and a scheduler has many of them.
// One that was not used yet is better left alone: what a collection needs for
// itself is more than it would find.
func giveBackMemory() { debug.FreeOSMemory() }

// daemonLimits are the bounds that a caller has to keep to (config/get).
type daemonLimits struct {
	MaxMessage    int   `json:"max_message" doc:"bytes of a message"`
	MaxConcurrent int   `json:"max_concurrent" doc:"requests that run at once"`
	MaxQueue      int   `json:"max_queue" doc:"requests that wait"`
	MaxClones     int   `json:"max_clones" doc:"clones at once"`
	MaxCloneFiles int   `json:"max_clone_files" doc:"files of a cloned tree"`
	MaxCloneBytes int64 `json:"max_clone_bytes" doc:"bytes of a cloned tree"`
}

// configResult is config/get's: nothing in it is secret.
type configResult struct {
	Version      string       `json:"version" doc:"of the daemon"`
	MachineID    string       `json:"machine_id"`
	AllowedPaths []string     `json:"allowed_paths" doc:"absolute, links resolved"`
	WorkDir      *string      `json:"work_dir" doc:"null without one"`
	Auth         []authEntry  `json:"auth" doc:"the hosts that a token is stored for"`
	Limits       daemonLimits `json:"limits"`
	GitVersion   string       `json:"git_version" doc:"empty where there is no git"`
}

// config/get tells how the daemon was set up.
func (d *daemon) configGet(context.Context, none) (configResult, error) {
	auth, err := d.credentials.list()
	return configResult{
		Version:      programVersion,
		MachineID:    d.cfg.machineID,
		AllowedPaths: d.access.allowed(),
		WorkDir:      d.workDir(),
		Auth:         auth,
		GitVersion:   d.git.version(),
		Limits: daemonLimits{
			MaxMessage: d.cfg.maxMessage, MaxConcurrent: d.cfg.maxConcurrent, MaxQueue: maxQueue,
			MaxClones: maxClones, MaxCloneFiles: d.cfg.maxCloneFiles, MaxCloneBytes: d.cfg.maxCloneBytes,
		},
	}, err
}
