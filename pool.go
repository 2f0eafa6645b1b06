package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLibID = 128
	// maxGraves bounds how many lib_ids that died are remembered.
	maxGraves = 1024
	// maxRoomAsk bounds how long one ensure asks the others to make room.
	maxRoomAsk = 2 * time.Second
	// capacityRetryMin and capacityRetrySpread are when to come back to a full
	// pool: at random, so that not all who were sent away come back together.
	capacityRetryMin    = 5 * time.Second
	capacityRetrySpread = 10 * time.Second
	// trashPrefix begins the names of directories on their way out: no lib_id
	// begins with a dot.
	trashPrefix = ".deleted-"
)

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
	// onEvent hears of every change of an entry, in order. It is called under
	// the pool's lock: it must neither block nor call the pool.
	onEvent func(poolEntry)
	// start begins a child; nil for real processes.
	start func(childSpec) (child, error)
}

// poolError is a refusal, for the HTTP API and for the hub alike. Its message
// holds no secret.
type poolError struct {
	code       errorCode
	status     int // of HTTP
	message    string
	retryAfter time.Duration // 0: not told
}

func (e *poolError) Error() string { return e.message }

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
	if p.lock, err = lockWorkspace(root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := endOrphans(root, p.log); err != nil {
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

// foldsCase tells whether root's file system finds a file by its name in
// another case.
func foldsCase(root *os.Root) bool {
	a, err1 := root.Lstat(lockFileName)
	b, err2 := root.Lstat(strings.ToUpper(lockFileName))
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// setServer tells the address that children dial. It is known only once the
// scheduler listens.
func (p *pool) setServer(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = url
}

// validLibID tells a lib_id that can be a directory's name everywhere and is
// none of ours.
func validLibID(id string) bool {
	if id == "" || len(id) > maxLibID || id[0] == '.' || id[0] == '-' || id == librariesFile {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("._-", rune(c)) {
			return false
		}
	}
	return true
}

// librariesFile is where the bindings of libraries are kept, beside the work
// dirs.
const librariesFile = "libraries.json"

// machineIDOf is the machine_id of a library's daemon.
func machineIDOf(libID string) string { return "cloud_" + libID }

func checkLibID(id string) error {
	if validLibID(id) {
		return nil
	}
	return &poolError{code: codeInvalidLibID, status: http.StatusBadRequest,
		message: fmt.Sprintf("a lib_id is 1 to %d of A-Z a-z 0-9 . _ -, does not start with . or - and is not %s", maxLibID, librariesFile)}
}

func errShuttingDown() *poolError {
	return &poolError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "the scheduler is stopping"}
}

// ensure returns the ready daemon of libID. However many ask at once, one
// child is started; started is true for the one that did so. A child belongs
// to the pool: it goes on when ctx ends, only the waiting does not. The error
// is a *poolError, or ctx's.
func (p *pool) ensure(ctx context.Context, libID string) (view poolEntry, started bool, err error) {
	if err := checkLibID(libID); err != nil {
		return poolEntry{}, false, err
	}
	var mine *entry // the one that this call started
	asked := map[*entry]bool{}
	begin := time.Now()
	for {
		if err := ctx.Err(); err != nil {
			return poolEntry{}, false, err
		}
		p.mu.Lock()
		e := p.entries[libID]
		switch {
		case p.closed:
			p.mu.Unlock()
			return poolEntry{}, false, errShuttingDown()
		case e != nil && e.status == statusReady:
			e.lastUsed = time.Now()
			if e.probe != nil {
				e.probe.wanted = true
			}
			view = p.viewLocked(e)
			p.mu.Unlock()
			return view, e == mine, nil
		case e != nil && e.status == statusStarting:
			p.mu.Unlock()
			if err := p.awaitReady(ctx, e); err != nil {
				return poolEntry{}, false, err
			}
		case e != nil: // stopping: a fresh one takes its place
			p.mu.Unlock()
			if err := wait(ctx, e.gone); err != nil {
				return poolEntry{}, false, err
			}
		default:
			e, err := p.admitLocked(ctx, libID, begin, asked)
			if err == nil && e != nil {
				mine = e
				err = p.awaitReady(ctx, e)
			}
			if err != nil {
				return poolEntry{}, false, err
			}
		}
	}
}

// awaitReady waits until e is ready, or returns why it never will be.
func (p *pool) awaitReady(ctx context.Context, e *entry) error {
	if err := wait(ctx, e.settled); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.failed != nil {
		return e.failed
	}
	return nil
}

// admitLocked starts libID's entry when it may: no crash loop, no other id of
// the same name, a free place. Else it waits for what keeps it from starting,
// and returns nil to be called again. It unlocks p.mu.
func (p *pool) admitLocked(ctx context.Context, libID string, begin time.Time, asked map[*entry]bool) (*entry, error) {
	now := time.Now()
	past := deaths{}
	if g := p.graves[libID]; g != nil {
		past = g.deaths
	}
	delay, full, server := past.wait(now), p.places >= p.maxDaemons, p.server
	if server == "" || delay > 0 || full {
		p.mu.Unlock()
	}
	switch {
	case server == "":
		return nil, &poolError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "no server to dial is known yet"}
	case delay > p.spawnTimeout-now.Sub(begin):
		return nil, &poolError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, retryAfter: delay,
			message: fmt.Sprintf("the daemon for %s died %d times in a row and is started again in %v: %s", libID, past.inRow, delay.Round(time.Second), past.lastError)}
	case delay > 0:
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil, nil
		case <-p.closing:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case full:
		return nil, p.makeRoom(ctx, asked)
	}
	defer p.mu.Unlock()
	if other := p.sameNameLocked(libID); other != "" {
		return nil, &poolError{code: codeInvalidLibID, status: http.StatusBadRequest,
			message: fmt.Sprintf("the file system cannot tell %s from %s, which is there already", libID, other)}
	}
	e := newEntry(libID, statusStarting, now)
	e.place, e.history = true, past
	p.places++
	p.entries[libID] = e
	p.tellLocked(e)
	// Ends when the child is reaped and cleared away; shutdown waits for it.
	p.wg.Go(func() { p.run(e) })
	return e, nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sameNameLocked is another lib_id that the file system takes for libID.
func (p *pool) sameNameLocked(libID string) string {
	if !p.folds {
		return ""
	}
	for other := range p.entries {
		if other != libID && strings.EqualFold(other, libID) {
			return other
		}
	}
	names, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return ""
	}
	for _, name := range names {
		if name.Name() != libID && strings.EqualFold(name.Name(), libID) {
			return name.Name()
		}
	}
	return ""
}

