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
	// maxPIDFile bounds what is read of a daemon.pid: a real one has about 100
	// bytes.
	maxPIDFile = 4 << 10
	// orphanGrace is how long an orphan may take to end after SIGTERM, and again
	// after SIGKILL until it is given up.
	orphanGrace = 2 * time.Second
	// proofTries and proofPause bound how long a lack of descriptors may keep an
	// orphan from being proven: without proof nothing is signalled.
	proofTries = 20
	proofPause = 100 * time.Millisecond
)

// errNotSupported is the answer of a system on which no pool can run.
var errNotSupported = errors.New("not supported on this system: the scheduler runs on Linux and macOS")

// identity tells one process from every other, also from a later one with the
// same pid.
type identity struct {
	start string // when it started, in the kernel's own unit
	boot  string // which boot of the machine
	group int    // its process group
	// number is the kernel's for the process, which no other gets in this boot;
	// "" where it has none. A start in units of 10 ms may be two processes'.
	number string
}

// pidRecord is the content of a daemon.pid.
type pidRecord struct {
	pid int
	identity
}

// text is the file's content: line 1 the decimal pid, for people and their
// scripts; line 2 what proves the process to be the one that was started.
func (r pidRecord) text() string {
	text := fmt.Sprintf("%d\nstart=%s boot=%s pgid=%d", r.pid, r.start, r.boot, r.group)
	if r.number != "" {
		text += " number=" + r.number
	}
	return text + "\n"
}

// parsePIDRecord reads a daemon.pid. The error says what is wrong with it; a
// file with a pid alone is one of them, for it proves nothing.
func parsePIDRecord(text string) (pidRecord, error) {
	first, rest, _ := strings.Cut(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	// Pid 1 and the negative ones, which name groups, are never a daemon's.
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
		return pidRecord{}, errors.New("the second line does not tell which process it was")
	}
	return r, nil
}

// writePIDFile records a running process in dir.
func writePIDFile(dir string, pid int) error {
	id, err := identify(pid)
	if err != nil {
		return fmt.Errorf("identifying process %d: %w", pid, err)
	}
	r := pidRecord{pid: pid, identity: id}
	return writeFileAtomic(filepath.Join(dir, pidFileName), []byte(r.text()), 0o644)
}

// readPIDFile reads <libID>/daemon.pid under root. It never follows a link out
// of root nor waits for a pipe.
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

// orphanFate is what became of a recorded process.
type orphanFate string

const (
	orphanGone     orphanFate = "gone"     // no such process, or a zombie
	orphanStranger orphanFate = "stranger" // the pid is another's now: not touched
	orphanEnded    orphanFate = "ended"
)

// endOrphans ends what an earlier scheduler left running in the workspace, all
// side by side, and removes the records. The caller holds the workspace lock.
// The error names those that may still run.
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
		if lacksDescriptors(err) { // the record is the only proof, and stays
			errs[i] = fmt.Errorf("reading the daemon.pid of %s: %w", libID, err)
			continue
		}
		if err != nil {
			log.Warn("ignoring an unreadable daemon.pid", "lib_id", libID, "error", err)
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
			log.Info("an earlier scheduler's daemon", "lib_id", libID, "pid", record.pid, "fate", string(fate))
			removePIDFile(root, libID, log)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// lacksDescriptors tells an error that passes.
func lacksDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func removePIDFile(root *os.Root, libID string, log *slog.Logger) {
	err := root.Remove(filepath.Join(libID, pidFileName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("removing daemon.pid", "lib_id", libID, "error", err)
	}
}

// lockWorkspace makes this process the workspace's only scheduler, until the
// file is closed. The error names the pid of the holder.
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
