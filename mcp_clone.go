package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"
)

const (
	// cloneWait is how long clone_repo waits before it answers how far the clone is:
	// clients give up after 60 s.
	cloneWait = 45 * time.Second
	// cloneKeep is how long the outcome of a clone is kept for a client that does not
	// come back for it at once.
	cloneKeep = 10 * time.Minute
	// maxMCPClones bounds the clones that run or have an outcome that was not told. A
	// daemon runs four at once.
	maxMCPClones = 256
)

// performWatched is hub.perform that passes the progress of the call to report
// until the answer is there.
func (m *mcpAPI) performWatched(ctx context.Context, c *call, find target, report func(progress)) (result json.RawMessage, err error) {
	watch, stop := m.hub.watch(c)
	defer stop()
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		result, err = m.hub.perform(ctx, c, find)
	}()
	for {
		select {
		case raw := <-watch.newest:
			var p taskProgress
			if decodeParams(raw, &p) == nil {
				report(p.progress)
			}
		case <-done:
			return result, err
		}
	}
}

// mcpClones are the clones that clone_repo began. They outlive the request: a
// client that calls again with the same arguments joins its clone.
type mcpClones struct {
	base context.Context // ends all clones
	end  context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex // guards the fields below, and those of each clone
	closed bool
	byKey  map[[sha256.Size]byte]*mcpClone
}

func newMCPClones() *mcpClones {
	s := &mcpClones{byKey: map[[sha256.Size]byte]*mcpClone{}}
	s.base, s.end = context.WithCancel(context.Background())
	return s
}

// mcpClone is one clone.
type mcpClone struct {
	latest  progress
	changed chan struct{} // closed, and replaced, when latest changes
	done    chan struct{} // closed when it has ended
	result  cloneOutcome
	err     error
	ended   time.Time // zero while it runs
}

// cloneOutcome is a result of vcs/clone.
type cloneOutcome struct {
	Path      string  `json:"path"`
	Branch    *string `json:"branch"`
	Commit    *string `json:"commit"`
	Action    string  `json:"action"`
	IsEmpty   bool    `json:"is_empty"`
	IsShallow bool    `json:"is_shallow"`
}

// close ends the clones and waits for them. No clone begins after it.
func (s *mcpClones) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.wg.Wait()
}

// join returns the clone of the key, and begins it if there is none.
func (s *mcpClones) join(key [sha256.Size]byte, begin func(context.Context, func(progress)) (cloneOutcome, error)) (*mcpClone, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, failure(codeDraining, "the scheduler is stopping")
	}
	if c := s.byKey[key]; c != nil && (c.ended.IsZero() || time.Since(c.ended) < cloneKeep) {
		return c, nil
	}
	maps.DeleteFunc(s.byKey, func(_ [sha256.Size]byte, c *mcpClone) bool {
		return !c.ended.IsZero() && time.Since(c.ended) >= cloneKeep
	})
	if len(s.byKey) >= maxMCPClones {
		return nil, failure(codeServerBusy, "%d clones are running", maxMCPClones)
	}
	c := &mcpClone{changed: make(chan struct{}), done: make(chan struct{})}
	s.byKey[key] = c
	s.wg.Go(func() { // close waits
		result, err := begin(s.base, func(p progress) { s.progressed(c, p) })
		s.mu.Lock()
		defer s.mu.Unlock()
		c.result, c.err, c.ended = result, err, time.Now()
		close(c.done)
	})
	return c, nil
}

func (s *mcpClones) progressed(c *mcpClone, p progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.latest = p
	close(c.changed)
	c.changed = make(chan struct{})
}

// state returns how far a clone is, and a channel that is closed when that
// changes.
func (s *mcpClones) state(c *mcpClone) (progress, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.latest, c.changed
}

// told forgets a clone whose outcome a client is told: the next call with the same
// arguments updates the repository.
func (s *mcpClones) told(key [sha256.Size]byte, c *mcpClone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey[key] == c {
		delete(s.byKey, key)
	}
}

type cloneRepoArgs struct {
	URL   string `json:"url" doc:"https or ssh URL of the repository, without a token"`
	Ref   string `json:"ref,omitempty" doc:"branch, tag or full commit id; default: the remote's default branch"`
	Name  string `json:"name,omitempty" doc:"directory below repos; default: the last part of the URL"`
	Depth *int   `json:"depth,omitempty" doc:"commits of history, 0 for all; default 1"`
}

func runCloneRepo(ctx context.Context, c *mcpCall, args cloneRepoArgs) (*mcpAnswer, error) {
	if args.Depth == nil {
		args.Depth = new(int)
		*args.Depth = 1
	}
	identity, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256(append([]byte(c.target.libID+"\x00"+c.target.machineID+"\x00"), identity...)) // the URL may hold a password
	find := c.target.find()
	clone, err := c.clones.join(key, func(ctx context.Context, report func(progress)) (outcome cloneOutcome, err error) {
		call, err := c.newRPC("vcs/clone", args)
		if err != nil {
			return outcome, err
		}
		result, err := c.performWatched(ctx, call, find, report)
		if err == nil {
			err = decodeJSON(result, &outcome)
		}
		return outcome, err
	})
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(cloneWait)
	defer timer.Stop()
	for {
		latest, changed := c.clones.state(clone)
		c.report(latest.Percent, phaseText(latest))
		select {
		case <-changed:
		case <-clone.done:
			c.clones.told(key, clone)
			if clone.err != nil {
				return nil, clone.err
			}
			return textAnswer(clone.result.text(*args.Depth)), nil
		case <-timer.C:
			return textAnswer(fmt.Sprintf("[not finished: %d %%, %s; the clone goes on. Call clone_repo again with the same arguments to wait for it]", latest.Percent, phaseText(latest))), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// phaseText names the phase of a clone, or says where it waits.
func phaseText(p progress) string { return cmp.Or(p.Message, p.Phase, "starting") }

// text says where the clone is.
func (o cloneOutcome) text(depth int) string {
	text := fmt.Sprintf("[%s %s", o.Action, cleanText(o.Path))
	if o.Branch != nil {
		text += " branch " + cleanText(*o.Branch)
	}
	if o.Commit != nil {
		text += " commit " + *o.Commit
	}
	switch {
	case o.IsEmpty:
		text += "; it has no commits"
	case o.IsShallow && depth == 1:
		text += "; only this commit is there: for history call again with depth 0"
	case o.IsShallow:
		text += "; its history is cut off: for all of it call again with depth 0"
	}
	return text + "]"
}
