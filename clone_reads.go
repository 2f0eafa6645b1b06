package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const (
	// maxReplacedKept bounds the exchanges that are remembered. A read that began
	// before the oldest of them is taken for one that was disturbed.
	maxReplacedKept = 1000
	// maxReadTries is how often a request reads anew because a clone was replaced
	// meanwhile, before it is CONFLICT.
	maxReadTries = 3
)

// replacements remembers which repositories vcs/clone replaced. A request opens
// many files, one after the other; when a repository is exchanged in between it
// sees some of the old state and some of the new one. So it looks here when it
// has ended.
type replacements struct {
	mu      sync.Mutex
	running []string // under mu: paths that are being replaced
	ended   []string // under mu: paths that were replaced, the last ones
	total   int      // under mu: how many were ever
}

// begin notes that the repository at path is about to be replaced. The caller
// calls ended right after that.
func (r *replacements) begin(path string) (ended func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = append(r.running, path)
	return func() { r.end(path) }
}

func (r *replacements) end(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.running, path)
	r.running = slices.Delete(r.running, i, i+1)
	r.ended = append(r.ended, path)
	if len(r.ended) > maxReplacedKept {
		r.ended = slices.Delete(r.ended, 0, len(r.ended)-maxReplacedKept)
	}
	r.total++
}

// mark is the moment when a read begins.
func (r *replacements) mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// since lists the paths that were replaced after mark, or are being replaced;
// known is false where that is too long ago.
func (r *replacements) since(mark int) (paths []string, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	paths = slices.Clone(r.running)
	n := r.total - mark
	if n > len(r.ended) {
		return nil, false
	}
	return append(paths, r.ended[len(r.ended)-n:]...), true
}

// readsWhole makes a method that reads files give the old state of a clone, its
// new one or CONFLICT, never parts of both: the method is called again when what
// it read was replaced meanwhile.
func (m *method) readsWhole(a *access) *method {
	call := m.call
	m.call = func(ctx context.Context, params json.RawMessage) (any, error) {
		for range maxReadTries {
			mark := a.replaced.mark()
			result, err := call(ctx, params)
			if ctx.Err() != nil || !a.disturbed(mark, params) {
				return result, err
			}
		}
		return nil, failure(codeConflict, "a repository below the path was cloned or updated while it was read: ask again")
	}
	return m
}

// disturbed reports whether anything that a request with these params reads was
// replaced since mark.
func (a *access) disturbed(mark int, params json.RawMessage) bool {
	if replaced, known := a.replaced.since(mark); known && len(replaced) == 0 {
		return false // as nearly always
	}
	var given struct {
		pathParam
		Paths []string `json:"paths"`
		URL   string   `json:"url"`
	}
	if decodeParams(params, &given) != nil {
		return false // nothing was read
	}
	texts := given.Paths
	if text, err := given.text("path"); err == nil {
		texts = append(texts, text)
	}
	return a.replacedAt(mark, append(texts, localPaths(given.URL)...))
}

// localPaths returns the path of a URL that names a local repository.
func localPaths(text string) []string {
	if u, err := parseRemoteURL(text); err == nil && u.scheme == "file" {
		return []string{u.path}
	}
	return nil
}

// replacedAt reports whether a repository at, above or below one of these paths was
// replaced since mark.
func (a *access) replacedAt(mark int, texts []string) bool {
	replaced, known := a.replaced.since(mark)
	if !known {
		return len(texts) > 0
	}
	return slices.ContainsFunc(texts, func(text string) bool { return a.overlaps(text, replaced) })
}

// overlaps reports whether one of the repositories lies at, above or below a path
// from the wire, as it is written or with its links resolved.
func (a *access) overlaps(text string, repos []string) bool {
	if !filepath.IsAbs(text) {
		text = filepath.Join(a.workDir, text)
	}
	paths := []string{filepath.Clean(text)}
	if at, err := a.resolvePath(text); err == nil {
		paths = append(paths, at.abs)
	}
	for _, path := range paths {
		for _, repo := range repos {
			if isAtOrBelow(path, repo) || isAtOrBelow(repo, path) {
				return true
			}
		}
	}
	return false
}

// isAtOrBelow compares without case, as some file systems do: where that is
// wrong, a request is only read once more.
func isAtOrBelow(path, dir string) bool {
	path, dir = strings.ToLower(path), strings.TrimSuffix(strings.ToLower(dir), string(filepath.Separator))
	return path == dir || strings.HasPrefix(path, dir+string(filepath.Separator))
}