// makeWorkDir makes libID's directory, or takes the one that is there. A link
// or a file of that name is refused, and so is a directory of another user.
func (p *pool) makeWorkDir(libID string) error {
	err := p.root.Mkdir(libID, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the work dir: %w", err)
	}
	info, err := p.root.Lstat(libID)
	if err != nil {
		return fmt.Errorf("opening the work dir: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("opening the work dir: %s is not a directory: remove it", p.workDir(libID))
	}
	if info.Mode().Perm() != 0o700 {
		if err := p.root.Chmod(libID, 0o700); err != nil {
			return fmt.Errorf("making the work dir private: %w", err)
		}
	}
	return nil
}

func (p *pool) workDir(libID string) string { return filepath.Join(p.workspace, libID) }

// removeWorkDir deletes libID's directory. It is renamed first, so that a
// scheduler that is killed meanwhile leaves no half of it; a link is removed,
// not followed.
func (p *pool) removeWorkDir(libID string) error {
	trash := trashPrefix + libID
	if err := p.root.RemoveAll(trash); err != nil {
		return fmt.Errorf("deleting the work dir of %s: %w", libID, err)
	}
	err := p.root.Rename(libID, trash)
	if errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	}
	if err == nil {
		err = p.root.RemoveAll(trash)
	}
	if err != nil {
		return fmt.Errorf("deleting the work dir of %s: %w", libID, err)
	}
	return nil
}

// emptyTrash deletes what a killed scheduler was about to.
func (p *pool) emptyTrash() {
	names, err := fs.ReadDir(p.root.FS(), ".")
	for _, name := range names {
		if strings.HasPrefix(name.Name(), trashPrefix) {
			err = errors.Join(err, p.root.RemoveAll(name.Name()))
		}
	}
	if err != nil {
		p.log.Warn("emptying the trash", "error", err)
	}
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
	Running  int `json:"running"`
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

// remove ends libID's child, busy or not, and deletes its directory. The error
// is a *poolError (404 where there is neither), or ctx's; the removal goes on
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
	p.stopLocked(e, &poolError{code: codeDeleted, status: http.StatusConflict, message: libID + " was deleted meanwhile"})
	p.mu.Unlock()
	if err := wait(ctx, e.gone); err != nil {
		return err
	}
	switch {
	case errors.Is(e.removeErr, errRemoved):
		return &poolError{code: codeNotFound, status: http.StatusNotFound, message: "there is no daemon and no directory for " + libID}
	case e.removeErr != nil:
		return &poolError{code: codeInternalError, status: http.StatusInternalServerError, message: e.removeErr.Error()}
	}
	return nil
}

// stopAll ends every child and keeps the directories. The pool stays usable.
func (p *pool) stopAll(ctx context.Context) error {
	return p.endAll(ctx, &poolError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: "all daemons were told to stop meanwhile"})
}

func (p *pool) endAll(ctx context.Context, why *poolError) error {
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
// workspace. When ctx ends first, the children are killed. Call it once.
func (p *pool) shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	close(p.closing)
	p.stopSweep()
	err := p.endAll(ctx, errShuttingDown())
	if err != nil {
		p.killNow()
	}
	p.wg.Wait()
	return errors.Join(err, p.lock.Close(), p.root.Close())
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

// buryLocked remembers a death; the oldest memory goes when there are too
// many.
func (p *pool) buryLocked(e *entry, how string) {
	now := time.Now()
	e.history = e.history.after(now, how)
	view := p.viewLocked(e)
	view.Restarts = e.history.total - 1
	p.graves[e.libID] = &grave{view: view, deaths: e.history}
	if len(p.graves) <= maxGraves {
		return
	}
	oldest := e.libID
	for id, g := range p.graves {
		if g.last.Before(p.graves[oldest].last) {
			oldest = id
		}
	}
	delete(p.graves, oldest)
}

// capacityError sends somebody away from a full pool.
func (p *pool) capacityError() *poolError {
	return &poolError{code: codeCapacity, status: http.StatusServiceUnavailable,
		retryAfter: capacityRetryMin + rand.N(capacityRetrySpread),
		message:    fmt.Sprintf("all %d daemons are busy: come back later or raise --max-daemons", p.maxDaemons)}
}
