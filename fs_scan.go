package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultScanDepth = 8
	// maxScanDepth bounds how deep a scan may go: the path limit of most systems
	// leaves no room for more that a person made.
	maxScanDepth = 64
	// defaultScanLimit and maxScanLimit bound the repositories of one answer; one
	// takes at most some kilobytes.
	defaultScanLimit = 1000
	maxScanLimit     = 5000
	// maxScanPaths bounds the places where one scan starts.
	maxScanPaths = 100
	// scanReaders is how many repositories are read at a time beside the walk.
	scanReaders = 4
	// progressEvery is the number of entries or directories between two reports.
	progressEvery = 512
)

type repoScanParams struct {
	Paths    []string `json:"paths,omitempty" doc:"at most 100; default: all allowed directories"`
	MaxDepth *int     `json:"max_depth,omitempty" doc:"levels to descend, 0 to 64; 0 looks at the paths alone; default 8"`
	Exclude  []string `json:"exclude,omitempty" doc:"globs of directories, relative to where the scan starts"`
	Limit    *int     `json:"limit,omitempty" doc:"repositories, 1 to 5,000; default 1,000"`
}

type repoScanResult struct {
	Repos       []repoFacts `json:"repos" doc:"by path"`
	ScannedDirs int         `json:"scanned_dirs" doc:"directories read"`
	Truncated   bool        `json:"truncated" doc:"there are more than limit"`
	DurationMS  int64       `json:"duration_ms"`
}

// repoScan is one scan. The walk is one goroutine, the caller's; what it finds
// is read by others.
type repoScan struct {
	files    *fsService
	maxDepth int
	limit    int
	exclude  globs
	prune    globs            // and those that exclude all that is inside a directory
	found    chan *repository // closed by run
	repos    int              // sent to found

	scanned   int
	seen      map[string]bool // repositories: one start may lie inside another's tree
	truncated bool
}

// fs/repoScan
func (f *fsService) repoScan(ctx context.Context, p repoScanParams) (*repoScanResult, error) {
	begin := time.Now()
	limit, err := limitParam("limit", p.Limit, defaultScanLimit, maxScanLimit)
	if err != nil {
		return nil, err
	}
	depth := valueOr(p.MaxDepth, defaultScanDepth)
	switch {
	case depth < 0 || depth > maxScanDepth:
		return nil, invalidParam("max_depth", "must be 0 to %d, not %d", maxScanDepth, depth)
	case len(p.Paths) > maxScanPaths:
		return nil, invalidParam("paths", "has %d paths, at most %d are allowed", len(p.Paths), maxScanPaths)
	}
	exclude, err := compileGlobs("exclude", p.Exclude)
	if err != nil {
		return nil, err
	}
	starts, err := f.scanStarts(p.Paths)
	if err != nil {
		return nil, err
	}
	s := &repoScan{files: f, maxDepth: depth, limit: limit, exclude: exclude, prune: pruneGlobs(exclude), found: make(chan *repository, scanReaders), seen: map[string]bool{}}
	repos, err := s.run(ctx, starts)
	if err != nil {
		return nil, err
	}
	result := &repoScanResult{Repos: []repoFacts{}, ScannedDirs: s.scanned, Truncated: s.truncated}
	for _, r := range repos {
		result.Repos = append(result.Repos, r.facts)
	}
	result.DurationMS = time.Since(begin).Milliseconds()
	return result, nil
}

// scanStarts resolves where a scan begins: the given paths, or all allowed
// directories. They must be there.
func (f *fsService) scanStarts(paths []string) ([]resolvedPath, error) {
	given := paths
	if given == nil {
		given = f.access.allowed()
	}
	var starts []resolvedPath
	for _, path := range given {
		text, err := pathParam{Path: path}.text("paths")
		if err != nil {
			return nil, err
		}
		at, err := f.access.resolvePath(text)
		if err != nil {
			return nil, err
		}
		starts = append(starts, at)
	}
	slices.SortFunc(starts, func(x, y resolvedPath) int { return cmp.Compare(x.abs, y.abs) })
	return slices.CompactFunc(starts, func(x, y resolvedPath) bool { return x.abs == y.abs }), nil
}

