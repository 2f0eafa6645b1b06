package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

type globParams struct {
	pathParam
	Include          []string `json:"include,omitempty" doc:"globs of files to include, as in git, such as **/*.go; default: all files"`
	Exclude          []string `json:"exclude,omitempty" doc:"globs of files to leave out"`
	RespectGitignore *bool    `json:"respect_gitignore,omitempty" doc:"leave out files that git ignores; default true"`
	Limit            *int     `json:"limit,omitempty" doc:"files per page, 1 to 25,000; default 10,000"`
	Cursor           *string  `json:"cursor,omitempty" doc:"next_cursor of the previous page"`
}

type globResult struct {
	Files      []globFile `json:"files" doc:"regular files, sorted by path, bytewise"`
	NextCursor *string    `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
	Head       *string    `json:"head,omitempty" doc:"commit that was checked out; absent outside a repository and without commits"`
	Skipped    int        `json:"skipped" doc:"directories and files passed over on this page because they cannot be read"`
}

type globFile struct {
	Path       string `json:"path" doc:"relative to the requested path, separated by /"`
	PathBase64 string `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Size       int64  `json:"size" doc:"size in bytes"`
	Mtime      string `json:"mtime" doc:"modification time, RFC 3339 in UTC"`
}

func (r *globResult) jsonSize() int {
	const fileSize = 160 // bytes of a file with a long path
	return len(r.Files)*fileSize + fileSize
}

func (r *globResult) appendJSON(to []byte) []byte {
	to = append(to, `{"files":[`...)
	for n := range r.Files {
		f := &r.Files[n]
		if n > 0 {
			to = append(to, ',')
		}
		to = appendJSONString(append(to, `{"path":`...), f.Path)
		if f.PathBase64 != "" {
			to = appendJSONString(append(to, `,"path_base64":`...), f.PathBase64)
		}
		to = strconv.AppendInt(append(to, `,"size":`...), f.Size, 10)
		to = append(appendJSONString(append(to, `,"mtime":`...), f.Mtime), '}')
	}
	to = appendOptionalString(append(to, `],"next_cursor":`...), r.NextCursor)
	if r.Head != nil {
		to = appendJSONString(append(to, `,"head":`...), *r.Head)
	}
	return append(strconv.AppendInt(append(to, `,"skipped":`...), int64(r.Skipped), 10), '}')
}

// glob implements fs/glob.
func (f *fsService) glob(ctx context.Context, p globParams) (*globResult, error) {
	limit, err := limitParam("limit", p.Limit, maxPageEntries, maxGlobEntries)
	if err != nil {
		return nil, err
	}
	filter, err := newTreeFilter(p.Include, p.Exclude)
	if err != nil {
		return nil, err
	}
	at, dir, self, err := f.openDir(ctx, p.pathParam)
	if err != nil {
		return nil, err
	}
	defer dir.close()
	respect := valueOr(p.RespectGitignore, true)
	cursor, err := readCursor(p.Cursor, fingerprint("fs/glob", at.abs, fingerprintList(p.Include), fingerprintList(p.Exclude), strconv.FormatBool(respect)))
	if err != nil {
		return nil, err
	}
	g := &globPage{ctx: ctx, access: f.access, filter: filter, start: dir, self: self, at: at, abs: at.abs, limit: limit, cursor: cursor, secrets: f.access.secretIDs(), denies: f.access.deniesBelow(at.abs), gitDirs: namedGitDirs{access: f.access, start: at.abs}}
	var repo *repository
	if respect {
		repo = f.workTreeOf(at)
	}
	if repo != nil {
		err = g.list(f, repo)
	} else {
		err = g.walk(respect)
	}
	if err != nil {
		return nil, f.walkError(ctx, err, at.abs)
	}
	result := &globResult{Files: g.files, Head: f.headOf(at), Skipped: g.skipped}
	if result.Files == nil {
		result.Files = []globFile{}
	}
	if g.more {
		result.NextCursor = g.cursor.text()
	}
	return result, nil
}

// globPage collects one page of fs/glob.
type globPage struct {
	ctx     context.Context
	access  *access
	filter  *treeFilter
	start   *dirHandle
	self    entryInfo // describes start
	at      resolvedPath
	abs     string // absolute path of start
	limit   int
	cursor  pageCursor // at first where the page starts, at the end where it ends
	secrets []fileID
	denies  bool // a path below may be denied
	gitDirs namedGitDirs

	files   []globFile
	size    int // of files as JSON
	more    bool
	skipped int
	seen    atomic.Int64
	tracked map[string]bool // listed whatever the rules say; directories above them included
	rules   *ignoreRules    // of the repository
	chain   []entryInfo     // the directories from start to the current one
}

func newGlobFile(rel string, info entryInfo) globFile {
	return globFile{Path: showName(rel), PathBase64: nameBase64(rel), Size: info.size, Mtime: wireTime(info.mtime)}
}

// add appends a file to the page. It returns errEnough when the page is full.
func (g *globPage) add(rel string, file globFile) error {
	if file.Path == "" {
		return nil
	}
	const rest = 120 // keys, punctuation, numbers and the time
	g.size += rest + jsonSize(file.Path) + len(file.PathBase64)
	if len(g.files) == g.limit || g.size > maxPageBytes && len(g.files) > 0 {
		g.more = true
		return errEnough
	}
	g.files = append(g.files, file)
	g.cursor.After = []byte(rel)
	return nil
}

