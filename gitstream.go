package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// streamBuffer is how much of git's output is read at once.
const streamBuffer = 64 << 10

// errEnough stops a command whose output has told enough.
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

// readField reads up to a NUL byte, which it leaves out; what is longer than
// most is cut and the rest skipped. io.EOF at the end of the output.
func readField(r *bufio.Reader, most int) (field []byte, cut bool, err error) {
	for {
		part, err := r.ReadSlice(0)
		if err == nil {
			part = part[:len(part)-1]
			if field == nil && len(part) <= most {
				return part, cut, nil // valid until the next read
			}
		}
		room := most - len(field)
		if len(part) > room {
			part, cut = part[:room], true
		}
		field = append(field, part...)
		switch {
		case err == nil:
			return field, cut, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(field) > 0:
			return nil, false, io.ErrUnexpectedEOF
		default:
			return nil, false, err
		}
	}
}

// maxPathField bounds a record that holds a path: longer than git can check
// out.
const maxPathField = 64 << 10

// readRecords calls each with every NUL-ended record, which is valid until
// each returns.
func readRecords(r *bufio.Reader, each func(record []byte) error) error {
	for {
		record, cut, err := readField(r, maxPathField)
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
