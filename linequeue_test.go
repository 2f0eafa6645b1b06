package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// blockedWriter is a writer that blocks until it is opened.
type blockedWriter struct {
	opened chan struct{}
	bytes.Buffer
}

func (r *blockedWriter) Write(p []byte) (int, error) {
	<-r.opened
	return r.Buffer.Write(p)
}

// TestUnreadLogLinesAreDroppedAndCounted: nobody waits for the reader of the log,
// and the first line that gets through after dropped ones has their number.
func TestUnreadLogLinesAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &blockedWriter{opened: make(chan struct{})}
		queue := newLineQueue(out)
		log := slog.New(queueHandler{slog.NewTextHandler(queue, nil), queue}).With("part", "x")
		line := strings.Repeat("l", 1000)
		log.Info("first")
		synctest.Wait() // it is being written
		const lines = 2000
		for range lines {
			log.Info(line)
		}
		close(out.opened)
		synctest.Wait() // the queue is empty
		log.Info("after the gap")
		log.Info("last")
		queue.close(time.Hour)

		got := strings.Split(strings.TrimSpace(out.String()), "\n")
		kept := strings.Count(out.String(), line)
		if kept == 0 || kept > maxUnwritten/len(line) || kept == lines {
			t.Errorf("got %d of %d lines, want those that fit into %d bytes", kept, lines, maxUnwritten)
		}
		gap := got[len(got)-2]
		if want := "dropped_lines=" + strconv.Itoa(lines-kept); !strings.Contains(gap, "after the gap") || !strings.Contains(gap, want) {
			t.Errorf("the line after the gap is %q, want %q in it", gap, want)
		}
		if last := got[len(got)-1]; strings.Contains(last, "dropped_lines") {
			t.Errorf("the next line is %q, want no number in it", last)
		}
	})
}

// TestClosedQueue: a queue whose reader is gone for good does not keep its owner,
// and lines that could not be written count as dropped.
func TestClosedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &blockedWriter{opened: make(chan struct{})}
		queue := newLineQueue(out)
		if _, err := queue.Write([]byte("a\n")); err != nil {
			t.Errorf("writing: got %v, want no error", err)
		}
		begin := time.Now()
		queue.close(flushTime)
		if took := time.Since(begin); took != flushTime {
			t.Errorf("closing took %v, want %v", took, flushTime)
		}
		if _, err := queue.Write([]byte("b\n")); !errors.Is(err, errLinesDropped) {
			t.Errorf("writing after close: got %v, want %v", err, errLinesDropped)
		}
		close(out.opened)
		<-queue.done
		if out.String() != "a\n" {
			t.Errorf("got %q written, want the line before close", out.String())
		}
	})
	full := newLineQueue(writerFunc(func([]byte) (int, error) { return 0, errors.New("disk full") }))
	_, _ = full.Write([]byte("a\nb\n")) // the queue takes it
	full.close(time.Minute)
	if got := full.takeDropped(); got != 2 {
		t.Errorf("got %d lines dropped by a full disk, want 2", got)
	}
}
