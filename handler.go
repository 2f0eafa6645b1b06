package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxHandlerLine bounds a line of progress; a longer one is ignored.
	maxHandlerLine = 4 << 10
	// maxHandlerText bounds the texts taken from a program: the last line of
	// its standard error, a progress message.
	maxHandlerText = 500
)

var errHandlerOutput = errors.New("the program wrote more than fits into a message")

// commandMethod implements a method by running a program: it gets the params on
// standard input, writes the result to standard output and can report progress
// on file descriptor 3.
type commandMethod struct {
	handlerSpec
	environ   []string
	maxOutput int
	redact    *redactor
	log       *slog.Logger
	started   *processes
}

// newCommandMethods returns the method table rows of the handlers. A program
// inherits none of the daemon's own variables, because they can contain its
// token.
func newCommandMethods(specs []handlerSpec, environ []string, maxOutput int, log *slog.Logger, started *processes) []*method {
	passed := make([]string, 0, len(environ))
	for _, variable := range environ {
		name, _, _ := strings.Cut(strings.ToUpper(variable), "=")
		if !strings.HasPrefix(name, "C4A_") && name != "NOTIFY_SOCKET" {
			passed = append(passed, variable)
		}
	}
	var methods []*method
	for _, spec := range specs {
		c := &commandMethod{handlerSpec: spec, environ: passed, maxOutput: maxOutput, redact: newRedactor(), log: log, started: started}
		methods = append(methods, newMethod(spec.name, "Run "+filepath.Base(spec.args[0])+" with the params as input; its output is the result.", c.run))
	}
	return methods
}

// run runs the program once. When it returns, no process is left in the
// program's process group.
func (c *commandMethod) run(ctx context.Context, params json.RawMessage) (json.RawMessage, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = c.environ
	cmd.Stdin = io.MultiReader(bytes.NewReader(params), strings.NewReader("\n")) // a newline, for programs that read a line
	var out bytes.Buffer
	cmd.Stdout = writerFunc(func(p []byte) (int, error) {
		if out.Len()+len(p) > c.maxOutput {
			cancel(errHandlerOutput)
			return 0, errHandlerOutput
		}
		return out.Write(p)
	})
	stderr := &lineWriter{redact: c.redact, each: func(line string) { c.log.Debug("a handler wrote to standard error", "method", c.name, "line", line) }}
	cmd.Stderr = stderr
	awaitProgress, err := c.passProgress(ctx, cmd)
	if err != nil {
		return nil, err
	}
	defer processRuns(ctx)()
	p, err := c.started.start(cmd)
	if err == nil {
		select {
		case <-p.done:
		case <-ctx.Done():
			p.stop(gitStopGrace)
		}
	}
	awaitProgress()
	if err != nil {
		return nil, c.failure("%s could not be started: %v", filepath.Base(c.args[0]), errors.Unwrap(err))
	}
	stderr.flush()
	return c.outcome(ctx, p, out.Bytes(), stderr.tail())
}

// outcome returns the result of a run, or the error.
func (c *commandMethod) outcome(ctx context.Context, p *process, out []byte, stderr string) (json.RawMessage, error) {
	switch {
	case errors.Is(context.Cause(ctx), errHandlerOutput):
		return nil, c.failure("the program wrote more than %d bytes (--max-message)", c.maxOutput)
	case ctx.Err() != nil && p.err != nil:
		return nil, context.Cause(ctx)
	case !p.cmd.ProcessState.Success():
		message := p.cmd.ProcessState.String() // "exit status 3", "signal: killed"
		if line := lastLine(stderr); line != "" {
			message += ": " + line
		}
		return nil, c.failure("%s", message).with("exit_code", p.cmd.ProcessState.ExitCode())
	case p.err != nil && !errors.Is(p.err, exec.ErrWaitDelay): // a process that it left behind kept a pipe open
		return nil, fmt.Errorf("reading the output of %s: %w", c.args[0], p.err)
	}
	out = bytes.TrimSpace(out)
	switch {
	case len(out) == 0:
		return nil, c.failure("the program wrote nothing: it must write one JSON value to its standard output")
	case !utf8.Valid(out) || !json.Valid(out):
		return nil, c.failure("the program did not write one JSON value to its standard output")
	}
	return out, nil
}

// failure returns the error -32603 with the name of the method.
func (c *commandMethod) failure(format string, args ...any) *rpcError {
	return &rpcError{Code: codeInternal, Message: c.name + ": " + fmt.Sprintf(format, args...)}
}

// passProgress gives cmd a descriptor for its progress, where the system
// supports it. The returned function must be called after the process has ended
// or failed to start; it waits for the last report.
func (c *commandMethod) passProgress(ctx context.Context, cmd *exec.Cmd) (await func(), err error) {
	if !passesDescriptors {
		return func() {}, nil
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", c.args[0], err)
	}
	cmd.ExtraFiles = []*os.File{writer}
	done := make(chan struct{})
	go func() { // ends when all writers have closed, or await has closed the reader
		defer close(done)
		c.readProgress(ctx, reader)
	}()
	return func() {
		_ = writer.Close()
		timer := time.NewTimer(pipeDelay) // a process that left the group may hold the pipe open
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
		}
		_ = reader.Close() // only read
		<-done
	}, nil
}

