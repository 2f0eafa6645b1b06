package main

import (
	"context"
	"errors"
	"net/http"
	"time"
)

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
	p.stopLocked(e, errDeleted(libID))
	p.mu.Unlock()
	if err := wait(ctx, e.gone); err != nil {
		return err
	}
	switch {
	case errors.Is(e.removeErr, errRemoved) && e.started.IsZero():
		return &poolError{code: codeNotFound, status: http.StatusNotFound, message: "there is no daemon and no directory for " + libID}
	case e.removeErr != nil && !errors.Is(e.removeErr, errRemoved):
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
