package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	defaultScanDepth = 8
	// maxScanDepth bounds the depth of a scan; directories that people create
	// are not deeper.
	maxScanDepth = 64
	// defaultScanLimit and maxScanLimit bound the repositories in a result;
	// each takes at most a few kilobytes.
	defaultScanLimit = 1000
	maxScanLimit     = 5000
	// maxScanPaths bounds the directories at which one scan starts.
	maxScanPaths = 100
	// scanReaders is the number of repositories read concurrently with the
	// walk.
	scanReaders = 4
	// progressEvery is the number of entries or directories between two
	// progress reports.
	progressEvery = 512
)

type repoScanParams struct {
	Paths    []string `json:"paths,omitempty" doc:"where to start, at most 100; default: all allowed directories"`
	MaxDepth *int     `json:"max_depth,omitempty" doc:"levels to descend, 0 to 64; 0 checks only the paths themselves; default 8"`
	Exclude  []string `json:"exclude,omitempty" doc:"globs of directories to skip, relative to where the scan starts"`
	Limit    *int     `json:"limit,omitempty" doc:"repositories, 1 to 5,000; default 1,000"`
}

type repoScanResult struct {
	Repos       []repoFacts `json:"repos" doc:"sorted by path"`
	ScannedDirs int         `json:"scanned_dirs" doc:"number of directories read"`
	Truncated   bool        `json:"truncated" doc:"true if there are more than limit"`
	Skipped     int         `json:"skipped" doc:"directories passed over because they cannot be read"`
	DurationMS  int64       `json:"duration_ms"`
}

// repoScan is the state of one scan. The caller's goroutine walks the
// directories; other goroutines read the repositories that it finds.
type repoScan struct {
	files    *fsService
	maxDepth int
	limit    int
	exclude  globs
	prune    globs            // those of exclude that can match a whole directory
	found    chan *repository // run closes it
	repos    int              // number sent to found
	mark     int              // moment at which the scan began, see replacements

	everything bool // it starts at all allowed directories
	secrets    []fileID
	scanned    int
	skipped    int
	seen       map[string]bool // paths of repositories sent; one start may lie inside another
	truncated  bool
}

// repoScan implements fs/repoScan.
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
	starts, err := f.scanStarts(ctx, p.Paths)
	if err != nil {
		return nil, err
	}
	s := &repoScan{files: f, maxDepth: depth, limit: limit, exclude: exclude, prune: pruneGlobs(exclude), everything: p.Paths == nil, secrets: f.access.secretIDs(), found: make(chan *repository, scanReaders), seen: map[string]bool{}, mark: f.access.replaced.mark()}
	repos, err := s.run(ctx, starts)
	if err != nil {
		return nil, err
	}
	result := &repoScanResult{Repos: []repoFacts{}, ScannedDirs: s.scanned, Truncated: s.truncated, Skipped: s.skipped}
	for _, r := range repos {
		result.Repos = append(result.Repos, r.facts)
	}
	result.DurationMS = time.Since(begin).Milliseconds()
	return result, nil
}

// scanStarts resolves the directories at which a scan starts: the given paths,
// or all allowed directories. They must exist.
func (f *fsService) scanStarts(ctx context.Context, paths []string) ([]resolvedPath, error) {
	given := paths
	if given == nil {
		given = f.access.allowed()
	}
	var starts []resolvedPath
	for i, path := range given {
		text, err := pathParam{Path: path}.text("paths")
		if err != nil {
			return nil, err
		}
		if err := readIn(ctx, f.access.rootOf(text)); err != nil {
			return nil, err
		}
		at, err := f.access.resolvePath(text)
		if err != nil && paths == nil {
			continue // an allowed directory that is denied to this daemon
		}
		if err != nil {
			return nil, renameParam(err, fmt.Sprintf("paths[%d]", i))
		}
		starts = append(starts, at)
	}
	sortBy(starts, func(x, y resolvedPath) int { return cmp.Compare(x.abs, y.abs) })
	var once []resolvedPath
	for n, start := range starts {
		if n == 0 || start.abs != starts[n-1].abs {
			once = append(once, start)
		}
	}
	return once, nil
}

// run walks from the starts and describes the repositories found, sorted by
// path.
func (s *repoScan) run(ctx context.Context, starts []resolvedPath) ([]*foundRepo, error) {
	var (
		readers sync.WaitGroup
		mu      sync.Mutex // guards repos
		repos   []*foundRepo
	)
	for range scanReaders {
		// Ends when found is closed, which happens below in every case.
		readers.Go(func() {
			for r := range s.found {
				if ctx.Err() != nil {
					continue // keep receiving: the walk may be blocked on a send
				}
				repo := s.files.describeWhole(r, s.mark)
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
	sortBy(repos, func(x, y *foundRepo) int { return cmp.Compare(x.facts.Path, y.facts.Path) })
	return repos, s.files.lastCommits(ctx, repos)
}

func (s *repoScan) walk(ctx context.Context, starts []resolvedPath) error {
	for _, at := range starts {
		if err := readIn(ctx, at.root); err != nil {
			return err
		}
		dir, err := s.files.access.openDir(at)
		if err != nil && s.everything && ctx.Err() == nil {
			s.skipped++ // such as a disk that is unplugged
			continue
		}
		if err != nil {
			return err
		}
		self, err := dir.info()
		if err == nil {
			err = opened(ctx)
		}
		if err == nil {
			err = s.dir(ctx, dir, at.abs, "", 0, self)
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

// dir visits one directory: either it is a repository, or its subdirectories
// are walked in the order of their names. rel is its path below the start and
// ends with a slash.
func (s *repoScan) dir(ctx context.Context, d *dirHandle, abs, rel string, depth int, self entryInfo) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	beat(ctx)
	if s.seen[abs] {
		return nil // already found from another start
	}
	if s.scanned++; s.scanned%progressEvery == 0 {
		reportProgress(ctx, progress{Phase: "scanning", Message: "searching for repositories", Done: int64(s.scanned)})
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
			if err := s.child(ctx, d, abs, rel+n.name, depth, self); err != nil {
				return err
			}
			after = n.key
		}
		if !more {
			return nil
		}
	}
}

// child walks the directory rel, whose last element is an entry of d. It skips
// a directory that cannot be opened or belongs to the kernel. parent describes
// d.
func (s *repoScan) child(ctx context.Context, d *dirHandle, abs, rel string, depth int, parent entryInfo) error {
	if s.exclude.match(rel) || s.prune.covers(rel) {
		return nil
	}
	name := rel[strings.LastIndexByte(rel, '/')+1:]
	abs = filepath.Join(abs, name)
	sub, self, err := d.child(name, parent)
	if err != nil {
		s.skipped++ // not readable, or removed
		return nil
	}
	if sub == nil {
		return nil
	}
	defer sub.close()
	if s.files.access.hides(abs, self.id, s.secrets) {
		return nil
	}
	err = s.dir(ctx, sub, abs, rel+"/", depth+1, self)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errEnough) {
		s.files.log.Debug("skipping a directory that cannot be read", "path", abs, "error", err)
		s.skipped++
		return nil
	}
	return err
}

// send passes a repository to the readers. It returns errEnough when the limit
// is reached.
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
