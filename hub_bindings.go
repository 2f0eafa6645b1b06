package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// This file is the file of the bindings. It is a sequence of JSON objects whose
// members are libraries with their machines, or null for a library that was freed;
// later members replace earlier ones. The first object has all bindings at the time
// when the file was written; earlier versions wrote it alone. Each change is then a
// line at the end, so that it costs the same whatever the number of bindings.
//
// Several schedulers may share the file (--bindings): each changes it under a lock,
// after it has read what the others added, and reads it every bindingsPoll.

const (
	// maxBindingsFile bounds the file. maxLibraries bindings with names of a usual
	// length take a tenth of it.
	maxBindingsFile = 128 << 20
	// minBindingsLog is how many changes a file may have. With more, and twice as many
	// as bindings, it is written anew.
	minBindingsLog = 1000
	// bindingsPoll is how often a shared file is looked at, which costs a few
	// microseconds. A proxy sends all requests about a library to one scheduler, so
	// that the others need a change only for handshakes, or when that one is gone.
	bindingsPoll = 100 * time.Millisecond
	// bindingsTimeout bounds a wait for the file system and for the lock. Then the
	// bindings that were read last stay in force.
	bindingsTimeout = 10 * time.Second
	// bindingsLockRetry is how often a lock is tried that another scheduler holds,
	// mostly for the milliseconds that a disk needs.
	bindingsLockRetry = 5 * time.Millisecond
)

// bindingsFile reads and changes the file of the bindings. One goroutine at a time reads
// or writes the file: the one that has put a token into busy.
type bindingsFile struct {
	path    string
	shared  bool                   // other schedulers change the file too
	changed func(machineID string) // see watchMachines; nil before
	log     *slog.Logger
	busy    chan struct{}
	broken  atomic.Bool // the file could not be read the last time

	// For the holder of the token.
	facts   fileFacts // when it was read last
	at      int64     // the end of the last object that was read
	objects int
}

