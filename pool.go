package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxGraves bounds how many lib_ids that died are remembered.
const maxGraves = 1024

// poolConfig is what a pool is made with.
type poolConfig struct {
	workspace    string // made if absent
	daemonBin    string
	server       string // may come later by setServer
	maxDaemons   int
	idleTimeout  time.Duration // 0: never
	spawnTimeout time.Duration
	stopTimeout  time.Duration
	childArgs    []string // further flags of every child
	token        func(libID string) secret
	environ      []string // the scheduler's own; C4A_ variables are left out
	log          *slog.Logger
	metrics      *poolMetrics // nil makes one
	// onEvent hears of every change of an entry, in order. It is called under
	// the pool's lock: it must neither block nor call the pool.
	onEvent func(poolEntry)
	// start begins a child; nil for real processes.
	start func(childSpec) (child, error)
}

// pool keeps at most maxDaemons daemons, one for each lib_id, in a workspace
// that is its own.
type pool struct {
	poolConfig
	root  *os.Root      // the workspace
	lock  *os.File      // the workspace lock
	folds bool          // the file system cannot tell a from A
	hurry chan struct{} // closed by killNow

	closing   chan struct{}  // closed by shutdown
	wg        sync.WaitGroup // entries' owners and the sweeper
	stopSweep context.CancelFunc
	asking    chan struct{} // holds a token while somebody looks for one to evict

	mu      sync.Mutex
	entries map[string]*entry
	graves  map[string]*grave
	places  int           // taken: starting, ready, and stopping until reaped
	waiting int           // ensures that wait for a place that is being freed
	freed   chan struct{} // closed, and made anew, when a place becomes free
	closed  bool
	hurried bool
}

// grave remembers an entry whose child died and was not started again.
type grave struct {
	view poolEntry
	deaths
}

// newPool opens the workspace, locks it, ends what an earlier scheduler left
// running and starts to sweep.
func newPool(cfg poolConfig) (_ *pool, err error) {
	if cfg.workspace, err = filepath.Abs(cfg.workspace); err != nil {
		return nil, fmt.Errorf("opening the workspace: %w", err)
	}
	// A relative program would be looked for in the child's directory.
	if strings.ContainsRune(cfg.daemonBin, filepath.Separator) {
		if cfg.daemonBin, err = filepath.Abs(cfg.daemonBin); err != nil {
			return nil, fmt.Errorf("finding the daemon's program: %w", err)
		}
	}
	if err := os.MkdirAll(cfg.workspace, 0o700); err != nil {
		return nil, fmt.Errorf("making the workspace: %w", err)
	}
	root, err := os.OpenRoot(cfg.workspace)
	if err != nil {
		return nil, fmt.Errorf("opening the workspace: %w", err)
	}
	p := &pool{
		poolConfig: cfg,
		root:       root,
		hurry:      make(chan struct{}),
		closing:    make(chan struct{}),
		asking:     make(chan struct{}, 1),
		entries:    map[string]*entry{},
		graves:     map[string]*grave{},
		freed:      make(chan struct{}),
	}
	if p.start == nil {
		p.start = startChild
	}
	if p.onEvent == nil {
		p.onEvent = func(poolEntry) {}
	}
	if p.metrics == nil {
		p.metrics = newPoolMetrics()
	}
	if p.lock, err = lockWorkspace(root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := p.endOrphans(); err != nil {
		return nil, errors.Join(err, p.lock.Close(), root.Close())
	}
	p.folds = foldsCase(root)
	p.emptyTrash()

	ctx, stop := context.WithCancel(context.Background())
	p.stopSweep = stop
	// Ends with shutdown.
	p.wg.Go(func() { p.sweep(ctx) })
	return p, nil
}

// endOrphans ends what an earlier scheduler left: its daemons, and the git
// processes of those that died before it did.
func (p *pool) endOrphans() error {
	if err := endOrphans(p.root, p.log); err != nil {
		return err
	}
	workspace, err := filepath.EvalSymlinks(p.workspace) // as daemons name it
	if err == nil {
		err = endGitOrphans(func(workDir string) bool { return filepath.Dir(workDir) == workspace })
	}
	if err != nil {
		p.log.Warn("git processes of an earlier daemon may be left", "error", err)
	}
	return nil
}

// setServer tells the address that children dial. It is known only once the
// scheduler listens.
func (p *pool) setServer(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = url
}

func errShuttingDown() *apiError {
	return &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "the scheduler is stopping"}
}

// spec is how libID's child is started.
func (p *pool) spec(libID string) childSpec {
	p.mu.Lock()
	server := p.server
	p.mu.Unlock()
	token := secret("")
	if p.token != nil {
		token = p.token(libID)
	}
	args := []string{"--server", server, "--machine-id", machineIDOf(libID), "--work-dir", p.workDir(libID)}
	return childSpec{
		libID: libID,
		bin:   p.daemonBin,
		args:  append(args, p.childArgs...),
		env:   childEnv(p.environ),
		dir:   p.workDir(libID),
		token: token,
		log:   p.log,
	}
}

// get is libID's entry; a child that died shows as exited until the next one
// is started.
func (p *pool) get(libID string) (poolEntry, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[libID]; e != nil {
		return p.viewLocked(e), true
	}
	if g := p.graves[libID]; g != nil {
		return g.view, true
	}
	return poolEntry{}, false
}