// readProgress reports the progress of each line {"percent":…,"message":…} and
// ignores other lines.
func (c *commandMethod) readProgress(ctx context.Context, r io.Reader) {
	lines := bufio.NewReaderSize(r, maxHandlerLine)
	for {
		line, cut, err := readUntil(lines, '\n', maxHandlerLine)
		if !cut {
			c.reportLine(ctx, line)
		}
		if err != nil {
			return
		}
	}
}

func (c *commandMethod) reportLine(ctx context.Context, line []byte) {
	var report struct {
		Percent float64 `json:"percent"`
		Message string  `json:"message"`
	}
	if decodeJSON(line, &report) != nil {
		return
	}
	reportProgress(ctx, progress{
		Percent: int(min(max(report.Percent, 0), 100)),
		Message: shorten(c.redact.text(cleanText(report.Message))),
	})
}

// lastLine returns the last line of text, shortened.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return shorten(text[strings.LastIndexByte(text, '\n')+1:])
}

func shorten(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxHandlerText)], "")
}

// maxHandlers bounds the --handler flags, because the handshake lists every
// method.
const maxHandlers = 100

// handlerSpec is one --handler: a method and the program that implements it.
type handlerSpec struct {
	name string   // namespace/method
	args []string // args[0] is the program's absolute path
}

// handlerFlag is the value of --handler ns/method=COMMAND, which can be
// repeated. In the environment variable each one is on its own line.
type handlerFlag []handlerSpec

func (h *handlerFlag) String() string {
	var names []string
	for _, spec := range *h {
		names = append(names, spec.name)
	}
	return strings.Join(names, ",")
}

func (h *handlerFlag) Set(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		spec, err := parseHandler(line)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(*h, func(other handlerSpec) bool { return other.name == spec.name }) {
			return fmt.Errorf("%s has two commands", spec.name)
		}
		if len(*h) >= maxHandlers {
			return fmt.Errorf("more than %d handlers", maxHandlers)
		}
		*h = append(*h, spec)
	}
	return nil
}

// parseHandler parses ns/method=COMMAND and finds the program.
func parseHandler(text string) (handlerSpec, error) {
	name, command, ok := strings.Cut(text, "=")
	if !ok {
		return handlerSpec{}, errors.New("must be namespace/method=COMMAND")
	}
	if err := checkHandlerName(name); err != nil {
		return handlerSpec{}, err
	}
	args, err := splitCommand(command)
	switch {
	case err != nil:
		return handlerSpec{}, fmt.Errorf("parsing the command of %s: %w", name, err)
	case len(args) == 0 || args[0] == "":
		return handlerSpec{}, fmt.Errorf("the command of %s is empty", name)
	}
	// Resolve the path once, here: a program that appears in the PATH later
	// cannot take its place.
	path, err := exec.LookPath(args[0])
	if err != nil {
		return handlerSpec{}, fmt.Errorf("finding the command of %s: %w", name, err)
	}
	if args[0], err = filepath.Abs(path); err != nil {
		return handlerSpec{}, fmt.Errorf("finding the command of %s: %w", name, err)
	}
	return handlerSpec{name, args}, nil
}

// checkHandlerName returns an error for a name that is not a valid method name,
// is built in, or is reserved for the protocol.
func checkHandlerName(name string) error {
	const maxName = 128 // bytes; the handshake lists all names
	if namespace, _, _ := strings.Cut(name, "/"); namespace == "daemon" || namespace == "task" || strings.HasPrefix(name, "rpc.") {
		return fmt.Errorf("%s: rpc., daemon/ and task/ are reserved for the protocol", name)
	}
	if namespace, method, _ := strings.Cut(name, "/"); len(name) > maxName || !isCamelCase(namespace) || !isCamelCase(method) {
		return fmt.Errorf("%.*q is not a method name: it must be namespace/camelCase with only letters and digits, such as lint/runAll", maxName, name)
	}
	if slices.ContainsFunc(builtinMethods(), func(m *method) bool { return m.name == name }) {
		return fmt.Errorf("%s is built in and cannot be replaced", name)
	}
	return nil
}

// isCamelCase reports whether s is a lower-case letter and then letters and
// digits.
func isCamelCase(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 || !isAlphanumeric(byte(r)) }) < 0
}

// splitCommand splits a command at spaces. Quotes, single or double, keep a
// word together and are the only special characters; no shell is involved.
func splitCommand(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun, quote := false, rune(0)
	for _, c := range text {
		switch {
		case c == 0:
			return nil, errors.New("the text contains a NUL byte")
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"' || c == '\'':
			quote, begun = c, true
		case c == ' ' || c == '\t':
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}
