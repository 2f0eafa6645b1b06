package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
)

// diffParams are the params of index/diff.
type diffParams struct {
	pathParam
	From    string  `json:"from" doc:"branch, tag or commit id"`
	To      *string `json:"to,omitempty" doc:"branch, tag or commit id; default HEAD"`
	Renames *bool   `json:"renames,omitempty" doc:"detect renames; default true; only those of unchanged files if a blob is missing"`
	Limit   *int    `json:"limit,omitempty" doc:"changes per page, 1 to 100,000; default 10,000"`
	Cursor  *string `json:"cursor,omitempty" doc:"next_cursor of the previous page"`
}

// diffResult is the result of index/diff.
type diffResult struct {
	From       *string      `json:"from" doc:"commit id; null if there are no commits"`
	To         *string      `json:"to" doc:"commit id; null if there are no commits"`
	Total      int64        `json:"total" doc:"number of all changes"`
	Changes    []diffChange `json:"changes" doc:"sorted by path"`
	NextCursor *string      `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
}

// diffChange is a path that differs between the commits.
type diffChange struct {
	Status        string  `json:"status" enum:"A,M,D,R,C,T" doc:"added, modified, deleted, renamed, copied or type changed"`
	Path          string  `json:"path" doc:"relative to the requested path, separated by /"`
	PathBase64    string  `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	OldPath       string  `json:"old_path,omitempty" doc:"the path before a rename"`
	OldPathBase64 string  `json:"old_path_base64,omitempty" doc:"base64 of the old path; only if it is not valid UTF-8"`
	Score         *int    `json:"score,omitempty" doc:"similarity of a renamed file in percent"`
	OID           *string `json:"oid" doc:"blob id; null if deleted"`
	OldOID        *string `json:"old_oid" doc:"blob id before the change; null if added"`
	Mode          string  `json:"mode" doc:"git's file mode in six octal digits; 000000 if deleted"`
	OldMode       string  `json:"old_mode" doc:"git's file mode before the change; 000000 if added"`
	Size          *int64  `json:"size" doc:"size of the new blob in bytes; null if deleted or unknown"`
}

// diff implements index/diff.
func (g *gitReader) diff(ctx context.Context, p diffParams) (diffResult, error) {
	limit, err := limitParam("limit", p.Limit, manifestLimit, maxManifestLimit)
	if err != nil {
		return diffResult{}, err
	}
	v, err := g.open(p.pathParam, objectsView)
	if err != nil {
		return diffResult{}, err
	}
	defer v.remove()
	repo := v.repo
	to := valueOr(p.To, "HEAD")
	renames := valueOr(p.Renames, true)
	request := fingerprint("index/diff", repo.top.abs, repo.prefix, p.From, to, strconv.FormatBool(renames))
	// The next page is usually of the same commits, which can be found without git.
	if list, _ := g.diffs.find(fingerprint(request, repo.fixed(p.From), repo.fixed(to))).(*diffList); list != nil && p.Cursor != nil {
		cursor, err := startCursor(p.Cursor, request, list.state)
		if err != nil {
			return diffResult{}, err
		}
		if list.holds(cursor.At, limit) {
			return g.diffPage(ctx, v, list, cursor, limit)
		}
	}
	commits, trees, err := g.treesOf(ctx, v, namedRevision{"from", p.From}, namedRevision{"to", to})
	if err != nil {
		return diffResult{}, err
	}
	cursor, err := startCursor(p.Cursor, request, fingerprint(trees...))
	if err != nil {
		return diffResult{}, err
	}
	key := fingerprint(request, commits[0], commits[1])
	if list, _ := g.diffs.find(key).(*diffList); list != nil && list.holds(cursor.At, limit) {
		return g.diffPage(ctx, v, list, cursor, limit)
	}
	find := "--no-renames"
	if renames {
		find = "--find-renames"
	}
	list := &diffList{key: key, state: cursor.State, from: commits[0], to: commits[1], first: cursor.At}
	most := max(limit, maxKeptChanges)
	list.changes, list.total, err = g.diffTrees(ctx, v, trees[0], trees[1], find, cursor.At, most)
	if e, ok := errors.AsType[*gitError](err); ok && renames && e.reason == gitCorrupt {
		// Git compares the contents of files for renames, and stops at the first
		// that is missing. Identical files are found by their ids.
		list.changes, list.total, err = g.diffTrees(ctx, v, trees[0], trees[1], "--find-renames=100%", cursor.At, most)
	}
	if err != nil {
		return diffResult{}, err
	}
	return g.diffPage(ctx, v, list, cursor, limit)
}

// diffPage returns the page at the cursor, and keeps the list while more of its
// pages follow.
func (g *gitReader) diffPage(ctx context.Context, v *gitView, list *diffList, cursor pageCursor, limit int) (diffResult, error) {
	if !list.sized && (len(list.changes) <= maxSizedAtOnce || g.diffs.find(list.key) == list) { // a caller who pages gets the sizes of all at once
		all := *list
		all.changes, all.sized = slices.Clone(list.changes), true
		if err := g.addSizes(ctx, v, all.changes); err != nil {
			return diffResult{}, err
		}
		list = &all
	}
	rest := list.changes[min(max(cursor.At-list.first, 0), int64(len(list.changes))):]
	changes := rest[:min(limit, len(rest))]
	if !list.sized {
		changes = slices.Clone(changes)
		if err := g.addSizes(ctx, v, changes); err != nil {
			return diffResult{}, err
		}
	}
	if len(rest) > len(changes) {
		g.diffs.keep(list.key, list, len(list.changes)*changeBytes)
	} else {
		g.diffs.drop(list.key)
	}
	result := diffResult{From: optionalString(list.from), To: optionalString(list.to), Total: list.total, Changes: changes}
	if cursor.At+int64(len(changes)) < list.total {
		result.NextCursor = cursor.next(len(changes))
	}
	return result, nil
}

