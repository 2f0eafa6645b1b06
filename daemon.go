package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// The time that running requests have after the first signal. A daemon under a
// scheduler must have exited before the scheduler kills it, after 2 s.
const (
	drainTime          = 10 * time.Second
	scheduledDrainTime = 1500 * time.Millisecond
)

// daemon connects the parts of c4a-daemon: it builds the table of methods from
// them and runs the link to the server.
type daemon struct {
	cfg         *daemonConfig
	lock        *os.File // lock file of the work dir; nil without a work dir
	access      *access
	git         *gitRunner
	credentials *credentials
	cloner      *cloner
	handlers    []*method
	service     *service
	buffers     *bufferPool // of files and answers
	instanceID  string
	noTemp      error // why no directory takes temporary files; nil if one does
	began       time.Time
}

// runDaemon runs c4a-daemon and returns its exit status.
func runDaemon(p *program) int {
	return p.runCommands(daemonName, daemonCommands(), p.daemon)
}

func daemonCommands() []command {
	return commonCommands(daemonName, func(p *program) *flagSet {
		f, _ := p.daemonFlagSet()
		return f
	}, daemonCommands)
}

// daemon parses the command line and runs until a signal or a final error.
//
// At shutdown new requests are refused first, running requests get some time to
// finish, and the rest are cancelled, with git ended before the files are
// closed. The remaining responses are sent and the link is closed with a close
// frame.
func (p *program) daemon() error {
	cfg, err := p.daemonConfig()
	switch {
	case err != nil:
		return err
	case cfg.version:
		fmt.Fprint(p.stdout, versionText(daemonName))
		return nil
	}
	p.surviveBrokenPipe()
	if cfg.check { // a signal ends a check as it ends any other program
		return p.check(cfg)
	}
	signals := p.watchSignals(signalPlan{name: daemonName, limit: cfg.drainTime() + closeTime, kill: p.started.kill})
	defer signals.close()
	defer watchLevel(cfg.level, cfg.setLevel)()
	var wg sync.WaitGroup
	defer wg.Wait()

	var parent *controlClient
	if cfg.scheduled {
		out := newLineQueue(p.stdout)
		defer out.close(flushTime)
		parent = &controlClient{reader: newControlReader(p.stdin, cfg.log), out: out, level: cfg.level, log: cfg.log}
		if cfg.token, err = parent.token(signals.stopping); signals.stopping.Err() != nil {
			return context.Cause(signals.force)
		} else if err != nil {
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
	wg.Go(func() { d.access.temp.sweep(work, cfg.log) }) // ends with d.close
	if parent != nil {
		parent.activity = d.service.activity
		parent.clones, d.cloner.ended = d.cloner.places, parent.sendClone
		if p.getenv(clonesVariable) != "" {
			d.cloner.places.changed = func() { parent.sendStatus(0) }
		}
		// Nobody waits for this goroutine: it is blocked in a read of standard
		// input, which only the end of this process or of the scheduler
		// interrupts.
		go parent.handleOps(func() { signals.stop(nil) })
		wg.Go(func() { parent.reportActivity(work) }) // ends with d.close
	}
	return d.serve(signals.stopping, signals.force, parent, p)
}

// newDaemon opens the directories, credentials and lock that the daemon uses.
// The end of base cancels the work that does not belong to a single request.
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
			return nil, explainOwner(workDir, fmt.Errorf("creating the work dir: %w", err))
		}
		d.lock, died, err = lockWorkDir(workDir, cfg.log)
		if _, held := errors.AsType[*heldError](err); held && cfg.check {
			// --check while the daemon is running: treat the work dir as read-only.
			allow, workDir, err = slices.Concat(allow, []string{workDir}), "", nil
		}
		if err != nil {
			return nil, explainOwner(workDir, err)
		}
	}
	d.git = newGitRunner(p.getenv, cfg.caFile)
	d.git.started = p.started
	if d.access, err = openAccess(allow, workDir); err != nil {
		return nil, err
	}
	for _, dir := range d.access.stuck() {
		cfg.log.Warn("an allowed directory does not answer: it is served when it does", "path", dir.Path)
	}
	for _, path := range cfg.deny {
		d.access.deny(path)
	}
	d.git.temp, d.access.temp.workDir = d.access.temp, cmp.Or(d.access.workDir, cfg.workDir)
	if d.noTemp = d.access.temp.probe(); d.noTemp != nil {
		cfg.log.Warn("no directory takes temporary files: the methods that need git will fail", "error", d.noTemp)
	}
	if d.git.path == "" {
		cfg.log.Warn("git not found in the PATH: the methods that need it will fail")
	}
	if d.credentials, err = openCredentials(d.access, d.git); err != nil {
		return nil, err
	}
	d.instanceID = randomHex(16)

	tasks := newFlightGroup(base, taskKeep, taskKept(int(cfg.maxMessage)))
	d.cloner = newCloner(clonerConfig{
		git: d.git, access: d.access, credentials: d.credentials, log: cfg.log, base: base,
		maxFiles: cfg.maxCloneFiles, maxBytes: int64(cfg.maxCloneBytes), allowHosts: cfg.allowGitHosts, minFreeDisk: cfg.minFreeDisk, predecessorDied: died,
	})
	d.handlers = newCommandMethods(cfg.handlers, p.environ(), int(cfg.maxMessage), cfg.log, p.started)
	d.buffers = &bufferPool{}
	d.service = &service{
		methods:       map[string]*method{},
		tasks:         tasks,
		access:        d.access,
		maxConcurrent: cfg.maxConcurrent,
		log:           cfg.log,
		buffers:       d.buffers,
	}
	d.service.activity = newActivity(func() int { return max(tasks.running(), d.cloner.group.running()) }) // a clone with a task_id counts in both
	d.service.activity.whenIdle(memoryIdle, giveBackMemory)
	tasks.ended, d.cloner.group.ended = d.service.activity.touch, d.service.activity.touch
	for _, m := range d.methods() {
		d.service.methods[m.name] = m
	}
	handshake := d.handshake()
	handshake.GitVersion = strings.Repeat("0", maxGitVersion)
	if err := handshake.check(); err != nil {
		return nil, usage("%v", err)
	}
	if err := handshake.checkSize(); err != nil {
		return nil, usage("%v", err)
	}
	return d, nil
}

