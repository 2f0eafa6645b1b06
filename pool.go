package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxTombstones bounds how many lib_ids that crashed are remembered.
	maxTombstones = 1024
	// maxDaemons bounds --max-daemons: each daemon is a process.
	maxDaemons = 100_000
)

// poolConfig configures a pool.
type poolConfig struct {
	workspace    string // made if absent
	daemonBin    string
	server       string // the URL that children dial; may come later, by setServer
	maxDaemons   int
	maxClones    int           // of all daemons at once; 0: no limit
	idleTimeout  time.Duration // 0: never
	spawnTimeout time.Duration
	stopTimeout  time.Duration
	childArgs    []string // further flags of every child
	denied       []string // absolute paths that no child may read, beside the workspace
	token        func(libID string) secret
	environ      []string // the scheduler's own; C4A_ variables are left out
	log          *slog.Logger
	started      *processes   // every child is added
	metrics      *poolMetrics // nil makes one
	// onEvent gets every change of an entry, those of one lib_id in order. It is
	// called without a lock, and from several goroutines.
	onEvent func(poolEntry)
	// start begins a child; nil for real processes.
	start func(childSpec) (child, error)
}

// pool keeps at most maxDaemons daemons, one for each lib_id, in a workspace
// that is its own.
type pool struct {
	poolConfig
	root  *os.Root // the workspace
	lock  *os.File // the workspace lock
	folds bool     // the file system cannot tell a from A

	force     chan struct{}  // closed by killNow
	closing   chan struct{}  // closed by shutdown
	wg        sync.WaitGroup // entries' owners and the sweeper
	stopSweep context.CancelFunc
	searching chan struct{} // holds a token while an ensure looks for a daemon to evict

	mu    sync.Mutex
	state poolState // accessed in update only
}

// poolState is everything that changes in a pool.
type poolState struct {
	server     string
	logLevel   string // of the children; "" for that of childArgs
	entries    map[string]*entry
	tombstones map[string]*tombstone
	maxClones  int           // as in poolConfig
	clones     []poolClone   // that run or wait, in order of arrival (pool_clones.go)
	waiting    int           // ensures that wait for a slot that is about to be free
	freed      chan struct{} // closed, and made anew, when a slot becomes free
	closed     bool          // by shutdown
	forced     bool          // by killNow
	pending    []consequence // of the running update
}

// consequence is something that an update has yet to do outside the lock.
type consequence struct {
	entry   *entry
	effects effects
	freed   chan struct{} // to close, for ensures that wait for a slot; nil for none
}

// tombstone remembers an entry whose child crashed and was not started again.
type tombstone struct {
	view    poolEntry
	history crashHistory
}

// newPool opens and locks the workspace, ends the processes that an earlier
// scheduler left running, and starts to sweep.
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
		force:      make(chan struct{}),
		closing:    make(chan struct{}),
		searching:  make(chan struct{}, 1),
		state: poolState{
			server:     cfg.server,
			maxClones:  cfg.maxClones,
			entries:    map[string]*entry{},
			tombstones: map[string]*tombstone{},
			freed:      make(chan struct{}),
		},
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

	ctx, stop := context.WithCancel(context.Background())
	p.stopSweep = stop
	// Both end with shutdown.
	p.wg.Go(func() { p.sweep(ctx) })
	p.wg.Go(func() { p.emptyTrash(ctx) })
	return p, nil
}

// update is the only door to the pool's state. f runs under the lock: it must
// neither block nor call anybody outside. What follows from the events that it
// applied is carried out once the lock is released: a log handler may block, and
// a subscriber may call the pool.
func (p *pool) update(f func(*poolState)) {
	for _, c := range p.locked(f) {
		p.carryOut(c)
	}
}

func (p *pool) locked(f func(*poolState)) []consequence {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.state)
	pending := p.state.pending
	p.state.pending = nil
	return pending
}

// apply applies one event and returns the effects, for the orders to the owner.
func (p *pool) apply(e *entry, event entryEvent) (fx effects) {
	p.update(func(s *poolState) { fx = s.apply(e, event) })
	return fx
}

// carryOut does what an event led to. It wakes waiters last, so that they find the
// change logged, counted and published.
func (p *pool) carryOut(c consequence) {
	fx := &c.effects
	if fx.log != nil {
		p.log.Log(context.Background(), fx.log.level, fx.log.text, fx.log.args...)
	}
	if fx.count != nil {
		fx.count(p.metrics)
	}
	if fx.publish != nil {
		p.onEvent(*fx.publish)
	}
	if fx.answered != nil {
		close(fx.answered.done)
	}
	if fx.resolved {
		close(c.entry.readyOrFailed)
	}
	if fx.wake {
		wake(c.entry.wake)
	}
	if c.freed != nil {
		close(c.freed)
	}
}