// hidesDir reports whether the directory rel must not be entered.
func (g *globPage) hidesDir(rel string, id fileID) bool {
	return id.known() && slices.Contains(g.secrets, id) || g.denies && g.access.covers(filepath.Join(g.abs, rel))
}

// tick returns the context's error, if any, and reports progress from time to
// time. Several goroutines may call it.
func (g *globPage) tick() error {
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	beat(g.ctx)
	if seen := g.seen.Add(1); seen%progressEvery == 0 {
		reportProgress(g.ctx, progress{Phase: "listing", Message: "listing files", Done: seen})
	}
	return nil
}

// walk lists the directories themselves, without git. A page continues where
// the previous one ended; the cursor is stale when a directory on the way there
// has changed.
func (g *globPage) walk(ignore bool) error {
	if after := string(g.cursor.After); after != "" {
		chain, err := chainTo(g.start, after)
		if err != nil || chainState(chain) != g.cursor.State {
			return staleCursor()
		}
	}
	g.chain = []entryInfo{g.self}
	err := g.dir(g.start, "", string(g.cursor.After), g.rules, ignore)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// dir walks the directory d. Its path rel is empty or ends with a slash. Only
// files that sort after `after`, a path relative to d, are listed.
func (g *globPage) dir(d *dirHandle, rel, after string, rules *ignoreRules, ignore bool) error {
	if ignore {
		rules, _ = rules.below(d, rel)
	}
	// Start at the entry that contains `after` and continue inside it.
	first, inside, deeper := strings.Cut(after, "/")
	if deeper {
		first += "/"
	}
	keep := func(name string, typ fs.FileMode) (dirEntryName, bool) {
		if name == ".git" && d.typeOf(name, typ).IsRegular() {
			g.gitDirs.readIn(strings.TrimSuffix(rel, "/"))
		}
		if name == ".git" || hasSecretName(name) {
			return dirEntryName{}, false
		}
		typ = d.typeOf(name, typ)
		e := dirEntryName{key: name, name: name, typ: typ}
		path := rel + name
		if typ.IsDir() {
			e.key += "/" // sort as in the whole path: "a-b" before "a/b"
			return e, e.key >= first && g.filter.dir(path) && (g.tracked[path] || !rules.ignored(path, true))
		}
		return e, e.key > after && typ.IsRegular() && g.filter.file(path) && (g.tracked[path] || !rules.ignored(path, false))
	}
	state := "" // chainState(g.chain), computed when first needed
	for last := ""; ; {
		names, more, err := d.namesAfter(g.ctx, last, chunkSize(len(g.chain)-1), keep)
		if err != nil {
			return err
		}
		for _, n := range names {
			last = n.key
			if err := g.tick(); err != nil {
				return err
			}
			if n.typ.IsDir() {
				below := ""
				if deeper && n.key == first {
					below = inside
				}
				err = g.child(d, n.name, rel+n.key, below, rules, ignore)
			} else if info, statErr := d.lstat(n.name); statErr != nil {
				g.skipped++ // removed, or not readable
			} else if info.mode.IsRegular() && !slices.Contains(g.secrets, info.id) {
				before := len(g.files)
				path := rel + n.name
				err = g.add(path, newGlobFile(path, info))
				if len(g.files) > before {
					if state == "" {
						state = chainState(g.chain)
					}
					g.cursor.State = state
				}
			}
			if err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// child walks the directory called name in d. It skips a directory that cannot
// be read or belongs to the kernel.
func (g *globPage) child(d *dirHandle, name, rel, after string, rules *ignoreRules, ignore bool) error {
	if g.gitDirs.contains(strings.TrimSuffix(rel, "/")) {
		return nil
	}
	if len(g.chain) > maxPathDepth {
		g.skipped++
		return nil
	}
	sub, self, err := d.child(name, g.chain[len(g.chain)-1])
	if err != nil {
		g.skipped++ // not readable, or removed
		return nil
	}
	if sub == nil {
		return nil
	}
	defer sub.close()
	if g.hidesDir(rel, self.id) {
		return nil
	}
	g.chain = append(g.chain, self)
	err = g.dir(sub, rel, after, rules, ignore)
	g.chain = g.chain[:len(g.chain)-1]
	if _, ok := errors.AsType[*fs.PathError](err); ok && g.ctx.Err() == nil {
		g.skipped++
		return nil
	}
	return err
}

// chainTo returns the directories from start to the one that contains path.
func chainTo(start *dirHandle, path string) ([]entryInfo, error) {
	self, err := start.info()
	if err != nil {
		return nil, err
	}
	chain := []entryInfo{self}
	name, rest, deeper := strings.Cut(path, "/")
	if !deeper {
		return chain, nil
	}
	sub, err := start.openDir(name)
	if err != nil {
		return nil, err
	}
	defer sub.close()
	below, err := chainTo(sub, rest)
	return append(chain, below...), err
}

func chainState(chain []entryInfo) string {
	sum := sha256.New()
	for _, c := range chain {
		fmt.Fprintf(sum, "%s\n", directoryState("", c))
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}
