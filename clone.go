package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"
)

const (
	// maxDepth bounds the depth parameter. A caller that needs more can ask for
	// all with 0.
	maxDepth = 1_000_000
	// maxCloneRun bounds a clone that outlives its callers, and with them their
	// time limits.
	maxCloneRun = 6 * time.Hour
)

var (
	errCloneTooLong  = errors.New("the clone took too long")
	errCloneTooLarge = errors.New("the remote sent too much")
)

// clonerConfig configures a cloner.
type clonerConfig struct {
	git         *gitRunner
	access      *access
	credentials *credentials
	log         *slog.Logger
	base        context.Context // the daemon's context; all clones end with it
	maxFiles    int             // in one tree; as many directories are allowed besides
	maxBytes    int64           // in one tree, and in the answer of a remote
	allowHosts  []string        // patterns of --allow-git-host; empty allows all
	minFreeDisk float64         // percent of the work dir's disk; below it no clone begins
	// predecessorDied reports whether the previous daemon of this work dir was
	// killed, so that its git processes may still run.
	predecessorDied bool
}

// cloner keeps the repositories of <work-dir>/repos.
type cloner struct {
	cfg     clonerConfig
	remotes *remotes
	store   *repoStore // nil without a work dir
	err     error      // why there is no store although there is a work dir
	group   *flightGroup
	places  *clonePlaces
	owner   string
	ended   func(took time.Duration, err error) // called at the end of each run, unless nil
}

// newCloner returns a cloner. It first ends git processes and removes temporary
// files that an earlier daemon left; only one daemon uses a work dir at a time.
func newCloner(cfg clonerConfig) *cloner {
	c := &cloner{
		cfg:     cfg,
		remotes: newRemotes(cfg.git, cfg.access, cfg.credentials, cfg.allowHosts),
		group:   newFlightGroup(cfg.base, 0, 0),
		places:  &clonePlaces{},
	}
	workDir := cfg.access.workDir
	if workDir == "" {
		return c
	}
	c.owner = ownerMark(os.Getpid(), workDir)
	c.remotes.owner = c.owner
	if cfg.predecessorDied { // otherwise skip the search through all processes of the machine
		if err := endGitOrphans(func(dir string) bool { return dir == workDir }); err != nil {
			cfg.log.Warn("ending git processes of an earlier daemon failed", "error", err)
		}
	}
	if c.store, c.err = openRepoStore(cfg.base, workDir); c.err != nil {
		cfg.log.Error("opening the directory of repositories failed", "error", c.err)
		return c
	}
	if err := c.store.clear(); err != nil {
		cfg.log.Warn("removing what an earlier daemon left failed", "error", err)
	}
	return c
}

// wait returns when no clone runs and nothing is left to remove. Running clones
// are stopped only if base has ended.
func (c *cloner) wait() {
	c.group.wait()
	if c.store != nil {
		c.store.close()
	}
}

// methods returns the cloner's rows of the method table.
func (c *cloner) methods() []*method {
	m := newMethod("vcs/clone", "Clone a repository into the work dir, or bring an earlier clone up to date.", c.clone)
	m.timeout, m.clones = cloneMethodTimeout, true
	m.fails(codeNotConfigured, codeAccessDenied, codeSourceNotFound, codeRepoNotFound, codeCommitNotFound, codeGitFailed)
	return []*method{m}
}

type cloneParams struct {
	URL   string `json:"url" doc:"https, http, ssh, user@host:path; file and local paths inside an allowed directory"`
	Name  string `json:"name,omitempty" doc:"below repos/: one to four segments of A-Z a-z 0-9 . _ -; default: the last part of the URL"`
	Ref   string `json:"ref,omitempty" doc:"branch, tag or full commit id; default: the remote's HEAD"`
	Depth *int   `json:"depth,omitempty" doc:"commits of history; 0 for all; default 1"`
}

// cloneAction is the outcome of a vcs/clone.
type cloneAction string

const (
	actionCloned    cloneAction = "cloned"
	actionUpdated   cloneAction = "updated"
	actionUnchanged cloneAction = "unchanged"
	actionRecloned  cloneAction = "recloned"
)

func (cloneAction) values() []string {
	return []string{string(actionCloned), string(actionUpdated), string(actionUnchanged), string(actionRecloned)}
}

type cloneResult struct {
	Path           string      `json:"path" doc:"absolute"`
	Name           string      `json:"name"`
	URL            string      `json:"url" doc:"without credentials"`
	Branch         *string     `json:"branch" doc:"null for a tag or commit"`
	Commit         *string     `json:"commit" doc:"null without commits"`
	PreviousCommit *string     `json:"previous_commit" doc:"commit before an update; null for a fresh clone (cloned, recloned) and if there was none"`
	Action         cloneAction `json:"action"`
	IsEmpty        bool        `json:"is_empty" doc:"true if it has no commits"`
	IsShallow      bool        `json:"is_shallow" doc:"true if the history is truncated"`
	LeftOut        []leftOut   `json:"left_out" doc:"what the commit names and a clone never fetches: submodules (empty directories), filters (the files of Git LFS stay pointers)"`
	DurationMS     int64       `json:"duration_ms"`
}

