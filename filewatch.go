package main

import (
	"context"
	"os"
	"slices"
	"time"
)

// fileWatchInterval is how often watched files are looked at. A change is used
// after two looks, so within 1 s: somebody who revokes a token waits for it. A look
// takes a few microseconds a file.
const fileWatchInterval = 500 * time.Millisecond

// fileFacts are what changes when a file is written or replaced.
type fileFacts struct {
	size  int64
	mtime time.Time
	info  os.FileInfo // for os.SameFile; nil if the file is not there
}

func (f fileFacts) equal(g fileFacts) bool {
	same := f.info == nil && g.info == nil || f.info != nil && g.info != nil && os.SameFile(f.info, g.info)
	return same && f.size == g.size && f.mtime.Equal(g.mtime)
}

func factsOf(path string) fileFacts {
	info, err := os.Stat(path) // follows links, as those of a mounted Secret of Kubernetes
	if err != nil {
		return fileFacts{}
	}
	return fileFacts{size: info.Size(), mtime: info.ModTime(), info: info}
}

// fileWatch watches files that belong together. It polls, because no way of the
// system to be told of changes works on every file system.
type fileWatch struct {
	paths    []string
	used     []fileFacts // of the files as they were read last
	interval time.Duration
}

// newFileWatch returns a watch. Make it before the files are read for the first
// time, so that it misses no change.
func newFileWatch(paths ...string) *fileWatch {
	w := &fileWatch{paths: paths, interval: fileWatchInterval}
	w.used = w.look()
	return w
}

func (w *fileWatch) look() []fileFacts {
	facts := make([]fileFacts, len(w.paths))
	for i, path := range w.paths {
		facts[i] = factsOf(path)
	}
	return facts
}

// run calls changed each time one of the files was written or replaced, until ctx
// ends. A file that is still being written, or one of several that belong together,
// is waited for: between two looks nothing must have changed.
func (w *fileWatch) run(ctx context.Context, changed func()) {
	last := w.used
	ticker := time.NewTicker(w.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := w.look()
		if slices.EqualFunc(now, last, fileFacts.equal) && !slices.EqualFunc(now, w.used, fileFacts.equal) {
			w.used = now
			changed()
		}
		last = now
	}
}
