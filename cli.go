package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// program holds the process state that both programs use: arguments,
// environment and standard streams. Tests replace it.
type program struct {
	args           []string // args[0] is the name under which it was started
	getenv         func(string) string
	environ        func() []string
	stdin          *os.File
	stdout, stderr *os.File
	console        *lineQueue     // what is written to stderr, so that its reader cannot stop the program
	started        *processes     // daemons, git and handlers
	times          linkTimes      // the clocks of its links
	brokenPipe     chan os.Signal // SIGPIPE, while it is caught; else nil
}

func systemProgram() *program {
	return &program{args: os.Args, getenv: os.Getenv, environ: os.Environ, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, times: defaultLinkTimes()}
}

// Exit statuses (REFERENCE.md).
const (
	exitStopped  = 0
	exitFailure  = 1
	exitUsage    = 2
	exitGaveUp   = 3
	exitRefused  = 4
	exitReplaced = 5
)

// surviveBrokenPipe makes a write to a closed standard output or error return
// EPIPE. By default Go ends the program with SIGPIPE in that case (os/signal,
// "SIGPIPE"), but the program reading the log may exit before the daemon has
// finished its work. The signal is caught and not ignored, because git would
// inherit an ignored signal.
//
// It lasts until run has written the last line of the log.
func (p *program) surviveBrokenPipe() {
	if p.brokenPipe == nil {
		p.brokenPipe = make(chan os.Signal, 1) // never read: the failed write returns the error
		signal.Notify(p.brokenPipe, syscall.SIGPIPE)
	}
}

// dieByBrokenPipe ends surviveBrokenPipe.
func (p *program) dieByBrokenPipe() {
	if p.brokenPipe != nil {
		signal.Stop(p.brokenPipe)
		p.brokenPipe = nil
	}
}

// errPrinted means that the failure was already printed; the exit status is 1.
var errPrinted = errors.New("failed")

// usageError is an invalid flag, variable or argument. It is printed as one
// line; the exit status is 2.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func usage(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// checkPercent returns an error unless 0 ≤ value ≤ 100. NaN is rejected too.
func checkPercent(flagName string, value float64) error {
	if !(value >= 0 && value <= 100) {
		return usage("invalid value %v for --%s: must be 0 to 100 percent", value, flagName)
	}
	return nil
}

// run runs a program to its end and returns its exit status.
func (p *program) run(name string, do func() error) int {
	p.console, p.started = newLineQueue(p.stderr), &processes{}
	defer p.dieByBrokenPipe()
	defer p.console.close(flushTime)
	p.logLibraries()
	return p.exit(name, do())
}

// exit prints err, unless it was printed before, and returns its exit status.
func (p *program) exit(name string, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitStopped
	}
	_, isUsage := errors.AsType[*usageError](err)
	switch json := p.jsonLog(); {
	case errors.Is(err, errPrinted):
	case json != nil && isUsage:
		json.Error(name+" cannot start", "error", err.Error(), "see", name+" --help")
	case json != nil:
		json.Error(name+" failed", "error", err.Error())
	default:
		fmt.Fprintf(p.console, "%s: %v\n", name, err)
		if isUsage {
			fmt.Fprintf(p.console, "see %s --help\n", name)
		}
	}
	if isUsage {
		return exitUsage
	}
	if stopped, ok := errors.AsType[*signalError](err); ok {
		return stopped.status()
	}
	switch {
	case errors.Is(err, errGaveUp):
		return exitGaveUp
	case errors.Is(err, errRefused):
		return exitRefused
	case errors.Is(err, errReplaced):
		return exitReplaced
	}
	return exitFailure
}

// list is a flag whose value is a comma-separated list; repeated flags add to
// it.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

// dirList is a flag like list, for directories, whose names may hold commas: the
// longest text between commas that names a directory is one.
type dirList []string

func (l *dirList) String() string { return strings.Join(*l, ",") }

