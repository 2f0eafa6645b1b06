package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// This file is the protocol between a scheduler and its daemon: JSON lines over
// the daemon's standard input and output. The first line of the input is the
// daemon's token, which may be empty; then come ops. The output carries events.
// A daemon ends when its input does, so it never outlives its scheduler.

const (
	// maxControlLine bounds one line. The longest has about 200 bytes; the rest is
	// room for fields of later versions.
	maxControlLine = 8 << 10
	// maxUnreadableLogged is how many unreadable lines of one reader are logged: a
	// program that prints without end must not fill the log.
	maxUnreadableLogged = 10
	// maxTook bounds the duration that a daemon may report for a clone. It only
	// keeps an absurd number out of the metrics.
	maxTook = 365 * 24 * time.Hour
	// maxPlacedClones bounds the clones of one daemon that a line names: more than
	// maxClones, for those of later versions.
	maxPlacedClones = 64
)

// controlVariable, set to controlStdio, puts a daemon's standard input and output
// under the control of a scheduler.
const (
	controlVariable = "C4A_CONTROL"
	controlStdio    = "stdio"
	// deniedVariable holds the absolute paths, in base64 in a JSON array, that
	// the daemon must not read although they may lie below an allowed directory.
	deniedVariable = "C4A_CONTROL_DENIED"
	// clonesVariable, set to anything, makes a clone of the daemon wait for a place
	// in the pool.
	clonesVariable = "C4A_CONTROL_CLONES"
)

// parseDenied reads the value of deniedVariable.
func parseDenied(text string) (paths []string, err error) {
	if text == "" {
		return nil, nil
	}
	var exact [][]byte // a path need not be valid UTF-8
	if err := decodeJSON([]byte(text), &exact); err != nil {
		return nil, fmt.Errorf("reading %s: %w", deniedVariable, err)
	}
	for _, path := range exact {
		paths = append(paths, string(path))
	}
	return paths, nil
}

// formatDenied returns the variable with the paths.
func formatDenied(paths []string) string {
	exact := make([][]byte, 0, len(paths))
	for _, path := range paths {
		exact = append(exact, []byte(path))
	}
	text, _ := json.Marshal(exact) // bytes are always valid
	return deniedVariable + "=" + string(text)
}

// Ops, from the scheduler down.
const (
	opQuiesce = "quiesce" // refuse requests from now on if idle; answered by a status event
	opResume  = "resume"  // take requests again; answered by a status event
	opStatus  = "status"  // answered by a status event
	// opLogLevel sets the level of the daemon's log; answered by a status event.
	opLogLevel = "log_level"
	// opClones has the places of the daemon's clones in the pool. It follows each
	// status with clones, and each change.
	opClones = "clones"
)

// Events, from the daemon up.
const (
	eventReady  = "ready"  // once, after the handshake was accepted
	eventStatus = "status" // the answer to an op, and sent when the number of running requests changes
	eventClone  = "clone"  // a vcs/clone has ended
)

// controlOp is one line from the scheduler. IdleMS belongs to quiesce: the daemon
// agrees only when no request is running and its last one ended at least so many
// milliseconds ago. Ask is the number of the op, which its answer repeats. Level
// belongs to log_level, Places to clones.
type controlOp struct {
	Op     string       `json:"op"`
	IdleMS int64        `json:"idle_ms,omitempty"`
	Ask    int64        `json:"ask,omitempty"`
	Level  string       `json:"level,omitempty"`
	Places []clonePlace `json:"places,omitempty"`
}

// clonePlace is the place of a clone in the pool: it may run at Position 0, and
// otherwise waits as the Position-th of Of.
type clonePlace struct {
	ID       int64 `json:"id"` // given by the daemon
	Position int   `json:"position,omitempty"`
	Of       int   `json:"of,omitempty"`
}

// controlEvent is one line from the daemon. PID and InstanceID belong to ready.
// Active, IdleMS, Quiesced, Ask and Clones belong to status: the running requests,
// the milliseconds since the last one ended, whether the daemon refuses requests,
// the number of the op that it answers, 0 for none, and the ids of the clones that
// have a place in the pool or wait for one. OK and TookMS belong to clone.
type controlEvent struct {
	Event      string
	PID        int
	InstanceID string
	Active     int
	IdleMS     int64
	Quiesced   bool
	Ask        int64
	Clones     []int64
	OK         bool
	TookMS     int64
}

// readyLine, statusLine and cloneLine are the shapes of a controlEvent.
type readyLine struct {
	Event      string `json:"event"`
	PID        int    `json:"pid"`
	InstanceID string `json:"instance_id"`
}

