package main

import (
	"bytes"
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
	// lastLogLines and maxLastLog bound what of a dead child's log goes into its
	// error.
	lastLogLines = 20
	maxLastLog   = 2 << 10
	// controlWriteLimit bounds one write to a child: 64 KiB of unread ops fill
	// the pipe of a child that does not listen.
	controlWriteLimit = time.Second
	// eventQueue lets a child say a few things before its owner looks.
	eventQueue = 16
)

// child is a started daemon as its owner in the pool sees it. Only the owner
// calls its methods.
type child interface {
	pid() int
	events() <-chan controlEvent // closed when the child's output ends
	send(op controlOp) error     // returns within controlWriteLimit
	done() <-chan struct{}       // closed when the child is reaped
	terminate()
	kill()
	trimLog() bool     // to be called every second or so; it tells whether there was something to trim
	lastLines() string // the end of its log, without secrets
	// close gives back what the child held, after done. It returns how the
	// child ended and its lastLines.
	close() (exit, lastLines string)
}

// childSpec is what a child is started with.
type childSpec struct {
	libID string
	bin   string   // the program
	args  []string // without argv[0]
	env   []string
	dir   string // its work dir, which exists
	token secret // the first line of its standard input
	log   *slog.Logger
}

// daemonProcess is a real child.
type daemonProcess struct {
	*process
	spec   childSpec
	stdin  *os.File // write end: the child ends when it is closed
	stdout *os.File // read end
	logged *os.File // daemon.log, which is the child's standard error
	since  int64    // where this child's lines begin in logged
	heard  chan controlEvent
	quit   chan struct{} // closed by close
	reader sync.WaitGroup
	killed bool // by us: a SIGKILL that it ends by is no riddle
}

// startChild starts the program as a session leader in its work dir, records
// it in daemon.pid and only then gives it its token.
func startChild(spec childSpec) (_ child, err error) {
	d := &daemonProcess{spec: spec, heard: make(chan controlEvent, eventQueue), quit: make(chan struct{})}
	if d.logged, d.since, err = openChildLog(spec.dir); err != nil {
		return nil, err
	}
	// Pipes by hand and not by os/exec: Wait would last as long as anything that
	// inherited them.
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
	d.process, err = startProcess(cmd)
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
		// It has closed its input, or ended: its owner will see what comes of it.
		spec.log.Warn("giving a daemon its token", "lib_id", spec.libID, "error", err)
	}
	return d, nil
}

// endedItself tells whether err comes from a child that ended by itself before
// it could be recorded: its end is then the better reason.
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
// link out of dir is not followed.
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

// read hands on the child's events until its output ends.
func (d *daemonProcess) read() {
	defer close(d.heard)
	err := newControlReader(d.stdout, d.spec.log.With("lib_id", d.spec.libID)).events(func(event controlEvent) {
		select {
		case d.heard <- event:
		case <-d.quit:
		}
	})
	if err != nil && !errors.Is(err, os.ErrClosed) {
		d.spec.log.Warn("reading a daemon's output", "lib_id", d.spec.libID, "error", err)
	}
}

func (d *daemonProcess) events() <-chan controlEvent { return d.heard }
func (d *daemonProcess) done() <-chan struct{}       { return d.process.done }

func (d *daemonProcess) kill() {
	d.killed = true
	d.process.kill()
}

func (d *daemonProcess) send(op controlOp) error {
	_ = d.stdin.SetWriteDeadline(time.Now().Add(controlWriteLimit)) // pipes have deadlines
	return writeControl(d.stdin, op)
}

// trimLog cuts a log over maxChildLog to whole lines of its newest half. What
// the child writes meanwhile goes, by O_APPEND, behind what is there.
func (d *daemonProcess) trimLog() bool {
	info, err := d.logged.Stat()
	if err != nil || info.Size() <= maxChildLog {
		return false
	}
	tail := tailOf(d.logged, info.Size(), maxChildLog/2)
	// What came while that was read, up to a bound; what comes between here and
	// the next line is lost.
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
		d.spec.log.Warn("trimming a daemon's log", "lib_id", d.spec.libID, "error", err)
	}
	d.since = 0
	return true
}

// tailOf reads the last at most most bytes of f, which has size bytes, from
// the beginning of a line.
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
	// The record goes last: as long as anything of the child may live, it says
	// so.
	if err := os.Remove(filepath.Join(d.spec.dir, pidFileName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.spec.log.Warn("removing daemon.pid", "lib_id", d.spec.libID, "error", err)
	}
	lastLines = d.lastLines()
	d.trimLog()
	if err := d.logged.Close(); err != nil {
		d.spec.log.Warn("closing a daemon's log", "lib_id", d.spec.libID, "error", err)
	}
	return exitText(d.process.err, d.cmd.ProcessState, d.killed), lastLines
}

// lastLines is the end of what this child logged.
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

// exitText tells how a process ended, with what the daemon's exit statuses mean.
// killed says that the scheduler killed it.
func exitText(err error, state *os.ProcessState, killed bool) string {
	if state == nil {
		return fmt.Sprintf("the daemon was lost: %v", err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL && !killed {
		return "the daemon ended with " + state.String() + ", not by the scheduler: was the machine or the container out of memory?"
	}
	why := map[int]string{
		2: " (wrong usage)",
		3: " (it gave up reconnecting)",
		4: " (the server refused it)",
		5: " (replaced by another of its machine_id)",
	}[state.ExitCode()]
	return "the daemon ended with " + state.String() + why
}

// indented is the last lines behind a sentence.
func indented(lines string) string {
	if lines == "" {
		return ""
	}
	return "; its last log lines:\n" + lines
}

// childEnv is env without any variable of ours, but for the one that tells the
// child who is at its standard input: a child is told the rest by its flags,
// and no token of the scheduler's is inherited. What systemd tells the
// scheduler (sd_notify(3), sd_listen_fds(3)) is not meant for a child either:
// it would report its own end as the scheduler's.
func childEnv(env []string) []string {
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
	return append(kept, controlVariable+"="+controlStdio)
}
