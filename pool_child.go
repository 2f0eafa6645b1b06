package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	logFileName = "daemon.log"
	// maxChildLog is the size at which a child's log is cut to its newest half.
	maxChildLog = 1 << 20
	// lastLogLines and maxLastLog bound how much of a crashed child's log goes into
	// the error.
	lastLogLines = 20
	maxLastLog   = 2 << 10
	// controlWriteLimit bounds one write to a child: when the child does not read,
	// its pipe is full after 64 KiB.
	controlWriteLimit = time.Second
	// eventQueue lets a child send a few events while its owner is busy.
	eventQueue = 16
)

// child is a started daemon, as the owner of its entry uses it. Only the owner
// calls its methods.
type child interface {
	pid() int
	events() <-chan controlEvent // closed when the child's output ends
	send(op controlOp) error     // returns within controlWriteLimit
	done() <-chan struct{}       // closed when the child is reaped
	terminate()
	kill()
	trimLog() bool     // to be called every second or so; reports whether the log was too long
	lastLines() string // the end of its log, without secrets
	// close releases what belonged to the child, after done. It returns how the
	// child ended, as a clause, and its lastLines.
	close() (exit, lastLines string)
}

// childSpec says how to start a child.
type childSpec struct {
	libID   string
	bin     string   // the program
	args    []string // without argv[0]
	env     []string
	dir     string // its work dir, which exists
	token   secret // the first line of its standard input
	log     *slog.Logger
	started *processes
}

// daemonProcess is a real child.
type daemonProcess struct {
	*process
	spec   childSpec
	stdin  *os.File // write end: the child ends when it is closed
	stdout *os.File // read end
	logged *os.File // daemon.log, which is the child's standard error
	since  int64    // where this child's lines begin in logged
	queue  chan controlEvent
	quit   chan struct{} // closed by close
	reader sync.WaitGroup
	killed bool // by us; any other SIGKILL is probably for lack of memory
}

// startChild starts the program as a session leader in its work dir, records
// it in daemon.pid and only then gives it its token.
func startChild(spec childSpec) (_ child, err error) {
	d := &daemonProcess{spec: spec, queue: make(chan controlEvent, eventQueue), quit: make(chan struct{})}
	if d.logged, d.since, err = openChildLog(spec.dir); err != nil {
		return nil, err
	}
	// Not the pipes of os/exec: with them Wait lasts until everything that inherited
	// them has ended, not only the child.
	childIn, stdin, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a pipe: %w", err), d.logged.Close())
	}
	stdout, childOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a pipe: %w", err), d.logged.Close(), childIn.Close(), stdin.Close())
	}
	d.stdin, d.stdout = stdin, stdout

	cmd := exec.Command(spec.bin, spec.args...)
	cmd.Args[0] = "c4a-daemon" // one binary may be both programs
	cmd.Env, cmd.Dir = spec.env, spec.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = childIn, childOut, d.logged
	setSession(cmd)
	d.process, err = spec.started.start(cmd)
	_, _ = childIn.Close(), childOut.Close() // the child has its own
	if err != nil {
		return nil, errors.Join(err, d.stdin.Close(), d.stdout.Close(), d.logged.Close())
	}
	// Ends when the child's output does, or when close closes it.
	d.reader.Go(d.read)

	if err := writePIDFile(spec.dir, d.pid()); err != nil && !d.endedItself(err) {
		d.kill()
		<-d.process.done
		d.close()
		return nil, err
	}
	_ = d.stdin.SetWriteDeadline(time.Now().Add(controlWriteLimit)) // pipes have deadlines
	if _, err := d.stdin.Write([]byte(string(spec.token) + "\n")); err != nil {
		// It has closed its input, or ended. Its owner sees to the rest.
		spec.log.Warn("a daemon did not take its token", "lib_id", spec.libID, "error", err)
	}
	return d, nil
}

// endedItself reports whether err comes from a child that ended by itself before
// it could be recorded. Then its end is the better error.
func (d *daemonProcess) endedItself(err error) bool {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
		return false
	}
	select {
	case <-d.process.done:
		return true
	case <-time.After(pipeDelay):
		return false
	}
}

// openChildLog opens daemon.log in dir for appending and returns its size. A
// symlink out of dir is not followed.
func openChildLog(dir string) (*os.File, int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, 0, fmt.Errorf("opening the work dir: %w", err)
	}
	defer root.Close()
	f, err := root.OpenFile(logFileName, os.O_RDWR|os.O_APPEND|os.O_CREATE|openNonblock, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("opening the daemon's log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New(logFileName + " is not a regular file")
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening the daemon's log: %w", err), f.Close())
	}
	return f, info.Size(), nil
}

// read queues the child's events until its output ends.
func (d *daemonProcess) read() {
	defer close(d.queue)
	err := newControlReader(d.stdout, d.spec.log.With("lib_id", d.spec.libID)).events(func(event controlEvent) {
		select {
		case d.queue <- event:
		case <-d.quit:
		}
	})
	if err != nil && !errors.Is(err, os.ErrClosed) {
		d.spec.log.Warn("reading a daemon's output failed", "lib_id", d.spec.libID, "error", err)
	}
}

func (d *daemonProcess) events() <-chan controlEvent { return d.queue }
func (d *daemonProcess) done() <-chan struct{}       { return d.process.done }

func (d *daemonProcess) kill() {
	d.killed = true
	d.process.kill()
}

func (d *daemonProcess) send(op controlOp) error {
	_ = d.stdin.SetWriteDeadline(time.Now().Add(controlWriteLimit)) // pipes have deadlines
	return writeControl(d.stdin, op)
}

