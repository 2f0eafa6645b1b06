package main

import (
	"bufio"
	"context"
	"strconv"
)

const (
	// manifestLimit is the default limit of index/manifest and index/diff.
	manifestLimit = 10_000
	// maxManifestLimit is the largest: some 20 MiB of JSON, more than a message
	// may have by default.
	maxManifestLimit = 100_000
)

// manifestParams are the params of index/manifest.
type manifestParams struct {
	pathParam
	Commit  *string  `json:"commit,omitempty" doc:"branch, tag or commit id; default HEAD"`
	Include []string `json:"include,omitempty" doc:"globs of files to include; default: all files"`
	Exclude []string `json:"exclude,omitempty" doc:"globs of files to leave out"`
	Limit   *int     `json:"limit,omitempty" doc:"files per page, 1 to 100,000; default 10,000"`
	Cursor  *string  `json:"cursor,omitempty" doc:"next_cursor of the previous page"`
}

// manifestResult is the result of index/manifest.
type manifestResult struct {
	Commit     *string        `json:"commit" doc:"full commit id; null if there are no commits"`
	Tree       *string        `json:"tree" doc:"id of the tree at the requested path; null if there are no commits"`
	Files      []manifestFile `json:"files" doc:"sorted by path, bytewise"`
	Total      int64          `json:"total" doc:"number of files on all pages"`
	NextCursor *string        `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
}

// manifestFile is a file, a symlink or a submodule of a commit.
type manifestFile struct {
	Path       string `json:"path" doc:"relative to the requested path, separated by /"`
	PathBase64 string `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	OID        string `json:"oid" doc:"blob id; commit id for a submodule"`
	Mode       string `json:"mode" doc:"git's file mode in six octal digits"`
	Size       *int64 `json:"size" doc:"size in bytes; null for a submodule and for a missing blob, as in a partial clone"`
}

// manifest implements index/manifest.
func (g *gitReader) manifest(ctx context.Context, p manifestParams) (manifestResult, error) {
	limit, err := limitParam("limit", p.Limit, manifestLimit, maxManifestLimit)
	if err != nil {
		return manifestResult{}, err
	}
	filter, err := newTreeFilter(p.Include, p.Exclude)
	if err != nil {
		return manifestResult{}, err
	}
	repo, err := openRepository(g.access, p.pathParam)
	if err != nil {
		return manifestResult{}, err
	}
	rev := valueOr(p.Commit, "HEAD")
	request := fingerprint("index/manifest", repo.top.abs, repo.prefix, rev, fingerprintList(p.Include), fingerprintList(p.Exclude))
	keyOf := func(commit string) string { return fingerprint(request, commit) }
	if p.Cursor != nil {
		// The next page is usually of the same commit, which can be found
		// without git.
		if l, _ := g.listings.find(keyOf(repo.fixed(rev))).(*listing); l != nil {
			cursor, err := startCursor(p.Cursor, request, l.tree)
			if err != nil {
				return manifestResult{}, err
			}
			if l.holds(cursor.At) {
				return g.page(l, cursor, limit, true), nil
			}
		}
	}

	v, err := repo.gitView(objectsView)
	if err != nil {
		return manifestResult{}, err
	}
	defer v.remove()
	commits, trees, err := g.treesOf(ctx, v, namedRevision{"commit", rev})
	if err != nil {
		return manifestResult{}, err
	}
	commit, tree := commits[0], trees[0]
	cursor, err := startCursor(p.Cursor, request, tree)
	if err != nil {
		return manifestResult{}, err
	}
	if commit == "" {
		return manifestResult{Files: []manifestFile{}}, nil
	}
	key := keyOf(commit)
	if l, _ := g.listings.find(key).(*listing); l != nil && l.holds(cursor.At) {
		return g.page(l, cursor, limit, true), nil
	}
	l, err := g.list(ctx, v, tree, filter, key, cursor)
	if err != nil {
		return manifestResult{}, err
	}
	l.commit, l.tree = commit, tree
	return g.page(l, cursor, limit, false), nil
}

// page returns the page at the cursor, which lies within the listing, and keeps
// the listing while more pages follow.
func (g *gitReader) page(l *listing, cursor pageCursor, limit int, cached bool) manifestResult {
	cursor.Total = l.total
	result := manifestResult{Commit: &l.commit, Tree: &l.tree, Total: l.total, Files: l.files(cursor.At, limit)}
	more := cursor.At+int64(len(result.Files)) < l.total && len(result.Files) > 0
	switch {
	case more:
		result.NextCursor = cursor.next(len(result.Files))
		if !cached {
			g.listings.keep(l.key, l, l.bytes)
		}
	case cached:
		g.listings.drop(l.key)
	}
	return result
}

// list reads the entries of a tree that pass the filter, starting at the
// cursor, as many as a listing holds. Only the first page reads to the end of
// the tree, to count the files.
func (g *gitReader) list(ctx context.Context, v *gitView, tree string, filter *treeFilter, key string, from pageCursor) (*listing, error) {
	l := &listing{key: key, first: from.At}
	n := int64(0)
	err := g.git.stream(ctx, v.command("ls-tree", "-r", "-z", "-l", "--full-tree", "--end-of-options", tree), func(r *bufio.Reader) error {
		err := readRecords(r, func(record []byte) error {
			e, err := parseTreeEntry(record)
			if err != nil || !filter.entry(e.path) {
				return err
			}
			if n >= from.At && !l.full() {
				if err := l.add(e); err != nil {
					return err
				}
			} else if l.full() && from.At > 0 {
				return errEnough
			}
			n++
			return nil
		})
		if err == errEnough {
			return nil // stream stops git
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	l.seal()
	l.total = n
	if from.At > 0 {
		l.total = from.Total
	}
	return l, nil
}

func (r manifestResult) jsonSize() int {
	const fileSize = 192 // bytes of a file with a long path
	return len(r.Files)*fileSize + fileSize
}

func (r manifestResult) appendJSON(to []byte) []byte {
	to = appendOptionalString(append(to, `{"commit":`...), r.Commit)
	to = appendOptionalString(append(to, `,"tree":`...), r.Tree)
	to = append(to, `,"files":[`...)
	for n := range r.Files {
		if n > 0 {
			to = append(to, ',')
		}
		to = r.Files[n].appendJSON(to)
	}
	to = strconv.AppendInt(append(to, `],"total":`...), r.Total, 10)
	to = appendOptionalString(append(to, `,"next_cursor":`...), r.NextCursor)
	return append(to, '}')
}

func (f *manifestFile) appendJSON(to []byte) []byte {
	to = appendJSONString(append(to, `{"path":`...), f.Path)
	if f.PathBase64 != "" {
		to = appendJSONString(append(to, `,"path_base64":`...), f.PathBase64)
	}
	to = appendJSONString(append(to, `,"oid":`...), f.OID)
	to = appendJSONString(append(to, `,"mode":`...), f.Mode)
	to = append(to, `,"size":`...)
	if f.Size == nil {
		return append(to, "null}"...)
	}
	return append(strconv.AppendInt(to, *f.Size, 10), '}')
}
