package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pidFileName  = "daemon.pid"
	lockFileName = ".scheduler.lock"
	// maxPIDFile bounds how much of a daemon.pid is read; it has about 100 bytes.
	maxPIDFile = 4 << 10
	// orphanGrace is how long an orphan may take to end after SIGTERM, and again
	// after SIGKILL.
	orphanGrace = 2 * time.Second
	// proofTries and proofPause bound how often the proof of an orphan is tried again
	// while there are no free descriptors: without a proof nothing is signalled.
	proofTries = 20
	proofPause = 100 * time.Millisecond
)

// errNotSupported is the error on systems without a pool.
var errNotSupported = errors.New("not supported on this system: the scheduler runs on Linux and macOS")

// identity distinguishes a process from every other, also from a later one with
// the same pid.
type identity struct {
	start string // when it started, in the kernel's own unit
	boot  string // which boot of the machine
	group int    // its process group
	// number is the kernel's own number of the process, which it uses only once in a
	// boot; "" on kernels without one. It is needed because Linux counts the start in
	// units of 10 ms, in which two processes may have the same pid.
	number string
}

// pidRecord is the content of a daemon.pid.
type pidRecord struct {
	pid int
	identity
}

// text is the content of the file. The first line is the decimal pid, for people
// and scripts; the second proves which process it was.
func (r pidRecord) text() string {
	text := fmt.Sprintf("%d\nstart=%s boot=%s pgid=%d", r.pid, r.start, r.boot, r.group)
	if r.number != "" {
		text += " number=" + r.number
	}
	return text + "\n"
}

// parsePIDRecord reads a daemon.pid. A file with a pid alone is an error: it does
// not prove which process it was.
func parsePIDRecord(text string) (pidRecord, error) {
	first, rest, _ := strings.Cut(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	// A daemon never has pid 1; a negative number would name a group.
	if err != nil || pid <= 1 || pid > 1<<30 {
		return pidRecord{}, errors.New("the first line is not a process id")
	}
	r := pidRecord{pid: pid}
	second, _, _ := strings.Cut(rest, "\n")
	for field := range strings.FieldsSeq(second) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "start":
			r.start = value
		case "boot":
			r.boot = value
		case "number":
			r.number = value
		case "pgid":
			if r.group, err = strconv.Atoi(value); err != nil {
				return pidRecord{}, errors.New("pgid is not a number")
			}
		}
	}
	if r.start == "" || r.boot == "" || r.group != r.pid {
		return pidRecord{}, errors.New("the second line does not identify a process")
	}
	return r, nil
}

// writePIDFile records a running process in dir.
func writePIDFile(dir string, pid int) error {
	id, err := identify(pid)
	if err != nil {
		return fmt.Errorf("identifying process %d: %w", pid, err)
	}
	r, path := pidRecord{pid: pid, identity: id}, filepath.Join(dir, pidFileName)
	if err := removeTemporaries(path); err != nil {
		return err
	}
	return writeFileAtomic(path, []byte(r.text()), 0o644)
}

// readPIDFile reads <libID>/daemon.pid under root. It neither follows a symlink out
// of root nor blocks on a pipe.
func readPIDFile(root *os.Root, libID string) (pidRecord, error) {
	name := filepath.Join(libID, pidFileName)
	info, err := root.Lstat(name)
	if err != nil {
		return pidRecord{}, err
	}
	if !info.Mode().IsRegular() {
		return pidRecord{}, errors.New("it is not a regular file")
	}
	f, err := root.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return pidRecord{}, err
	}
	defer f.Close()
	text, err := readRegular(f, maxPIDFile)
	if err != nil {
		return pidRecord{}, err
	}
	return parsePIDRecord(string(text))
}

// orphanFate is the outcome of endOrphan.
type orphanFate string

const (
	orphanGone     orphanFate = "gone"     // no such process, or a zombie
	orphanStranger orphanFate = "stranger" // the pid now belongs to another process: not signalled
	orphanEnded    orphanFate = "ended"
)

// endOrphans ends the daemons that an earlier scheduler left running in the
// workspace, all at once, and removes their records. The caller holds the
// workspace lock. The error names the processes that may still run.
func endOrphans(root *os.Root, log *slog.Logger) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return fmt.Errorf("reading the workspace: %w", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(entries))
	for i, entry := range entries {
		libID := entry.Name()
		if !entry.IsDir() || !validLibID(libID) {
			continue
		}
		record, err := readPIDFile(root, libID)
		for tries := 1; lacksDescriptors(err) && tries < proofTries; tries++ {
			time.Sleep(proofPause)
			record, err = readPIDFile(root, libID)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if lacksDescriptors(err) { // keep the record: it is the only proof
			errs[i] = fmt.Errorf("reading the daemon.pid of %s: %w", libID, err)
			continue
		}
		if err != nil {
			log.Warn("a daemon.pid that cannot be read was removed", "lib_id", libID, "error", err)
			removePIDFile(root, libID, log)
			continue
		}
		// Ends within twice orphanGrace and the time for a proof.
		wg.Go(func() {
			fate, err := endOrphan(record)
			if err != nil {
				errs[i] = fmt.Errorf("ending process %d of %s: %w", record.pid, libID, err)
				return
			}
			log.Info("found a daemon of an earlier scheduler", "lib_id", libID, "pid", record.pid, "fate", string(fate))
			removePIDFile(root, libID, log)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// lacksDescriptors reports whether err is a lack of file descriptors, which
// passes.
func lacksDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func removePIDFile(root *os.Root, libID string, log *slog.Logger) {
	err := root.Remove(filepath.Join(libID, pidFileName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("removing a daemon.pid failed", "lib_id", libID, "error", err)
	}
}

// lockWorkspace makes this process the only scheduler of the workspace until the
// file is closed. The error names the pid of another.
func lockWorkspace(root *os.Root) (*os.File, error) {
	if _, err := identify(os.Getpid()); errors.Is(err, errNotSupported) {
		return nil, err
	}
	f, _, err := lockFile(root, lockFileName)
	if held, ok := errors.AsType[*heldError](err); ok {
		return nil, fmt.Errorf("locking the workspace: the scheduler with pid %s uses %s: stop it or choose another --workspace", held.pid, root.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("locking the workspace %s: %w", root.Name(), err)
	}
	return f, nil
}
