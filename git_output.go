package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

const (
	// maxGitOutput bounds the standard output that run returns; commands with
	// more output use stream.
	maxGitOutput = 32 << 20
	// maxGitStderr bounds the end of git's standard error that goes into an
	// error (REFERENCE.md).
	maxGitStderr = 4 << 10
	// maxGitLine bounds one line of standard error, because a server can send a
	// line without end.
	maxGitLine = 64 << 10
	// maxSecretText is longer than any credential in any of its forms. So much
	// of the end of a cut line may be the start of a credential.
	maxSecretText = 16 << 10
)

var errGitOutput = errors.New("git's output is too long")

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// cappedBuffer buffers up to maxGitOutput bytes and fails the write of more.
type cappedBuffer struct {
	bytes.Buffer
	full bool
}

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxGitOutput {
		b.full = true
		return 0, errGitOutput
	}
	return b.Buffer.Write(p)
}

// lineWriter splits standard error into lines at CR or LF, calls each for every
// line and keeps the end of those that are not progress.
type lineWriter struct {
	each   func(string)
	redact *redactor

	mu      sync.Mutex
	partial []byte
	kept    []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range p {
		if c == '\r' || c == '\n' {
			w.line()
		} else if len(w.partial) < maxGitLine {
			w.partial = append(w.partial, c)
		}
	}
	return len(p), nil
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line()
}

func (w *lineWriter) line() {
	text := w.redact.text(string(w.partial))
	if len(w.partial) == maxGitLine {
		text = text[:max(len(text)-maxSecretText, 0)]
	}
	w.partial = w.partial[:0]
	// Redact again: removing control characters can turn text into a secret.
	// Trim trailing spaces last, because one may be part of a secret.
	text = strings.TrimRight(w.redact.text(cleanText(text)), " ")
	if text == "" {
		return
	}
	if w.each != nil {
		w.each(text)
	}
	if isProgressLine(text) {
		return
	}
	w.kept = append(append(w.kept, text...), '\n')
	if extra := len(w.kept) - maxGitStderr; extra > 0 {
		w.kept = w.kept[extra:]
	}
}

func (w *lineWriter) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.ToValidUTF8(string(w.kept), "")
}

// isProgressLine reports whether s is a progress counter ("…: 12% (49/402)").
func isProgressLine(s string) bool {
	if strings.HasPrefix(s, "remote: Enumerating objects: ") {
		return true
	}
	_, ok := parseGitProgress(s)
	return ok
}

// streamBuffer is the size of the buffer for git's output.
const streamBuffer = 64 << 10

// errEnough ends a walk or the reading of a command's output early, without a
// failure: what was asked for has been found.
var errEnough = errors.New("enough was read")

// stream runs git and calls read with its output while git runs. If read
// returns before the end, git is stopped; that is an error only if read returns
// one.
func (g *gitRunner) stream(ctx context.Context, c gitCommand, read func(*bufio.Reader) error) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("running git %s: %w", c.args[0], err)
	}
	c.stdout = in // git writes to the pipe directly
	failed := make(chan error, 1)
	// Ends when git ends, which happens when the pipe is closed or run is
	// canceled; the receive below waits for it.
	go func() {
		_, err := g.run(run, c)
		_ = in.Close() // read sees the end
		failed <- err
	}()
	buffered := bufio.NewReaderSize(out, streamBuffer)
	readErr := read(buffered)
	stopped := false
	if readErr == nil {
		_, err := buffered.Peek(1)
		stopped = err == nil
	}
	_ = out.Close() // only read
	if stopped || readErr != nil && !errors.Is(readErr, io.ErrUnexpectedEOF) {
		cancel() // git may work for long before its next write
	}
	runErr := <-failed
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case stopped:
		return nil
	case readErr == nil, runErr != nil && errors.Is(readErr, io.ErrUnexpectedEOF):
		return runErr // git's own error explains truncated output
	}
	return readErr
}

// maxPathField bounds a record with a path; git cannot check out a longer one.
const maxPathField = 64 << 10

// readRecords calls each for every NUL-terminated record. The record is valid
// until each returns.
func readRecords(r *bufio.Reader, each func(record []byte) error) error {
	for {
		record, cut, err := readUntil(r, 0, maxPathField)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if cut {
			return gitFailure(gitTooLarge, "the repository has a path of more than %d bytes", maxPathField)
		}
		if err := each(record); err != nil {
			return err
		}
	}
}

// badOutput returns the error for output of git that does not have the
// documented format.
//
//go:noinline // each copy counts in the size of a release
func badOutput(command string, record []byte) error {
	return fmt.Errorf("reading the output of git %s: unexpected record %.100q", command, bytes.Clone(record))
}