// reading returns the methods that read files and repositories. fs/repoScan, which
// can take minutes, checks each repository by itself.
func (d *daemon) reading() []*method {
	files := newFSService(d.access, d.git, d.cfg.log)
	files.buffers = d.buffers
	methods := slices.Concat(
		files.methods(),
		newGitReader(d.git, d.access, d.cloner.remotes, d.cfg.log).methods(),
	)
	for _, m := range methods {
		if m.name != "fs/repoScan" {
			m.readsWhole(d.access)
		}
	}
	return methods
}

// methods returns the table of methods that the dispatcher calls.
func (d *daemon) methods() []*method {
	inWorkDir := slices.Concat(
		[]*method{newMethod("config/get", "Return the configuration of the daemon, without tokens.", d.configGet).quickWithoutParams()},
		d.credentials.methods(),
		d.cloner.methods(),
	)
	for _, m := range inWorkDir {
		m.inWorkDir = true
	}
	return newDiscovery(slices.Concat(
		inWorkDir,
		d.reading(),
		d.handlers,
	))
}

// serve keeps the daemon connected until a signal arrives or reconnecting is
// pointless.
func (d *daemon) serve(stopping, force context.Context, parent *controlClient, p *program) error {
	system := newNotifier(p.getenv, d.cfg.log)
	isReady := false
	c := &connector{
		server: d.cfg.server, client: d.cfg.client, token: d.cfg.token, compress: d.cfg.compress,
		maxMessage: int(d.cfg.maxMessage), attempts: d.cfg.maxAttempts, heartbeat: d.cfg.heartbeat,
		times: p.times, handshake: d.handshake(), gitVersion: d.git.version, service: d.service, began: d.began, console: p.console, log: d.cfg.log,
		onState: func(state string) { system.tell("STATUS=" + state) },
		onAccepted: func(handshakeResult) {
			if isReady {
				return
			}
			isReady = true
			system.tell("READY=1")
			if parent != nil {
				parent.sendReady(d.instanceID)
			}
		},
	}
	linked, cancelLink := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancelLink()
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
	d.drain(force)
	cancelLink()
	wg.Wait()
	return context.Cause(force)
}