type statusLine struct {
	Event    string  `json:"event"`
	Active   int     `json:"active"`
	IdleMS   int64   `json:"idle_ms"`
	Quiesced bool    `json:"quiesced"`
	Ask      int64   `json:"ask,omitempty"`
	Clones   []int64 `json:"clones,omitempty"`
}

type cloneLine struct {
	Event  string `json:"event"`
	OK     bool   `json:"ok"`
	TookMS int64  `json:"took_ms"`
}

// MarshalJSON writes the keys of the event's kind and no others.
func (e controlEvent) MarshalJSON() ([]byte, error) {
	switch e.Event {
	case eventReady:
		return json.Marshal(readyLine{e.Event, e.PID, e.InstanceID})
	case eventClone:
		return json.Marshal(cloneLine{e.Event, e.OK, e.TookMS})
	}
	return json.Marshal(statusLine{e.Event, e.Active, e.IdleMS, e.Quiesced, e.Ask, e.Clones})
}

// UnmarshalJSON reads an event of any kind and refuses numbers that no daemon
// sends.
func (e *controlEvent) UnmarshalJSON(data []byte) error {
	var line struct {
		Event      string  `json:"event"`
		PID        int     `json:"pid"`
		InstanceID string  `json:"instance_id"`
		Active     int     `json:"active"`
		IdleMS     int64   `json:"idle_ms"`
		Quiesced   bool    `json:"quiesced"`
		Ask        int64   `json:"ask"`
		Clones     []int64 `json:"clones"`
		OK         bool    `json:"ok"`
		TookMS     int64   `json:"took_ms"`
	}
	if err := decodeJSON(data, &line); err != nil {
		return err
	}
	if line.Event == "" {
		return errors.New("no event")
	}
	if line.Active < 0 || line.IdleMS < 0 || line.TookMS < 0 || line.TookMS > maxTook.Milliseconds() || len(line.Clones) > maxPlacedClones {
		return errors.New("a number is out of range")
	}
	*e = controlEvent(line)
	return nil
}

// errControlLine reports a line that is longer than maxControlLine.
var errControlLine = errors.New("the line is too long")

// controlReader reads the lines of one side. One goroutine uses it.
type controlReader struct {
	r          *bufio.Reader
	log        *slog.Logger
	unreadable int // lines
}

func newControlReader(r io.Reader, log *slog.Logger) *controlReader {
	return &controlReader{r: bufio.NewReader(r), log: log}
}

// line returns the next line without its end, valid until the next call. A line
// that is too long is skipped with errControlLine. A last line without an end
// counts.
func (c *controlReader) line() ([]byte, error) {
	line, cut, err := readUntil(c.r, '\n', maxControlLine)
	switch {
	case cut:
		return nil, errControlLine
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	}
	return bytes.TrimSuffix(line, []byte{'\r'}), nil
}

// token reads the first line of a daemon's input.
func (c *controlReader) token() (secret, error) {
	line, err := c.line()
	if err != nil {
		return "", fmt.Errorf("reading the token from the scheduler: %w", err)
	}
	return secret(line), nil
}

// ops calls each with every op, unknown ones too, until the input ends. The error
// is that of the reading; the end of the input is none.
func (c *controlReader) ops(each func(controlOp)) error {
	return c.values(func(line []byte) error {
		var op controlOp
		if err := decodeJSON(line, &op); err != nil {
			return err
		}
		if op.Op == "" || op.IdleMS < 0 {
			return errors.New("no op")
		}
		each(op)
		return nil
	})
}

// events calls each with every event until the output ends. The error is that of
// the reading; the end of the output is none.
func (c *controlReader) events(each func(controlEvent)) error {
	return c.values(func(line []byte) error {
		var event controlEvent
		if err := decodeJSON(line, &event); err != nil {
			return err
		}
		each(event)
		return nil
	})
}

// values calls each with every line that is not empty. A line that is too long, or
// that each refuses, is ignored and logged without its content: it may be
// anything, a secret too.
func (c *controlReader) values(each func([]byte) error) error {
	for {
		line, err := c.line()
		if err == nil && len(line) > 0 {
			err = each(line)
			if err == nil {
				continue
			}
		} else if err != nil && !errors.Is(err, errControlLine) {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err == nil {
			continue // an empty line
		}
		c.unreadable++
		if c.unreadable <= maxUnreadableLogged {
			c.log.Warn("an unreadable control line was ignored", "bytes", len(line), "error", controlFault(err), "last_logged", c.unreadable == maxUnreadableLogged)
		}
	}
}

// controlFault returns why a line was ignored, without its content.
func controlFault(err error) string {
	if errors.Is(err, errControlLine) {
		return errControlLine.Error()
	}
	return "not a control message"
}

// writeControl writes v as one line in one write.
func writeControl(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing a control line: %w", err)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("writing a control line: %w", err)
	}
	return nil
}
