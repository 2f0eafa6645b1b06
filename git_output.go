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
	// maxGitOutput bounds what is kept of a command's standard output; more
	// must be streamed.
	maxGitOutput = 32 << 20
	// maxGitStderr is the end of git's standard error that goes into an error
	// (REFERENCE.md).
	maxGitStderr = 4 << 10
	// maxGitLine bounds one line of standard error: a server can send one
	// without end.
	maxGitLine = 64 << 10
	// maxSecretText is more than the longest credential has in any of its forms:
	// so much of a line that was cut may be the beginning of one.
	maxSecretText = 16 << 10
)

var errGitOutput = errors.New("git's output is too long")

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// cappedBuffer keeps up to maxGitOutput bytes and refuses more.
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

// lineWriter cuts standard error into lines at CR or LF, hands each on and
// keeps the end of what is no progress.
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
	// Again: without what cleaning takes out of it a text may be a secret. The
	// blanks at the end are cut last: one may belong to a secret.
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

// isProgressLine tells a counter ("…: 12% (49/402)") from a message.
func isProgressLine(s string) bool {
	if strings.HasPrefix(s, "remote: Enumerating objects: ") {
		return true
	}
	_, ok := parseGitProgress(s)
	return ok
}

// streamBuffer is how much of git's output is read at once.
const streamBuffer = 64 << 10

// errEnough ends a walk or the reading of a command's output early, without a
// failure: what was asked for has been found.
var errEnough = errors.New("enough was read")

// stream runs git and hands its output to read while it comes. When read
// returns before the end git is stopped; that is no error unless read says so.
func (g *gitRunner) stream(ctx context.Context, c gitCommand, read func(*bufio.Reader) error) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("running git %s: %w", c.args[0], err)
	}
	c.stdout = in // git's own: nothing in between copies
	failed := make(chan error, 1)
	// Ends with git, which ends when the pipe is closed or run is cancelled; the
	// receive below waits for it.
	go func() {
		_, err := g.run(run, c)
		_ = in.Close() // the reader sees the end
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
		cancel() // it may compute for long before it writes again
	}
	runErr := <-failed
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case stopped:
		return nil
	case readErr == nil, runErr != nil && errors.Is(readErr, io.ErrUnexpectedEOF):
		return runErr // a torn output has its reason in what git said
	}
	return readErr
}

// maxPathField bounds a record that holds a path: longer than git can check
// out.
const maxPathField = 64 << 10

// readRecords calls each with every NUL-ended record, which is valid until
// each returns.
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

// badOutput is the error for an output of git that does not look as its manual
// says.
func badOutput(command string, record []byte) error {
	return fmt.Errorf("reading the output of git %s: unexpected record %.100q", command, bytes.Clone(record))
}
