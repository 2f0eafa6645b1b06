package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// diskUsage is how full a disk is.
type diskUsage struct {
	Path        string  `json:"path" doc:"a directory on it"`
	TotalBytes  uint64  `json:"total_bytes"`
	FreeBytes   uint64  `json:"free_bytes" doc:"available to a user who is not root"`
	UsedPercent float64 `json:"used_percent" doc:"as df shows it"`
}

// newDiskUsage computes the usage from a file system's counts of blocks.
func newDiskUsage(path string, blockSize, blocks, free, available uint64) diskUsage {
	d := diskUsage{Path: path, TotalBytes: blocks * blockSize, FreeBytes: available * blockSize}
	if used := blocks - free; used+available > 0 {
		d.UsedPercent = 100 * float64(used) / float64(used+available)
	}
	return d
}

// freePercent returns the part that is available to a user who is not root.
func (d diskUsage) freePercent() float64 { return 100 - d.UsedPercent }

const (
	// usageAge is how long a measured size is used: looking at a million files takes
	// seconds.
	usageAge = 5 * time.Minute
	// maxMeasured bounds the files looked at for one size.
	maxMeasured = 10_000_000
)

// diskSize is how much the files below a directory take. It is measured in the
// background when it is asked for and the last size is old.
type diskSize struct {
	dir string
	ctx context.Context // ends measurements
	log *slog.Logger
	wg  sync.WaitGroup // the measurement

	mu        sync.Mutex // guards the fields below
	size      int64
	known     bool
	measuring bool
	closed    bool
	at        time.Time
}

func newDiskSize(ctx context.Context, dir string, log *slog.Logger) *diskSize {
	return &diskSize{dir: dir, ctx: ctx, log: log}
}

// bytes returns the last size; ok is false before the first.
func (d *diskSize) bytes() (size int64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.measuring && !d.closed && time.Since(d.at) > usageAge {
		d.measuring = true
		d.wg.Go(d.measure) // ends with the walk, or with ctx
	}
	return d.size, d.known
}

// close waits for the measurement; ctx must have ended.
func (d *diskSize) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.wg.Wait()
}

func (d *diskSize) measure() {
	size, err := sizeOf(d.ctx, d.dir)
	d.measured(size, err)
	if err != nil {
		d.log.Warn("measuring the workspace failed", "error", err)
	}
}

func (d *diskSize) measured(size int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.measuring, d.at = false, time.Now()
	if err == nil {
		d.size, d.known = size, true
	}
}

// sizeOf adds up the files below dir, without following symlinks. Files that
// vanish meanwhile do not count.
func sizeOf(ctx context.Context, dir string) (size int64, err error) {
	seen := 0
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if seen++; seen > maxMeasured {
			return fmt.Errorf("%s holds more than %d files", dir, maxMeasured)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			size += info.Size()
		}
		return nil
	})
	return size, err
}

// openTime is how long the start of a program waits for a directory to serve. A
// dead network file system answers later or never, and must not keep the program
// from serving other directories.
const openTime = time.Second

// errNoAnswer reports a file system that does not answer.
var errNoAnswer = errors.New("the file system does not answer")

// statInTime is os.Stat that returns errNoAnswer after openTime.
func statInTime(path string) (fs.FileInfo, error) {
	var info fs.FileInfo
	var err error
	done := make(chan struct{})
	go func() { // ends when the file system answers
		defer close(done)
		info, err = os.Stat(path)
	}()
	select {
	case <-done:
		return info, err
	case <-time.After(openTime):
		return nil, errNoAnswer
	}
}