// run walks from the starts and reads what it finds.
func (s *repoScan) run(ctx context.Context, starts []resolvedPath) ([]*foundRepo, error) {
	var (
		readers sync.WaitGroup
		mu      sync.Mutex // guards repos
		repos   []*foundRepo
	)
	for range scanReaders {
		// Ends when found is closed, which the walk below always does.
		readers.Go(func() {
			for r := range s.found {
				if ctx.Err() != nil {
					continue // drain: the walk may be about to send
				}
				repo := s.files.describe(r)
				mu.Lock()
				repos = append(repos, &repo)
				mu.Unlock()
			}
		})
	}
	err := s.walk(ctx, starts)
	close(s.found)
	readers.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(repos, func(x, y *foundRepo) int { return cmp.Compare(x.facts.Path, y.facts.Path) })
	return repos, s.files.lastCommits(ctx, repos)
}

func (s *repoScan) walk(ctx context.Context, starts []resolvedPath) error {
	for _, at := range starts {
		dir, err := s.files.access.openDir(at)
		if err != nil {
			return err
		}
		self, err := dir.info()
		if err == nil {
			err = s.dir(ctx, dir, at.abs, "", 0, self.id.dev)
		}
		dir.close()
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil {
			return s.files.walkError(ctx, err, at.abs)
		}
	}
	return nil
}

// dir looks at one directory: it is a repository, or its subdirectories are
// walked, in the order of their names. rel is its path below the start, with a
// slash at its end.
func (s *repoScan) dir(ctx context.Context, d *dirHandle, abs, rel string, depth int, dev uint64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.seen[abs] {
		return nil // from another start
	}
	if s.scanned++; s.scanned%progressEvery == 0 {
		reportProgress(ctx, progress{Phase: "scanning", Message: "looking for repositories", Done: int64(s.scanned)})
	}
	var hasGit, hasHead, hasObjects, hasRefs bool
	keep := func(name string, typ fs.FileMode) (dirEntryName, bool) {
		switch name {
		case ".git":
			hasGit = true
			return dirEntryName{}, false
		case "HEAD":
			hasHead = true
		case "objects":
			hasObjects = true
		case "refs":
			hasRefs = true
		}
		typ = d.typeOf(name, typ)
		return dirEntryName{key: name, name: name, typ: typ}, typ.IsDir() && !hasSecretName(name)
	}
	for after := ""; ; {
		names, more, err := d.namesAfter(ctx, after, chunkSize(depth), keep)
		if err != nil {
			return err
		}
		if after == "" && (hasGit || hasHead && hasObjects && hasRefs) {
			if r := s.files.repositoryIn(abs, !hasGit); r != nil {
				return s.send(ctx, r)
			}
		}
		if depth >= s.maxDepth {
			return nil
		}
		for _, n := range names {
			if err := s.child(ctx, d, abs, rel+n.name, depth, dev); err != nil {
				return err
			}
			after = n.key
		}
		if !more {
			return nil
		}
	}
}

// child walks the directory rel, the last name of which is in d. One that
// cannot be opened is passed over, as one on another file system is.
func (s *repoScan) child(ctx context.Context, d *dirHandle, abs, rel string, depth int, dev uint64) error {
	if s.exclude.match(rel) || s.prune.match(rel) {
		return nil
	}
	name := rel[strings.LastIndexByte(rel, '/')+1:]
	sub, err := d.openDir(name)
	if err != nil {
		return nil // not ours to read, or gone
	}
	defer sub.close()
	self, err := sub.info()
	if err != nil || self.id.dev != dev {
		return nil
	}
	abs = filepath.Join(abs, name)
	err = s.dir(ctx, sub, abs, rel+"/", depth+1, dev)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errEnough) {
		s.files.log.Debug("passing over a directory", "path", abs, "error", err)
		return nil
	}
	return err
}

// send hands a repository to the readers; errEnough when there are too many.
func (s *repoScan) send(ctx context.Context, r *repository) error {
	if s.repos == s.limit {
		s.truncated = true
		return errEnough
	}
	s.repos++
	s.seen[r.top.abs] = true
	select {
	case s.found <- r:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