// clone implements vcs/clone. It begins again when it failed because its source, a
// local clone, was replaced meanwhile.
func (c *cloner) clone(ctx context.Context, p cloneParams) (cloneResult, error) {
	switch {
	case c.err != nil:
		return cloneResult{}, c.err
	case c.store == nil:
		return cloneResult{}, failure(codeNotConfigured, "clones are kept in the work dir: start the daemon with --work-dir")
	}
	for range maxReadTries {
		mark := c.cfg.access.replaced.mark()
		result, err := c.cloneOnce(ctx, p)
		if err == nil || ctx.Err() != nil || !c.cfg.access.replacedAt(mark, localPaths(p.URL)) {
			return result, err
		}
	}
	return cloneResult{}, failure(codeConflict, "the repository at the URL was cloned or updated while it was read: ask again")
}

func (c *cloner) cloneOnce(ctx context.Context, p cloneParams) (cloneResult, error) {
	job, err := c.newJob(p)
	if err != nil {
		return cloneResult{}, err
	}
	value, err := c.group.do(ctx, job.key(), "", func(ctx context.Context) (any, error) {
		began := time.Now()
		result, err := c.run(ctx, job)
		if c.ended != nil {
			c.ended(time.Since(began), err)
		}
		return result, err
	})
	if err != nil {
		return cloneResult{}, err
	}
	return value.(cloneResult), nil
}

// cloneJob is one checked request.
type cloneJob struct {
	remote *remote
	name   string
	ref    string // "" for the default branch
	depth  int    // 0 for all
}

func (c *cloner) newJob(p cloneParams) (cloneJob, error) {
	job := cloneJob{name: p.Name, ref: p.Ref, depth: valueOr(p.Depth, 1)}
	if job.depth < 0 || job.depth > maxDepth {
		return job, invalidParam("depth", "must be 1 to %d, or 0 for all", maxDepth)
	}
	if job.ref != "" {
		if err := checkRef(job.ref); err != nil {
			return job, err
		}
	}
	if job.name != "" {
		if err := checkRepoName(job.name); err != nil {
			return job, err
		}
	}
	var err error
	if job.remote, err = c.remotes.open(p.URL); err != nil {
		return job, err
	}
	if job.name == "" {
		job.name = job.remote.defaultName()
		if checkRepoName(job.name) != nil {
			return job, invalidParam("name", "the URL's last part is no valid name: give a name")
		}
	}
	return job, nil
}

// key is equal for requests that may share one run. The credentials are part of
// it, so that a caller without access does not get the answer of one with access.
func (j cloneJob) key() string {
	digest := sha256.Sum256([]byte(j.remote.username + "\x00" + string(j.remote.password)))
	key, _ := json.Marshal([]any{j.remote.key(), j.remote.String(), j.ref, j.depth, strings.ToLower(j.name), hex.EncodeToString(digest[:]), j.remote.passwordGiven}) // these types always marshal
	return string(key)
}

// run executes one request. No temporary files remain when it returns.
func (c *cloner) run(ctx context.Context, job cloneJob) (cloneResult, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, maxCloneRun, errCloneTooLong)
	defer cancel()
	r := &clonedRepo{cloner: c, cloneJob: job, progress: startProgress(ctx)}
	unlock, err := c.store.lock(ctx, job.name)
	if err != nil {
		return cloneResult{}, err
	}
	defer unlock()
	release, err := c.places.acquire(ctx, func(place string) {
		if r.progress.last.Phase != phaseWaiting {
			c.cfg.log.InfoContext(ctx, "a clone waits for others", "name", job.name, "place", place)
		}
		r.progress.wait(place)
	})
	if err != nil {
		return cloneResult{}, err
	}
	defer release()
	r.progress.waited()
	if err := c.checkDisk(ctx); err != nil {
		return cloneResult{}, err
	}
	result, err := r.cloneOrUpdate(ctx)
	r.discard()
	if err != nil {
		if e, failed := errors.AsType[*gitError](err); isDiskFull(err) || failed && e.reason == gitDiskFull {
			c.store.dropSpares(ctx)
		}
		err = explainClone(job.remote, err)
		c.cfg.log.InfoContext(ctx, "a clone failed", "name", job.name, "url", job.remote.String(), "error", err)
		return cloneResult{}, err
	}
	result.DurationMS = time.Since(began).Milliseconds()
	r.progress.finish()
	return result, nil
}

// explainClone adds to the error of a run what the caller can do about it.
func explainClone(remote *remote, err error) error {
	err = remote.explain(err)
	switch {
	case errors.Is(err, errCloneTooLong):
		return gitFailure(gitTimeout, "%v", errCloneTooLong)
	case isDiskFull(err):
		return gitFailure(gitDiskFull, "the disk of the work dir has no space or no inodes left: free some")
	}
	return err
}

// checkDisk returns an error when a clone could fill the disk: credentials and
// process ids are written there too.
func (c *cloner) checkDisk(ctx context.Context) error {
	disk, err := statDisk(c.cfg.access.workDir)
	if err == nil && disk.freePercent() < max(spareFreeDisk, c.cfg.minFreeDisk) && c.store.dropSpares(ctx) {
		disk, err = statDisk(c.cfg.access.workDir)
	}
	if c.cfg.minFreeDisk <= 0 {
		return nil
	}
	if err != nil {
		c.cfg.log.Warn("checking the free disk space failed", "error", err)
		return nil
	}
	if free := disk.freePercent(); free < c.cfg.minFreeDisk {
		return gitFailure(gitDiskFull, "the disk of the work dir has %.1f %% free, and no clone begins below %g %% (--min-free-disk): free some space", free, c.cfg.minFreeDisk)
	}
	return nil
}