// drain refuses new requests and waits for the running ones until they have
// ended, their time is over, or force ends.
func (d *daemon) drain(force context.Context) {
	limit := d.cfg.drainTime()
	d.service.activity.drain()
	if active, _, _ := d.service.activity.state(); active > 0 {
		d.cfg.log.Info("stopping: waiting for running requests", "active", active, "limit_ms", limit.Milliseconds())
	}
	d.service.activity.awaitIdle(force, limit)
}

// close cancels the remaining work, git first, and waits for it to end.
func (d *daemon) close(end context.CancelFunc) {
	end()
	ended := make(chan struct{})
	go func() { // ends with the work, or with the process if a file system blocks it
		defer close(ended)
		d.cloner.wait()
		d.service.tasks.wait()
		d.service.wait()
	}()
	timer := time.NewTimer(cloneStopTime)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	if stuck := d.access.stuck(); len(stuck) > 0 {
		// Even closing a directory can block. The end of the process closes all.
		d.cfg.log.Warn("stopping work that a file system blocks failed", "path", stuck[0].Path)
		return
	}
	if d.lock != nil {
		if err := unlockFile(d.lock); err != nil {
			d.cfg.log.Warn("unlocking the work dir failed", "error", err)
		}
		d.lock = nil
	}
	d.release()
}

// release closes everything that newDaemon opened, the lock last: another
// daemon may use the work dir as soon as it is unlocked.
func (d *daemon) release() {
	if d.service != nil {
		d.service.activity.close()
	}
	if d.git != nil {
		d.git.version() // waits for a query that is still running
	}
	if d.access != nil {
		d.access.close()
	}
	if d.lock != nil {
		_ = d.lock.Close() // the file is empty, so no write can be lost
	}
}

// handshake returns the handshake without the version of git, which is not waited for
// before the link is dialed.
func (d *daemon) handshake() handshakeParams {
	return handshakeParams{
		MachineID: d.cfg.machineID, InstanceID: d.instanceID, ProtocolVersion: protocolVersion, Version: programVersion(),
		Hostname: hostName(), OS: runtime.GOOS, Arch: runtime.GOARCH, PID: os.Getpid(),
		AllowedPaths: d.access.allowed(), WorkDir: d.workDir(),
		Methods:             slices.Sorted(maps.Keys(d.service.methods)),
		HeartbeatIntervalMS: d.cfg.heartbeat.Milliseconds(),
	}
}

// workDir returns the path of the work dir with symbolic links resolved, or nil
// without a work dir.
func (d *daemon) workDir() *string {
	if d.access.workDir == "" {
		return nil
	}
	return &d.access.workDir
}

// check runs --check.
func (p *program) check(cfg *daemonConfig) error {
	work, end := context.WithCancel(context.Background())
	defer end()
	d, err := newDaemon(work, cfg, p)
	if err != nil {
		return err
	}
	defer d.close(end)
	return d.check(p)
}

