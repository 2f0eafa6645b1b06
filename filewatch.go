package main

import (
	"context"
	"os"
	"time"
)

// fileWatchInterval is how often watched files are looked at. A change is used
// after two looks, so within 4 s.
const fileWatchInterval = 2 * time.Second

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

// watchFiles calls changed each time one of the files was written or replaced, until
// ctx ends. A file that is still being written, or one of several that belong
// together, is waited for: between two looks nothing must have changed. It polls,
// because no way of the system to be told of changes works on every file system.
func watchFiles(ctx context.Context, paths []string, changed func()) {
	look := func() []fileFacts {
		facts := make([]fileFacts, len(paths))
		for i, path := range paths {
			facts[i] = factsOf(path)
		}
		return facts
	}
	equal := func(a, b []fileFacts) bool {
		for i := range a {
			if !a[i].equal(b[i]) {
				return false
			}
		}
		return true
	}
	used := look()
	last := used
	ticker := time.NewTicker(fileWatchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := look()
		if equal(now, last) && !equal(now, used) {
			used = now
			changed()
		}
		last = now
	}
}