func (l *dirList) Set(text string) error {
	parts := strings.Split(text, ",")
	for len(parts) > 0 {
		n := len(parts)
		for n > 1 && !isDir(strings.TrimSpace(strings.Join(parts[:n], ","))) {
			n--
		}
		if dir := strings.TrimSpace(strings.Join(parts[:n], ",")); dir != "" {
			*l = append(*l, dir)
		}
		parts = parts[n:]
	}
	return nil
}

func isDir(path string) bool {
	info, err := statInTime(path)
	return err == nil && info.IsDir()
}

// areDirs returns a usage error unless every entry of --allow is a directory, or
// on a file system that does not answer.
func (l dirList) areDirs() error {
	for _, dir := range l {
		if info, err := statInTime(dir); errors.Is(err, errNoAnswer) {
			continue
		} else if err != nil {
			return usage("invalid value for --allow: %v", err)
		} else if !info.IsDir() {
			return usage("invalid value for --allow: %s is not a directory", dir)
		}
	}
	return nil
}

// size is a flag whose value is a number of bytes, such as 16777216 or 16MiB.
type size int64

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

func (s *size) Set(text string) error {
	number, unit := text, int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}} {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			number, unit = rest, u.bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return errors.New("must be a number of bytes, such as 16777216 or 16MiB (units: KiB, MiB, GiB)")
	}
	*s = size(n * unit)
	return nil
}

// readSecret returns a token: the first line of file, or of the variable when no
// file is given. No flag takes the token itself, because other
// users can read the command line of a process.
func (p *program) readSecret(flagName, file, variable string) (secret, error) {
	text, source, origin := p.getenv(variable), variable, variable
	if file == "" && text == "" {
		return "", nil
	}
	if file != "" {
		data, err := readGiven(file)
		if err != nil {
			return "", usage("reading --%s: %v", flagName, err)
		}
		text, source, origin = string(data), "--"+flagName, file
	}
	line, _, _ := strings.Cut(text, "\n")
	line = strings.TrimSpace(line)
	if line == "" {
		return "", usage("reading %s: the first line of %s is empty", source, origin)
	}
	return checkSecret(source, line)
}

// isGiven reports whether the flags of a certificate and its key are given: those
// that end with -cert and -key after the name.
func isGiven(name string, pair keyPair) (bool, error) {
	if (pair.certFile == "") != (pair.keyFile == "") {
		return false, usage("--%s-cert and --%[1]s-key must be given together", name)
	}
	return pair.certFile != "", nil
}

// checkClientPair returns an error unless --client-cert and --client-key are both
// given and can be used, or neither is given.
func checkClientPair(pair keyPair) error {
	given, err := isGiven("client", pair)
	if given {
		if _, err := pair.load(); err != nil {
			return usage("invalid value for --client-cert or --client-key: %v", err)
		}
	}
	return err
}

// checkSecret returns an error if the token cannot be sent in an HTTP header.
// The error does not contain the token.
func checkSecret(source, token string) (secret, error) {
	const most = 4096
	if len(token) > most {
		return "", usage("the token from %s is longer than %d bytes", source, most)
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] >= 0x7f {
			return "", usage("the token from %s contains a space, a control character or a non-ASCII character", source)
		}
	}
	return secret(token), nil
}

// calledAsDaemon reports whether the scheduler's executable should run as the
// daemon: it was started as exactly "c4a-daemon", by a pool or from the PATH,
// or through a symbolic link of that name. A regular file of that name is the
// scheduler, because `go build` and `go run` name their output after the
// module, which is also called c4a-daemon.
func (p *program) calledAsDaemon() bool {
	name := strings.TrimSuffix(filepath.Base(p.args[0]), ".exe")
	if name != daemonName {
		return false
	}
	if filepath.Base(p.args[0]) == p.args[0] {
		return true
	}
	info, err := os.Lstat(p.args[0])
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// hostName returns the host name of the machine, or "localhost" if it has none.
func hostName() string {
	name, _ := os.Hostname()
	return cmp.Or(name, "localhost")
}