// serving is the entry that libID has now, nil for none.
func (p *pool) serving(libID string) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.entries[libID]
}

// deleted tells whether e was ended by a DELETE.
func (p *pool) deleted(e *entry) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return e.remove
}

func errDeleted(libID string) *apiError {
	return &apiError{code: codeDeleted, status: http.StatusConflict, message: libID + " was deleted meanwhile"}
}

// list is all entries by lib_id.
func (p *pool) list() []poolEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	views := []poolEntry{}
	for _, e := range p.entries {
		views = append(views, p.viewLocked(e))
	}
	for id, g := range p.graves {
		if p.entries[id] == nil {
			views = append(views, g.view)
		}
	}
	slices.SortFunc(views, func(a, b poolEntry) int { return strings.Compare(a.LibID, b.LibID) })
	return views
}

// poolCounts is the pool in numbers: running are all that hold a place.
type poolCounts struct {
	Running  int `json:"running" doc:"all that hold a place"`
	Ready    int `json:"ready"`
	Starting int `json:"starting"`
	Busy     int `json:"busy"`
	Max      int `json:"max"`
}

func (p *pool) counts() poolCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := poolCounts{Running: p.places, Max: p.maxDaemons}
	for _, e := range p.entries {
		switch e.status {
		case statusReady:
			n.Ready++
		case statusStarting:
			n.Starting++
		}
		if e.active > 0 {
			n.Busy++
		}
	}
	return n
}

func (p *pool) viewLocked(e *entry) poolEntry {
	return poolEntry{
		LibID:          e.libID,
		MachineID:      machineIDOf(e.libID),
		Status:         e.status,
		PID:            e.pid,
		WorkDir:        p.workDir(e.libID),
		StartedAt:      e.started.UTC(),
		LastUsedAt:     e.lastUsed.UTC(),
		Busy:           e.active > 0,
		ActiveRequests: e.active,
		Restarts:       e.history.total,
		LastError:      e.history.lastError,
	}
}

func (p *pool) tellLocked(e *entry) { p.onEvent(p.viewLocked(e)) }

// buryLocked remembers a death and returns what is shown of it; the oldest
// memory goes when there are too many.
func (p *pool) buryLocked(e *entry, how string) poolEntry {
	now := time.Now()
	e.history = e.history.after(now, how)
	view := p.viewLocked(e)
	view.Restarts = e.history.total - 1
	p.graves[e.libID] = &grave{view: view, deaths: e.history}
	if len(p.graves) <= maxGraves {
		return view
	}
	oldest := e.libID
	for id, g := range p.graves {
		if g.last.Before(p.graves[oldest].last) {
			oldest = id
		}
	}
	delete(p.graves, oldest)
	return view
}

// remove ends libID's child, busy or not, and deletes its directory. The error
// is a *apiError (404 where there is neither), or ctx's; the removal goes on
// when ctx ends.
func (p *pool) remove(ctx context.Context, libID string) error {
	if err := checkLibID(libID); err != nil {
		return err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errShuttingDown()
	}
	e := p.entries[libID]
	if e == nil {
		// Nothing runs: an entry without a child keeps an ensure from using the
		// directory while it goes.
		e = newEntry(libID, statusStopping, time.Now())
		e.isSettled = true
		close(e.settled)
		p.entries[libID] = e
		e.remove = true
		// Ends when the directory is gone.
		p.wg.Go(func() { p.finish(e, "") })
	}
	e.remove = true
	p.stopLocked(e, errDeleted(libID))
	p.mu.Unlock()
	if err := wait(ctx, e.gone); err != nil {
		return err
	}
	switch {
	case errors.Is(e.removeErr, errRemoved) && e.started.IsZero():
		return &apiError{code: codeNotFound, status: http.StatusNotFound, message: "there is no daemon and no directory for " + libID}
	case e.removeErr != nil && !errors.Is(e.removeErr, errRemoved):
		return &apiError{code: codeInternalError, status: http.StatusInternalServerError, message: e.removeErr.Error()}
	}
	return nil
}

// stopAll ends every child and keeps the directories. The pool stays usable.
func (p *pool) stopAll(ctx context.Context) error {
	return p.endAll(ctx, &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "all daemons were told to stop meanwhile"})
}

func (p *pool) endAll(ctx context.Context, why *apiError) error {
	p.mu.Lock()
	var all []*entry
	for _, e := range p.entries {
		all = append(all, e)
		p.stopLocked(e, why)
	}
	p.mu.Unlock()
	for _, e := range all {
		if err := wait(ctx, e.gone); err != nil {
			return err
		}
	}
	return nil
}

// killNow makes every stop from now on a kill: what a second signal asks for.
func (p *pool) killNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.hurried {
		p.hurried = true
		close(p.hurry)
	}
}

// stopping tells that shutdown has begun.
func (p *pool) stopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// shutdown refuses new work, ends and reaps every child and unlocks the
// workspace. When ctx ends first, the children are killed. Only the first call
// does something.
func (p *pool) shutdown(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.closing)
	p.mu.Unlock()
	p.stopSweep()
	err := p.endAll(ctx, errShuttingDown())
	if err != nil {
		p.killNow()
	}
	p.wg.Wait()
	return errors.Join(err, p.lock.Close(), p.root.Close())
}