// apply applies an event within an update.
func (s *poolState) apply(e *entry, event entryEvent) effects {
	fx := e.apply(event)
	c := consequence{entry: e, effects: fx}
	if fx.freed {
		c.freed, s.freed = s.freed, make(chan struct{})
	}
	switch {
	case fx.crashed:
		s.recordCrash(e)
	case fx.forget:
		delete(s.tombstones, e.libID)
	}
	s.pending = append(s.pending, c)
	if fx.clones && s.maxClones > 0 {
		s.placeClones(e)
	}
	return fx
}

// recordCrash keeps what is shown of a crashed entry. The oldest tombstone goes
// when there are too many.
func (s *poolState) recordCrash(e *entry) {
	s.tombstones[e.libID] = &tombstone{view: e.view(), history: e.state.history}
	if len(s.tombstones) <= maxTombstones {
		return
	}
	oldest := e.libID
	for id, t := range s.tombstones {
		if t.history.last.Before(s.tombstones[oldest].history.last) {
			oldest = id
		}
	}
	delete(s.tombstones, oldest)
}

// slots counts the daemons that exist or are about to: the starting, the ready,
// and the stopping until they are reaped.
func (s *poolState) slots() (taken int) {
	for _, e := range s.entries {
		if e.state.slot {
			taken++
		}
	}
	return taken
}

// endOrphans ends the daemons that an earlier scheduler left, and the git
// processes of the daemons that died before it did.
func (p *pool) endOrphans() error {
	if err := endOrphans(p.root, p.log); err != nil {
		return err
	}
	workspace, err := filepath.EvalSymlinks(p.workspace) // as daemons name it
	if err == nil {
		err = endGitOrphans(func(workDir string) bool { return filepath.Dir(workDir) == workspace })
	}
	if err != nil {
		p.log.Warn("git processes of an earlier daemon could not be looked for and may be left", "error", err)
	}
	return nil
}

// setServer sets the URL that children dial. It is known only once the scheduler
// listens.
func (p *pool) setServer(url string) {
	p.update(func(s *poolState) { s.server = url })
}

func errShuttingDown() *apiError {
	return &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "the scheduler is stopping"}
}

func errDeleted(libID string) *apiError {
	return &apiError{code: codeDeleted, status: http.StatusConflict, message: libID + " was deleted meanwhile"}
}

// spec returns how to start libID's child.
func (p *pool) spec(libID string) childSpec {
	var server, level string
	p.update(func(s *poolState) { server, level = s.server, s.logLevel })
	token := secret("")
	if p.token != nil {
		token = p.token(libID)
	}
	args := []string{"--server", server, "--machine-id", machineIDOf(libID), "--work-dir", p.workDir(libID)}
	args = append(args, p.childArgs...)
	if level != "" {
		args = append(args, "--log-level", level) // the last one counts
	}
	env := childEnv(p.environ, append([]string{p.workspace}, p.denied...))
	if p.maxClones > 0 {
		env = append(env, clonesVariable+"=1")
	}
	return childSpec{
		libID:   libID,
		bin:     p.daemonBin,
		args:    args,
		env:     env,
		dir:     p.workDir(libID),
		token:   token,
		log:     p.log,
		started: p.started,
	}
}

// views are all entries by lib_id, and the crashed ones that were not started
// again. An entry that is about to leave is not among them.
func (s *poolState) views() map[string]poolEntry {
	views := map[string]poolEntry{}
	for id, t := range s.tombstones {
		views[id] = t.view
	}
	for id, e := range s.entries {
		if e.state.status != statusExited {
			views[id] = e.view()
		}
	}
	return views
}

// get returns libID's entry. A crashed one shows as exited until the next is
// started.
func (p *pool) get(libID string) (view poolEntry, found bool) {
	p.update(func(s *poolState) {
		if e := s.entries[libID]; e != nil && e.state.status != statusExited {
			view, found = e.view(), true
		} else if t := s.tombstones[libID]; t != nil {
			view, found = t.view, true
		}
	})
	return view, found
}

// list returns all entries, sorted by lib_id.
func (p *pool) list() []poolEntry {
	var views map[string]poolEntry
	p.update(func(s *poolState) { views = s.views() })
	sorted := make([]poolEntry, 0, len(views))
	for _, id := range slices.Sorted(maps.Keys(views)) {
		sorted = append(sorted, views[id])
	}
	return sorted
}

