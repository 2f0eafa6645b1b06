package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxUnwritten bounds what waits for a reader of standard error: some 5,000
	// lines, enough for a terminal that was paused for a moment.
	maxUnwritten = 1 << 20
	// flushTime is how long an ending program waits for the reader of its last
	// lines.
	flushTime = 200 * time.Millisecond
)

// errLinesDropped reports lines that were dropped because nobody reads the
// earlier ones.
var errLinesDropped = errors.New("the line was dropped: the lines before it are not read")

// lineQueue writes lines to a stream that may block for any length of time: a
// pipe that nobody reads, a paused terminal, a dead network file system. Write
// returns at once. What exceeds maxUnwritten is dropped and counted.
type lineQueue struct {
	out  io.Writer
	more chan struct{} // 1-buffered; wakes run
	done chan struct{} // closed when run has ended

	mu      sync.Mutex
	waiting []byte
	dropped int // lines since the last call of takeDropped
	ever    int64
	// flushing are closed when nothing is left to be written.
	flushing []chan struct{}
	closed   bool
}

// newLineQueue starts a queue in front of out; close ends it.
func newLineQueue(out io.Writer) *lineQueue {
	q := &lineQueue{out: out, more: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run() // close waits for it
	return q
}

// Write queues whole lines. It returns errLinesDropped if they do not fit.
func (q *lineQueue) Write(lines []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.waiting)+len(lines) > maxUnwritten {
		q.dropLocked(bytes.Count(lines, []byte{'\n'}))
		return 0, errLinesDropped
	}
	q.waiting = append(q.waiting, lines...)
	wake(q.more)
	return len(lines), nil
}

// run writes what was queued until the queue is closed and empty.
func (q *lineQueue) run() {
	defer close(q.done)
	for {
		lines, written, closed := q.take()
		if len(lines) == 0 {
			for _, waiter := range written {
				close(waiter)
			}
			if closed {
				return
			}
			<-q.more
			continue
		}
		if n, err := q.out.Write(lines); err != nil {
			q.addDropped(bytes.Count(lines[n:], []byte{'\n'})) // the disk is full, or the reader has gone
		}
	}
}

// take returns what is to be written or, if that is nothing, the channels of flush.
func (q *lineQueue) take() (lines []byte, written []chan struct{}, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if lines, q.waiting = q.waiting, nil; len(lines) == 0 {
		written, q.flushing = q.flushing, nil
	}
	return lines, written, q.closed
}

// flush waits until everything that was queued is written, at most for limit.
func (q *lineQueue) flush(limit time.Duration) {
	written := make(chan struct{})
	q.mu.Lock()
	q.flushing = append(q.flushing, written)
	q.mu.Unlock()
	wake(q.more)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-written:
	case <-q.done:
	case <-timer.C:
	}
}

// takeDropped returns the number of lines dropped since its last call.
func (q *lineQueue) takeDropped() (lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, q.dropped = q.dropped, 0
	return lines
}

func (q *lineQueue) addDropped(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(lines)
}

func (q *lineQueue) dropLocked(lines int) {
	q.dropped += lines
	q.ever += int64(lines)
}

// droppedEver returns how many lines were dropped since the start.
func (q *lineQueue) droppedEver() int64 {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ever
}

// restoreDropped gives back what takeDropped has taken.
func (q *lineQueue) restoreDropped(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped += lines
}

// close refuses further lines and waits until the queued ones are written, at
// most for limit: run may stay blocked in a write that only the end of the
// process interrupts.
func (q *lineQueue) close(limit time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	wake(q.more)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-q.done:
	case <-timer.C:
	}
}

// queueHandler is the handler of a log that is written to a lineQueue. The first
// record after dropped ones has their number.
type queueHandler struct {
	slog.Handler
	queue *lineQueue
}

func (h queueHandler) Handle(ctx context.Context, r slog.Record) error {
	dropped := h.queue.takeDropped()
	if dropped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("dropped_lines", dropped))
	}
	err := h.Handler.Handle(ctx, r)
	if err != nil {
		h.queue.restoreDropped(dropped) // Write has counted this one
	}
	return err
}

func (h queueHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return queueHandler{h.Handler.WithAttrs(attrs), h.queue}
}

func (h queueHandler) WithGroup(name string) slog.Handler {
	return queueHandler{h.Handler.WithGroup(name), h.queue}
}

// wake wakes the goroutine that reads from a channel with a buffer of one.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // a wake-up is already pending
	}
}