// trimLog cuts a log that is longer than maxChildLog to the whole lines of its
// newest half. The child writes with O_APPEND, so its next line goes to the end
// of what was kept.
func (d *daemonProcess) trimLog() bool {
	info, err := d.logged.Stat()
	if err != nil || info.Size() <= maxChildLog {
		return false
	}
	tail := tailOf(d.logged, info.Size(), maxChildLog/2)
	// Take along what was written meanwhile, up to a bound. What is written between
	// the last read and the truncation is lost.
	buf := make([]byte, maxChildLog/8)
	for at, more := info.Size(), true; more && at < info.Size()+64*maxChildLog; {
		n, _ := d.logged.ReadAt(buf, at) // the end of the file gives less
		at, more = at+int64(n), n == len(buf)
		tail = append(tail, buf[:n]...)
		if over := len(tail) - maxChildLog/2; over > 0 {
			tail = tail[over+max(0, bytes.IndexByte(tail[over:], '\n')+1):]
		}
	}
	if err = d.logged.Truncate(0); err == nil {
		_, err = d.logged.Write(tail)
	}
	if err != nil {
		d.spec.log.Warn("trimming a daemon's log failed", "lib_id", d.spec.libID, "error", err)
	}
	d.since = 0
	return true
}

// tailOf reads the whole lines within the last most bytes of f, which has size
// bytes.
func tailOf(f io.ReaderAt, size, most int64) []byte {
	buf := make([]byte, min(size, most))
	n, _ := f.ReadAt(buf, size-int64(len(buf))) // a shorter file gives what there is
	buf = buf[:n]
	if int64(len(buf)) < size {
		if _, rest, found := strings.Cut(string(buf), "\n"); found {
			return []byte(rest)
		}
	}
	return buf
}

func (d *daemonProcess) close() (exit, lastLines string) {
	close(d.quit)
	_, _ = d.stdin.Close(), d.stdout.Close() // nothing is buffered in them
	d.reader.Wait()
	// The record goes last: the next scheduler must find it as long as anything of
	// the child may live.
	if err := os.Remove(filepath.Join(d.spec.dir, pidFileName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.spec.log.Warn("removing a daemon.pid failed", "lib_id", d.spec.libID, "error", err)
	}
	lastLines = d.lastLines()
	d.trimLog()
	if err := d.logged.Close(); err != nil {
		d.spec.log.Warn("closing a daemon's log failed", "lib_id", d.spec.libID, "error", err)
	}
	return exitText(d.process.err, d.cmd.ProcessState, d.killed), lastLines
}

// lastLines returns the end of what this child logged, at most lastLogLines and
// maxLastLog, without secrets and control characters.
func (d *daemonProcess) lastLines() string {
	info, err := d.logged.Stat()
	if err != nil || info.Size() <= d.since {
		return ""
	}
	own := io.NewSectionReader(d.logged, d.since, info.Size()-d.since) // not those of the one before
	text := string(tailOf(own, own.Size(), 4*maxLastLog))
	redact := newRedactor().withSecret("", d.spec.token)
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(cleanText(line)); line != "" {
			lines = append(lines, redact.text(line))
		}
	}
	text = strings.Join(lines[max(0, len(lines)-lastLogLines):], "\n")
	return strings.ToValidUTF8(text[max(0, len(text)-maxLastLog):], "")
}

// exitText returns how a process ended, with the meaning of the daemon's exit
// statuses. killed is set when the scheduler killed it.
func exitText(err error, state *os.ProcessState, killed bool) string {
	if state == nil {
		return fmt.Sprintf("the daemon was lost: %v", err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL && !killed {
		return "the daemon ended with " + state.String() + ", not by the scheduler: was the machine or the container out of memory?"
	}
	why := map[int]string{
		2: " (usage error)",
		3: " (it gave up reconnecting)",
		4: " (the server refused it)",
		5: " (replaced by another daemon of its machine_id)",
	}[state.ExitCode()]
	return "the daemon ended with " + state.String() + why
}

// indented is the last lines as the end of a sentence.
func indented(lines string) string {
	if lines == "" {
		return ""
	}
	return "; its last log lines:\n" + lines
}

// childEnv is env without our own variables: a child is configured by its flags
// and must not inherit the scheduler's tokens. Only the variables that put its
// standard input under a scheduler and name what it must not read are set. The
// variables of systemd are left out too (sd_notify(3), sd_listen_fds(3)): a
// child would report its own end as the scheduler's.
func childEnv(env, denied []string) []string {
	var kept []string
	for _, pair := range env {
		name, _, _ := strings.Cut(strings.ToUpper(pair), "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES":
			continue
		}
		if !strings.HasPrefix(name, "C4A_") {
			kept = append(kept, pair)
		}
	}
	return append(kept, controlVariable+"="+controlStdio, formatDenied(denied))
}

// daemonVersion runs a program as the daemon with --version, and returns the line
// that it prints.
func daemonVersion(ctx context.Context, bin string, environ []string) (string, error) {
	cmd := exec.CommandContext(ctx, bin, "--version")
	cmd.Args[0] = daemonName
	cmd.Env = childEnv(environ, nil)
	cmd.WaitDelay = pipeDelay
	out, err := cmd.Output()
	line, _, _ := strings.Cut(string(out), "\n")
	switch {
	case err != nil:
		return "", fmt.Errorf("running %s --version: %w", bin, err)
	case !strings.HasPrefix(line, daemonName+" "):
		return "", fmt.Errorf("running %s --version: it is not c4a-daemon, it printed %q: check --daemon-bin", bin, cleanText(line[:min(len(line), 100)]))
	}
	return line, nil
}