// check tests paths, git and the server, and prints a line for each.
func (d *daemon) check(p *program) error {
	list := &checklist{w: p.stdout}
	report := list.report
	stuck := d.access.stuck()
	for _, dir := range stuck {
		report("path", fmt.Errorf("%s: its file system does not answer", dir.Path), "")
	}
	for _, path := range d.access.allowed() {
		if slices.ContainsFunc(stuck, func(dir stuckDir) bool { return dir.Path == showName(path) }) {
			continue
		}
		report("path", checkReadable(path), path)
	}
	report("git", cmp.Or(d.git.versionError(), checkGit(d.git.version())), d.git.version())
	// A daemon can do without these, so they are no failure.
	list.note(checkSSH())
	list.note(checkAuthorities())
	list.certificate("certificate of --client-cert", d.cfg.clientPair)
	report("temporary files", d.noTemp, d.access.temp.dir())
	c := &connector{
		server: d.cfg.server, client: d.cfg.client, token: d.cfg.token, compress: d.cfg.compress,
		maxMessage: int(d.cfg.maxMessage), times: p.times, handshake: d.handshake(), log: d.cfg.log,
	}
	report("server", c.try(), d.cfg.server.String())
	list.clock(c.serverTime, time.Now())
	return list.outcome()
}

// memoryIdle is how long a daemon is idle before it returns memory to the
// system. A server that works through a repository sends its next request
// sooner than that.
const memoryIdle = 5 * time.Second

// setMemory tunes the garbage collector for a small heap with occasional
// responses of several megabytes. With the default settings it would run dozens
// of times while one such response is built. The memory limit, above which the
// collector runs more often, exceeds the total of everything that is kept:
// listings, remembered responses and messages in transit. GOGC and GOMEMLIMIT
// from the operator take precedence.
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

// giveBackMemory returns unused memory to the system. With the settings of
// setMemory an idle daemon would keep what its last requests allocated, and a
// scheduler runs many daemons. It is not called before the first request: the
// collection itself would use more memory than it returns.
func giveBackMemory() { debug.FreeOSMemory() }

// daemonLimits are the limits that config/get returns to callers.
type daemonLimits struct {
	MaxMessage    int   `json:"max_message" doc:"maximum bytes of one message"`
	MaxConcurrent int   `json:"max_concurrent" doc:"maximum number of requests that run at the same time"`
	MaxQueue      int   `json:"max_queue" doc:"maximum number of requests that wait"`
	MaxClones     int   `json:"max_clones" doc:"maximum number of clones at the same time"`
	MaxCloneFiles int   `json:"max_clone_files" doc:"maximum number of files in a cloned tree"`
	MaxCloneBytes int64 `json:"max_clone_bytes" doc:"maximum bytes in a cloned tree"`
}

// configResult is the result of config/get. It holds no secrets.
type configResult struct {
	Version      string       `json:"version" doc:"daemon version"`
	MachineID    string       `json:"machine_id"`
	AllowedPaths []string     `json:"allowed_paths" doc:"absolute paths, symbolic links resolved"`
	WorkDir      *string      `json:"work_dir" doc:"absolute path; null without a work dir"`
	Auth         []authEntry  `json:"auth" doc:"hosts for which a token is stored"`
	Limits       daemonLimits `json:"limits"`
	Stuck        []stuckDir   `json:"stuck" doc:"allowed directories whose file system blocks calls; empty if there are none"`
	GitVersion   string       `json:"git_version" doc:"empty if git is not installed"`
}

// configGet implements config/get.
func (d *daemon) configGet(context.Context, none) (configResult, error) {
	auth, err := d.credentials.list()
	return configResult{
		Version:      programVersion(),
		MachineID:    d.cfg.machineID,
		AllowedPaths: d.access.allowed(),
		WorkDir:      d.workDir(),
		Auth:         auth,
		GitVersion:   d.git.version(),
		Stuck:        d.access.stuck(),
		Limits: daemonLimits{
			MaxMessage: int(d.cfg.maxMessage), MaxConcurrent: d.cfg.maxConcurrent, MaxQueue: maxQueue,
			MaxClones: maxClones, MaxCloneFiles: d.cfg.maxCloneFiles, MaxCloneBytes: int64(d.cfg.maxCloneBytes),
		},
	}, err
}
