package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// sameSignal is the time within which a further signal counts as the same
	// one: timeout(1) and a terminal signal a program both by itself and as a
	// member of its group.
	sameSignal = 100 * time.Millisecond
	// forceTime is how long the program may take to end after the second signal.
	// With flushTime it is less than the promised second.
	forceTime = 500 * time.Millisecond
	// closeTime is how long the program may take to close what it has open, after
	// running requests had their time. Git and the link take at most three
	// seconds; more is a disk or a file system that does not answer.
	closeTime = 5 * time.Second
	// maxStacks bounds the stacks that SIGQUIT prints: some hundred goroutines,
	// and half of what waits for the reader of standard error.
	maxStacks = maxUnwritten / 2
)

// errQuit reports that SIGQUIT ended the program.
var errQuit = errors.New("ended by SIGQUIT")

// errSecondSignal reports that a second signal stopped the program before its
// running requests had ended.
var errSecondSignal = errors.New("stopped at once by a second signal")

// signalError is the end of a program by a signal.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string { return fmt.Sprintf("stopped by a signal (%v)", e.signal) }

// status returns the exit status that shells show for the signal.
func (e *signalError) status() int {
	if number, ok := e.signal.(syscall.Signal); ok {
		return 128 + int(number)
	}
	return exitFailure
}

// signalWatch turns signals into the end of two contexts, and ends the process
// itself when the program does not.
type signalWatch struct {
	// stopping ends with the first signal, or by stop; its cause is the
	// *signalError.
	stopping context.Context
	stop     context.CancelCauseFunc
	// force ends with the second signal; its cause is errSecondSignal.
	force context.Context

	forceStop context.CancelCauseFunc
	quit      bool // SIGQUIT has ended run
	ended     chan struct{}
	wg        sync.WaitGroup
}

// signalPlan says how a program ends that does not end by itself.
type signalPlan struct {
	name   string        // the name of the program
	limit  time.Duration // from the first signal to the end
	kill   func()        // kills the processes that the program has started
	isCall bool          // the exit status is that of the signal
}

func newSignalWatch() *signalWatch {
	w := &signalWatch{ended: make(chan struct{})}
	w.stopping, w.stop = context.WithCancelCause(context.Background())
	w.force, w.forceStop = context.WithCancelCause(context.Background())
	return w
}

// watchSignals watches the signals until close.
func (p *program) watchSignals(plan signalPlan) *signalWatch {
	w := newSignalWatch()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, append(stopSignals(), syscall.SIGQUIT)...)
	w.wg.Go(func() { // ends with close
		defer signal.Stop(signals)
		if w.run(signals, plan.limit) {
			p.abort(plan, w)
		}
	})
	return w
}

// run returns when the program has ended, or with overdue when it has to be
// ended.
func (w *signalWatch) run(signals <-chan os.Signal, limit time.Duration) (overdue bool) {
	var first time.Time
	var late <-chan time.Time
	stopping := w.stopping.Done()
	for {
		select {
		case s := <-signals:
			switch {
			case s == syscall.SIGQUIT:
				w.quit = true
				return true
			case first.IsZero():
				first = time.Now()
				w.stop(&signalError{s})
			case time.Since(first) >= sameSignal && w.force.Err() == nil:
				w.forceStop(errSecondSignal)
				late = time.After(forceTime)
			}
		case <-stopping:
			stopping = nil
			if late == nil {
				late = time.After(limit)
			}
		case <-late:
			return true
		case <-w.ended:
			return false
		}
	}
}

// close ends the watch.
func (w *signalWatch) close() {
	close(w.ended)
	w.wg.Wait()
	w.stop(nil)
	w.forceStop(nil)
}

// abort ends the process, whatever its goroutines wait for. After SIGQUIT it prints
// what they wait for, as the Go runtime would; the runtime itself would leave
// behind what the program has started.
func (p *program) abort(plan signalPlan, w *signalWatch) {
	plan.kill()
	err := context.Cause(w.force)
	switch {
	case w.quit:
		stacks := make([]byte, maxStacks)
		_, _ = p.console.Write(append(stacks[:runtime.Stack(stacks, true)], '\n')) // counted if dropped
		err = errQuit
		if plan.isCall {
			err = &signalError{syscall.SIGQUIT}
		}
	case plan.isCall:
		err = context.Cause(w.stopping)
	case err == nil:
		const why = "stopped without waiting any longer for work that does not end"
		if json := p.jsonLog(); json != nil {
			json.Warn(why)
		} else {
			fmt.Fprintf(p.console, "%s: %s\n", plan.name, why)
		}
	}
	status := p.exit(plan.name, err)
	p.console.close(flushTime)
	os.Exit(status)
}