// openLibraries reads the bindings. A file that cannot be read is an error: what is
// in it would be lost with the next change.
func openLibraries(path string, shared bool, log *slog.Logger) (*libraries, error) {
	l := &libraries{file: bindingsFile{path: path, shared: shared, log: log, busy: make(chan struct{}, 1)}}
	l.apply(nil, true)
	err := l.exclusive(context.Background(), func() (err error) {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			l.file.path = real // a rename must not replace the link
		}
		unlock, err := l.lock()
		if err != nil {
			return err
		}
		defer unlock()
		if err = removeTemporaries(l.file.path); err == nil {
			err = l.read()
		}
		switch {
		case !errors.Is(err, fs.ErrNotExist):
		case !shared:
			return nil
		default: // from now on a file that is not there is a volume that is not mounted
			log.Warn("there are no bindings yet, a file for them is made", "path", path)
			err = l.rewrite(map[string]string{})
		}
		if err != nil {
			err = fmt.Errorf("%w: repair or remove it", err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the libraries: %s: %w", path, err)
	}
	return l, nil
}

// exclusive does work with the file, one at a time, within bindingsTimeout and until
// ctx ends. Work that a dead file system blocks is left behind, and nothing else is
// begun until it ends.
func (l *libraries) exclusive(ctx context.Context, work func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bindingsTimeout, errNoAnswer)
	defer cancel()
	select {
	case l.file.busy <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	go func() { // ends when the file system answers
		err := work()
		<-l.file.busy
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lock locks a shared file by another one beside it, which is never replaced.
func (l *libraries) lock() (unlock func(), err error) {
	if !l.file.shared {
		return func() {}, nil // the workspace is locked
	}
	root, err := os.OpenRoot(filepath.Dir(l.file.path))
	if err != nil {
		return nil, fmt.Errorf("locking the bindings: %w: --bindings must be in a directory that exists", err)
	}
	defer root.Close()
	for begin := time.Now(); ; time.Sleep(bindingsLockRetry) {
		f, _, err := lockFileNow(root, filepath.Base(l.file.path)+".lock")
		if err == nil {
			return func() { _ = unlockFile(f) }, nil // closed in any case
		}
		if _, held := errors.AsType[*heldError](err); !held || time.Since(begin) > bindingsTimeout/2 {
			return nil, fmt.Errorf("locking the bindings: %w", err)
		}
	}
}

// read applies what was added to the file since it was read last, or all of it if
// it was replaced.
func (l *libraries) read() error {
	b := &l.file
	f, err := os.OpenFile(b.path, os.O_RDONLY|openNonblock, 0) // an open finds changes that NFS would hide from a stat
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	facts := fileFacts{size: info.Size(), mtime: info.ModTime(), info: info}
	switch {
	case facts.equal(b.facts):
		return nil
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	case facts.size > maxBindingsFile:
		return fmt.Errorf("larger than %d bytes", maxBindingsFile)
	}
	grown := b.at > 0 && os.SameFile(info, b.facts.info) && facts.size > b.facts.size
	for {
		from := int64(0)
		if grown {
			from = b.at
		}
		data, err := io.ReadAll(io.NewSectionReader(f, from, maxBindingsFile-from))
		if err != nil {
			return err
		}
		changes, objects, n, err := parseBindings(data, !grown)
		if err != nil && grown { // it was written anew in its place
			grown = false
			continue
		}
		if err != nil {
			return err
		}
		if !grown {
			b.objects = 0
		}
		b.objects += objects
		b.at, b.facts = from+int64(n), facts
		l.use(changes, !grown)
		return nil
	}
}

// use applies changes and reports the machines that they affect.
func (l *libraries) use(changes []binding, whole bool) {
	affected := l.apply(changes, whole)
	if l.file.changed != nil {
		for _, machineID := range affected {
			l.file.changed(machineID)
		}
	}
}

// parseBindings reads the objects in data. end is the offset behind the last one.
// An unfinished line after it was left by a scheduler that was killed, or is being
// written: it is ignored. whole says that data begins with the first object, which
// is never left unfinished.
func parseBindings(data []byte, whole bool) (changes []binding, objects, end int, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		var object map[string]*string
		err := d.Decode(&object)
		if errors.Is(err, io.EOF) {
			return changes, objects, end, nil
		}
		if err != nil {
			_, ofType := errors.AsType[*json.UnmarshalTypeError](err)
			rest := bytes.TrimLeft(data[end:], " \t\r\n")
			line, after, ended := bytes.Cut(rest, []byte{'\n'})
			// After a crash of the machine a line may have zeros in place of its text.
			unfinished := !ended || len(after) == 0 && bytes.IndexByte(line, 0) >= 0
			if !ofType && unfinished && (end > 0 || !whole) {
				return changes, objects, end, nil
			}
			return nil, 0, 0, fmt.Errorf("byte %d: %w", end, err)
		}
		objects++
		end = int(d.InputOffset())
		for libID, machineID := range object {
			c := binding{LibID: libID}
			err := checkLibID(libID)
			if machineID != nil {
				c.MachineID = *machineID
				err = cmp.Or(err, checkMachineID(c.MachineID))
			}
			if err == nil && strings.HasPrefix(c.MachineID, cloudPrefix) {
				err = errors.New("the machine is a daemon of the pool")
			}
			if err != nil {
				return nil, 0, 0, fmt.Errorf("the library %q: %w", shownText(libID), err)
			}
			changes = append(changes, c)
		}
	}
}

// set binds a library, or frees it when machineID is "". The file is written
// first, so that a binding that was answered for survives a crash. The error is
// an *apiError.
func (l *libraries) set(libID, machineID string) error {
	err := l.exclusive(context.Background(), func() error {
		unlock, err := l.lock()
		if err != nil {
			return err
		}
		defer unlock()
		err = l.read()
		gone := errors.Is(err, fs.ErrNotExist)
		if err != nil && (!gone || l.file.shared) {
			return err
		}
		return l.write(binding{libID, machineID}, gone)
	})
	if err != nil && !isAPIError(err) { // the caller has to know of a full disk
		err = &apiError{code: codeInternalError, status: http.StatusInternalServerError, message: "keeping the binding: " + err.Error()}
	}
	return err
}

// write adds a change to the file and applies it. gone says that there is no file.
func (l *libraries) write(c binding, gone bool) error {
	b := &l.file
	before, bound := l.get(c.LibID)
	if before == c.MachineID && !gone {
		return nil
	}
	l.mu.Lock()
	count := len(l.machine)
	l.mu.Unlock()
	if !bound && count >= maxLibraries {
		return badRequest(fmt.Sprintf("more than %d libraries are bound: free one first", maxLibraries))
	}
	machine := []byte("null")
	if c.MachineID != "" {
		machine, _ = json.Marshal(c.MachineID) // a string is always JSON
	}
	// It replaces the line end of the last object, and anything unfinished.
	line := fmt.Appendf(nil, "\n{%q:%s}\n", c.LibID, machine)
	if gone || b.at == 0 || b.objects > 2*count+minBindingsLog || b.at+int64(len(line)) > maxBindingsFile {
		next := l.snapshot()
		if next[c.LibID] = c.MachineID; c.MachineID == "" {
			delete(next, c.LibID)
		}
		if err := l.rewrite(next); err != nil {
			return err
		}
	} else if err := l.extend(line); err != nil {
		return err
	}
	l.use([]binding{c}, false)
	return nil
}

// extend writes a line behind the last object of the file.
func (l *libraries) extend(line []byte) (err error) {
	b := &l.file
	f, err := os.OpenFile(b.path, os.O_RDWR|openNonblock, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Truncate(b.at) // what is left of the line is unfinished and ignored
		}
		err = cmp.Or(err, f.Close())
	}()
	if b.facts.size > b.at+1 {
		b.log.Warn("an unfinished change at the end of the bindings is removed", "path", b.path, "bytes", b.facts.size-b.at)
		if err := f.Truncate(b.at); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(line, b.at); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b.facts = fileFacts{size: info.Size(), mtime: info.ModTime(), info: info}
	b.at += int64(len(line)) - 1
	b.objects++
	return nil
}

// rewrite replaces the file by one with a single object.
func (l *libraries) rewrite(next map[string]string) error {
	b := &l.file
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if len(data) >= maxBindingsFile {
		return badRequest("the file of bindings would become too large: free a library first")
	}
	perm := fs.FileMode(0o600)
	if b.facts.info != nil {
		perm = b.facts.info.Mode().Perm() // schedulers of several users may share it
	}
	if err := writeFileAtomic(b.path, append(data, '\n'), perm); err != nil {
		return err
	}
	b.facts, b.at, b.objects = factsOf(b.path), int64(len(data)), 1
	return nil
}

// watch reads what other schedulers write to a shared file, until ctx ends. A file
// that cannot be read leaves the bindings as they are.
func (l *libraries) watch(ctx context.Context) {
	b, problem := &l.file, ""
	ticker := time.NewTicker(bindingsPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := l.exclusive(ctx, l.read)
		if ctx.Err() != nil {
			return
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		if now == problem {
			continue
		}
		problem = now
		b.broken.Store(err != nil)
		if err != nil {
			b.log.Error("reading the bindings failed: those that were read last stay in force", "path", b.path, "error", err)
		} else {
			b.log.Info("the bindings can be read again", "path", b.path)
		}
	}
}

// close leaves the file of one scheduler with a single object, which is all that
// earlier versions read.
func (l *libraries) close() {
	if l.file.shared {
		return
	}
	if err := l.exclusive(context.Background(), func() error {
		if l.file.objects <= 1 {
			return nil
		}
		return l.rewrite(l.snapshot())
	}); err != nil {
		l.file.log.Warn("shortening the file of the bindings failed", "path", l.file.path, "error", err)
	}
}