// poolCounts is the pool in numbers.
type poolCounts struct {
	Running  int `json:"running" doc:"processes, those that start or stop included"`
	Ready    int `json:"ready"`
	Starting int `json:"starting"`
	Busy     int `json:"busy"`
	Max      int `json:"max"`

	clonesWaiting int
}

func (p *pool) counts() poolCounts {
	n := poolCounts{Max: p.maxDaemons}
	p.update(func(s *poolState) {
		n.Running = s.slots()
		if s.maxClones > 0 {
			n.clonesWaiting = max(0, len(s.clones)-s.maxClones)
		}
		for _, e := range s.entries {
			switch e.state.status {
			case statusReady:
				n.Ready++
			case statusStarting:
				n.Starting++
			}
			if e.state.active > 0 {
				n.Busy++
			}
		}
	})
	return n
}

// deleted reports whether e was ended by a DELETE.
func (p *pool) deleted(e *entry) (deleted bool) {
	p.update(func(*poolState) { deleted = e.state.remove })
	return deleted
}

// remove ends libID's child, busy or not, and deletes its directory. The error
// is an *apiError, 404 where there is neither, or that of ctx; the removal goes
// on when ctx ends.
func (p *pool) remove(ctx context.Context, libID string) error {
	if err := checkLibID(libID); err != nil {
		return err
	}
	for {
		e := p.beginRemoval(libID)
		if e == nil {
			return errShuttingDown()
		}
		if err := wait(ctx, e.gone); err != nil {
			return err
		}
		// Nothing changes an entry that is gone: its state is read without the lock.
		switch s := &e.state; {
		case !s.remove: // it was about to leave when the DELETE came
			continue
		case errors.Is(s.removeErr, errRemoved) && s.started.IsZero():
			return &apiError{code: codeNotFound, status: http.StatusNotFound, message: "there is no daemon and no directory for " + libID}
		case s.removeErr != nil && !errors.Is(s.removeErr, errRemoved):
			return &apiError{code: codeInternalError, status: http.StatusInternalServerError, message: s.removeErr.Error()}
		}
		return nil
	}
}

// beginRemoval returns the entry that removes libID's directory; nil when the
// pool is shut down. Where nothing runs, an entry without a child keeps ensures
// from using the directory meanwhile.
func (p *pool) beginRemoval(libID string) (e *entry) {
	p.update(func(s *poolState) {
		if s.closed {
			return
		}
		if e = s.entries[libID]; e != nil {
			s.apply(e, stopRequested{why: errDeleted(libID), remove: true})
			return
		}
		e = newEntry(libID, p.workDir(libID), entryState{status: statusStopping, onlyRemoves: true, remove: true})
		s.entries[libID] = e
		// Ends when the directory is gone.
		p.wg.Go(func() { p.finish(e, childEnded{}) })
	})
	return e
}

// stopAll ends every child and keeps the directories. The pool stays usable.
func (p *pool) stopAll(ctx context.Context) error {
	return p.endAll(ctx, &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "all daemons were told to stop meanwhile"})
}

func (p *pool) endAll(ctx context.Context, why *apiError) error {
	var all []*entry
	p.update(func(s *poolState) {
		for _, e := range s.entries {
			all = append(all, e)
			s.apply(e, stopRequested{why: why})
		}
	})
	for _, e := range all {
		if err := wait(ctx, e.gone); err != nil {
			return err
		}
	}
	return nil
}

// killNow turns every stop from now on into a kill. A second signal calls it.
func (p *pool) killNow() {
	p.update(func(s *poolState) {
		if !s.forced {
			s.forced = true
			close(p.force)
		}
	})
}

// stopping reports whether shutdown has begun.
func (p *pool) stopping() (closed bool) {
	p.update(func(s *poolState) { closed = s.closed })
	return closed
}

// shutdown refuses new work, ends and reaps every child, and unlocks the
// workspace. When ctx ends first, the children are killed. Later calls do
// nothing.
func (p *pool) shutdown(ctx context.Context) error {
	first := false
	p.update(func(s *poolState) {
		if first = !s.closed; first {
			s.closed = true
			close(p.closing)
		}
	})
	if !first {
		return nil
	}
	p.stopSweep()
	err := p.endAll(ctx, errShuttingDown())
	if err != nil {
		p.killNow()
	}
	p.wg.Wait()
	return errors.Join(err, p.lock.Close(), p.root.Close())
}