const (
	// maxKeptChanges bounds the changes of one kept list: some 10 MB.
	maxKeptChanges = 20_000
	changeBytes    = 500
	// maxSizedAtOnce bounds the changes that the first page gets the sizes of for all
	// pages: it takes less time than another git process.
	maxSizedAtOnce = 1000
)

// diffList is a part of the changes between two commits, in order.
type diffList struct {
	key, state string
	from, to   string       // commit ids
	first      int64        // index of the first change
	changes    []diffChange // not changed once the list is kept
	sized      bool         // changes have their sizes
	total      int64        // number of all changes
}

// holds reports whether a page is wholly in the list.
func (l *diffList) holds(at int64, limit int) bool {
	end := l.first + int64(len(l.changes))
	return at >= l.first && (at+int64(limit) <= end || at < end && end == l.total)
}

// diffTrees returns up to limit changes after the first skip ones, and the number of
// all. renames is git's option for finding renames.
func (g *gitReader) diffTrees(ctx context.Context, v *gitView, from, to, renames string, skip int64, limit int) (changes []diffChange, total int64, err error) {
	changes = []diffChange{}
	command := v.command("diff-tree", "--raw", "-z", "-r", "--no-abbrev", "--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=dirty", renames, "--end-of-options", from, to, "--")
	err = g.git.stream(ctx, command, func(r *bufio.Reader) error {
		for {
			change, err := readChange(r)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if hasSecretName(change.Path) || hasSecretName(change.OldPath) {
				continue // never reveal the daemon's own files
			}
			if total >= skip && len(changes) < limit {
				changes = append(changes, change)
			}
			total++
		}
	})
	return changes, total, err
}

// readChange reads one change of git diff-tree --raw -z. It returns io.EOF if
// there is none left.
func readChange(r *bufio.Reader) (diffChange, error) {
	head, _, err := readUntil(r, 0, maxPathField)
	if err != nil {
		return diffChange{}, err
	}
	change, err := parseChangeHead(head)
	if err != nil {
		return diffChange{}, err
	}
	name := func() (string, error) {
		field, cut, err := readUntil(r, 0, maxPathField)
		if err == nil && (cut || len(field) == 0) {
			err = badOutput("diff-tree", field)
		}
		return string(field), torn(err)
	}
	path, err := name()
	if err != nil {
		return diffChange{}, err
	}
	if change.Status == "R" || change.Status == "C" {
		change.OldPath, change.OldPathBase64 = showName(path), nameBase64(path)
		if path, err = name(); err != nil {
			return diffChange{}, err
		}
	}
	change.Path, change.PathBase64 = showName(path), nameBase64(path)
	return change, nil
}

// parseChangeHead parses ":mode mode id id status" (git-diff-tree(1), RAW
// OUTPUT FORMAT).
func parseChangeHead(head []byte) (diffChange, error) {
	fields := strings.Fields(string(head))
	if len(fields) != 5 || !strings.HasPrefix(fields[0], ":") || len(fields[0]) != 7 || len(fields[1]) != 6 || !isObjectID(fields[2]) || !isObjectID(fields[3]) {
		return diffChange{}, badOutput("diff-tree", head)
	}
	change := diffChange{OldMode: fields[0][1:], Mode: fields[1], OldOID: nullID(fields[2]), OID: nullID(fields[3]), Status: fields[4][:1]}
	if !strings.Contains("AMDRCT", change.Status) {
		return diffChange{}, badOutput("diff-tree", head)
	}
	if score := fields[4][1:]; change.Status == "R" || change.Status == "C" {
		n, err := strconv.Atoi(score)
		if err != nil || n < 0 || n > 100 {
			return diffChange{}, badOutput("diff-tree", head)
		}
		change.Score = &n
	}
	return change, nil
}

// nullID returns nil if oid is git's null id, and otherwise a pointer to oid.
func nullID(oid string) *string {
	if bytes.Count([]byte(oid), []byte("0")) == len(oid) {
		return nil
	}
	return &oid
}

// addSizes sets the sizes of the new blobs.
func (g *gitReader) addSizes(ctx context.Context, v *gitView, changes []diffChange) error {
	var oids []string
	var indexes []int
	for n, change := range changes {
		if change.OID != nil && change.Mode != modeSubmodule {
			oids, indexes = append(oids, *change.OID), append(indexes, n)
		}
	}
	if len(oids) == 0 {
		return nil
	}
	objects, err := g.lookUp(ctx, v, oids)
	if err != nil {
		return err
	}
	for n, o := range objects {
		if o.oid != "" { // a partial clone may not have the blob
			changes[indexes[n]].Size = &o.size
		}
	}
	return nil
}
