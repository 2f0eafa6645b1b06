package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// patchBytes is the default of max_bytes of vcs/diff.
	patchBytes = 1 << 20
	// patchFileBytes is added to max_bytes for each file, besides its
	// names and its patch, about the size of its entry in JSON.
	patchFileBytes = 200
	// patchContext is the default of context_lines, as for git diff, and
	// maxPatchContext the largest.
	patchContext    = 3
	maxPatchContext = 10_000
	// maxCursorPath bounds a path in a cursor (maxCursorLength); git cannot
	// check out a longer one.
	maxCursorPath = 4 << 10
)

// patchParams are the params of vcs/diff.
type patchParams struct {
	pathParam
	From         *string  `json:"from,omitempty" doc:"branch, tag or commit id; default HEAD"`
	To           *string  `json:"to,omitempty" doc:"branch, tag or commit id; default: the tracked files of the work tree, as they lie on disk because no clean filter runs"`
	Files        []string `json:"files,omitempty" doc:"files and directories to compare, relative to path, at most 24 KiB; default: all"`
	FilesBase64  []string `json:"files_base64,omitempty" doc:"base64 of the paths, instead of files, if some are not valid UTF-8"`
	ContextLines *int     `json:"context_lines,omitempty" doc:"unchanged lines around a change, 0 to 10,000; default 3"`
	Stat         bool     `json:"stat,omitempty" doc:"true to return the counts without the patches; default false"`
	MaxBytes     *int     `json:"max_bytes,omitempty" doc:"largest size of a page, 1 to 64 MiB, for which a file counts with its patch, its names and 200 bytes; default 1 MiB"`
	Cursor       *string  `json:"cursor,omitempty" doc:"next_cursor of the previous page; without to, a change of a listed file makes it a CONFLICT"`
}

// patchResult is the result of vcs/diff.
type patchResult struct {
	From       *string     `json:"from" doc:"commit id; null if there are no commits"`
	To         *string     `json:"to" doc:"commit id; null for the work tree, and if there are no commits"`
	Files      []filePatch `json:"files" doc:"sorted by path"`
	NextCursor *string     `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
}

// filePatch is a file that differs.
type filePatch struct {
	Status        string  `json:"status" enum:"A,M,D,R,C,T" doc:"added, modified, deleted, renamed, copied or type changed"`
	Path          string  `json:"path" doc:"relative to the requested path, separated by /"`
	PathBase64    string  `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	OldPath       string  `json:"old_path,omitempty" doc:"the path before a rename"`
	OldPathBase64 string  `json:"old_path_base64,omitempty" doc:"base64 of the old path; only if it is not valid UTF-8"`
	Mode          string  `json:"mode" doc:"git's file mode in six octal digits; 000000 if deleted"`
	OldMode       string  `json:"old_mode" doc:"git's file mode before the change; 000000 if added"`
	Additions     *int    `json:"additions" doc:"added lines; null if binary"`
	Deletions     *int    `json:"deletions" doc:"deleted lines; null if binary"`
	IsBinary      bool    `json:"is_binary" doc:"true if the content or an attribute such as -diff says so"`
	TooLarge      bool    `json:"too_large,omitempty" doc:"true if the patch alone is larger than max_bytes"`
	Patch         *string `json:"patch,omitempty" doc:"as git diff --relative prints it without filters, textconv and external diffs; U+FFFD for what is not valid UTF-8; absent with stat, and if binary or too large"`
	PatchBase64   string  `json:"patch_base64,omitempty" doc:"base64 of the patch; only if it is not valid UTF-8"`
}

// patches implements vcs/diff.
func (g *gitReader) patches(ctx context.Context, p patchParams) (patchResult, error) {
	maxBytes, err := limitParam("max_bytes", p.MaxBytes, patchBytes, maxBlobBytes)
	if err != nil {
		return patchResult{}, err
	}
	around := valueOr(p.ContextLines, patchContext)
	if around < 0 || around > maxPatchContext {
		return patchResult{}, invalidParam("context_lines", "must be 0 to %d, not %d", maxPatchContext, around)
	}
	files, err := p.files()
	if err != nil {
		return patchResult{}, err
	}
	view := attributesView
	if p.To == nil {
		view = indexView
	}
	v, err := g.open(p.pathParam, view)
	if err != nil {
		return patchResult{}, err
	}
	defer v.remove()
	revs := []namedRevision{{"from", valueOr(p.From, "HEAD")}}
	if p.To != nil {
		revs = append(revs, namedRevision{"to", *p.To})
	} else if v.repo.work.abs == "" {
		return patchResult{}, invalidParam("to", "is required, because the repository has no work tree that this daemon may read")
	}
	commits := []string{v.repo.head} // known without git
	if p.To != nil || revs[0].rev != "HEAD" || v.repo.prefix != "" {
		if commits, _, err = g.treesOf(ctx, v, revs...); err != nil {
			return patchResult{}, err
		}
	}
	request := fingerprint("vcs/diff", v.repo.top.abs, v.repo.prefix, revs[0].rev, valueOr(p.To, ""), strconv.FormatBool(p.To == nil),
		fingerprintList(files), strconv.Itoa(around), strconv.FormatBool(p.Stat))
	cursor, err := readCursor(p.Cursor, request)
	if err != nil {
		return patchResult{}, err
	}
	page := &patchPage{cursor: cursor, state: fingerprint(commits...), maxBytes: maxBytes, stat: p.Stat, prefix: v.repo.prefix, files: []filePatch{}}
	args, err := g.patchArgs(ctx, v, commits, page, around)
	if err != nil {
		return patchResult{}, err
	}
	if err := g.readPatches(ctx, v, append(args, v.pathspecs(files)...), page); err != nil {
		return patchResult{}, err
	}
	result := patchResult{From: optionalString(commits[0]), Files: page.files}
	if p.To != nil {
		result.To = optionalString(commits[1])
	}
	if page.next != "" {
		if len(page.next) > maxCursorPath {
			return patchResult{}, gitFailure(gitTooLarge, "the next file has a path of more than %d bytes: select others with files", maxCursorPath)
		}
		cursor.State, cursor.After = page.state, []byte(page.next)
		result.NextCursor = cursor.text()
	}
	return result, nil
}

// files returns the selected paths, relative to the caller's path.
func (p patchParams) files() ([]string, error) {
	files, err := treePaths("files", p.Files, p.FilesBase64)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, file := range files {
		size += len(file) + 1
	}
	if size > maxArguments {
		return nil, invalidParam("files", "must have at most %d bytes in all", maxArguments)
	}
	return files, nil
}

// pathspecs returns git's path arguments for the selected files, by default for
// all below the caller's path.
func (v *gitView) pathspecs(files []string) []string {
	if len(files) == 0 && v.repo.prefix != "" {
		return []string{v.repo.prefix}
	}
	specs := make([]string, len(files))
	for n, file := range files {
		specs[n] = path.Join(v.repo.prefix, file)
	}
	return specs
}

// patchArgs returns the arguments of the git diff whose output page.read
// parses: for each file a raw record, and then for each file its patch. It is
// git diff and not diff-tree or diff-index, because only git diff leaves out
// files of the work tree that were touched and are the same. It cannot be made
// to compare files outside a repository, because it gets a commit.
func (g *gitReader) patchArgs(ctx context.Context, v *gitView, commits []string, page *patchPage, around int) ([]string, error) {
	skip, submodules := "--skip-to=", "--ignore-submodules=dirty"
	if len(commits) == 1 {
		// All files are listed on each page, because a change of any of them
		// makes the cursor stale.
		skip = "--rotate-to="
		if ok, err := g.submodulesAllowed(ctx, v); err != nil {
			return nil, err
		} else if !ok {
			submodules = "--ignore-submodules=all"
		}
	}
	if page.stat {
		around = 0
	}
	// A file with merge conflicts is compared like any other; without the
	// filter git may list it twice.
	args := []string{"diff", "--raw", "-z", "--no-abbrev", "--patch", "--unified=" + strconv.Itoa(around), "--no-ext-diff", "--no-textconv",
		"--no-color", "--find-renames", "--diff-filter=u", submodules}
	if v.repo.prefix != "" {
		args = append(args, "--relative="+v.repo.prefix+"/")
	}
	if after := string(page.cursor.After); after != "" {
		args = append(args, skip+after)
	}
	for _, commit := range commits {
		if commit == "" {
			commit = v.emptyTree()
		}
		args = append(args, commit)
	}
	return append(args, "--"), nil
}

// readPatches fills a page with the output of git.
func (g *gitReader) readPatches(ctx context.Context, v *gitView, args []string, page *patchPage) error {
	command := v.command(args...)
	if v.view != objectsView {
		command.check = func(ctx context.Context) error { return g.access.checkRules(ctx, v.repo.work, v.repo.work) }
	}
	var err error
	if v.view == indexView {
		if page.work, err = g.openWorkFiles(v.repo.work); err == nil {
			defer page.work.close()
		}
	}
	if err == nil {
		err = g.git.stream(ctx, command, page.read)
	}
	if special, ok := errors.AsType[*specialRules](err); ok {
		return gitFailure(gitOther, "%v", special)
	}
	if failed, ok := errors.AsType[*gitError](err); ok && len(page.cursor.After) > 0 && strings.Contains(failed.summary, "No such path") {
		return staleCursor() // the page's first file is no longer listed
	}
	if isMissing(err) {
		return notRepository(v.repo.top.abs)
	}
	return err
}

// patchPage is a page of vcs/diff while it is read.
type patchPage struct {
	cursor   pageCursor
	state    string // what is listed; complete when all records were read
	maxBytes int
	stat     bool
	prefix   string
	work     *workFiles // nil between two commits

	listed []listedPatch
	files  []filePatch
	size   int    // of files, as max_bytes counts it
	next   string // exact path of the first file of the next page, "" if there is none
}

// listedPatch is a file of which git will print the patch.
type listedPatch struct {
	path   string // exact, relative to the work tree
	file   filePatch
	hidden bool
}

// read reads git's output until the page is full.
func (p *patchPage) read(r *bufio.Reader) error {
	if err := p.readList(r); err != nil {
		return err
	}
	if len(p.cursor.After) > 0 && p.cursor.State != p.state {
		return staleCursor()
	}
	for _, l := range p.listed {
		limit := p.maxBytes
		if p.stat || l.hidden {
			limit = 0
		}
		patch, err := readPatch(r, l.file.sections(), limit)
		if err != nil {
			return err
		}
		// Look again: git has read the file only now.
		if l.hidden || p.work != nil && !p.work.visible(l.path, l.file.Status) {
			continue
		}
		l.file.set(patch, p.stat)
		size := patchFileBytes + len(l.file.Path) + len(l.file.OldPath) + len(patch.text)
		if len(p.files) > 0 && p.size+size > p.maxBytes {
			p.next = l.path
			return nil
		}
		p.files, p.size = append(p.files, l.file), p.size+size
	}
	return nil
}

// readList reads the raw records, as far as files can be on this page, and
// completes the state: between commits their ids are enough, and in a work tree
// it depends on each file that is listed.
func (p *patchPage) readList(r *bufio.Reader) error {
	sum := uint64(0)
	most := p.maxBytes/patchFileBytes + 1
	for {
		start, err := r.Peek(1)
		if errors.Is(err, io.EOF) {
			break // nothing differs
		}
		if err != nil {
			return err
		}
		if start[0] == 0 { // between the records and the patches
			if _, err := r.Discard(1); err != nil {
				return err
			}
			break
		}
		change, err := readChange(r)
		if err != nil {
			return torn(err)
		}
		exact := path.Join(p.prefix, exactPath(change.Path, change.PathBase64))
		hidden := hasSecretName(change.Path) || hasSecretName(change.OldPath)
		if p.work != nil {
			stamp, visible := p.work.look(exact, change.Status)
			hidden = hidden || !visible
			hash := fnv.New64a()
			_, _ = fmt.Fprintf(hash, "%s\x00%s\x00%s", asStamp(change), exact, stamp) // a hash never fails
			sum += hash.Sum64()                                                       // the order depends on the page
			if exact < string(p.cursor.After) {
				continue // on an earlier page
			}
		}
		switch {
		case len(p.listed) < most:
			p.listed = append(p.listed, listedPatch{path: exact, file: newFilePatch(change), hidden: hidden})
		case p.next == "":
			p.next = exact
		}
	}
	if p.work != nil {
		p.state = fingerprint(p.state, strconv.FormatUint(sum, 36))
	}
	return nil
}

// asStamp returns what of a record can change.
func asStamp(c diffChange) string {
	return strings.Join([]string{c.Status, c.OldPath, c.OldPathBase64, c.Mode, c.OldMode, valueOr(c.OID, ""), valueOr(c.OldOID, "")}, "\x00")
}

func newFilePatch(c diffChange) filePatch {
	return filePatch{Status: c.Status, Path: c.Path, PathBase64: c.PathBase64, OldPath: c.OldPath, OldPathBase64: c.OldPathBase64, Mode: c.Mode, OldMode: c.OldMode}
}

// sections returns how many patches git prints for the file: a change of the
// type is a deletion and an addition.
func (f *filePatch) sections() int {
	if f.Status == "T" {
		return 2
	}
	return 1
}

// set sets the counts and, unless only they are wanted, the patch.
func (f *filePatch) set(patch patchText, stat bool) {
	if f.IsBinary = patch.binary; !f.IsBinary {
		f.Additions, f.Deletions = &patch.additions, &patch.deletions
	}
	switch {
	case f.IsBinary || stat:
	case patch.tooLarge:
		f.TooLarge = true
	default:
		text := string(patch.text)
		f.Patch, f.PatchBase64 = new(showName(text)), nameBase64(text)
	}
}

// exactPath returns the path that showName and nameBase64 stand for.
func exactPath(shown, encoded string) string {
	if exact, err := base64.StdEncoding.DecodeString(encoded); err == nil && len(exact) > 0 {
		return string(exact)
	}
	return shown
}

// patchText is the patch of one file.
type patchText struct {
	text                 []byte // nil if binary or too large
	additions, deletions int
	binary, tooLarge     bool
}

// patchHeader begins the patch of a file (git-diff(1), GENERATING PATCH TEXT
// WITH -P). Lines of a file's content begin with another character.
const patchHeader = "diff --git "

// readPatch reads so many patches of a file and keeps their text if it has at
// most limit bytes. It never holds more of a line than that.
func readPatch(r *bufio.Reader, sections, limit int) (patchText, error) {
	var p patchText
	inHunk := false
	for read := 0; ; read++ {
		start, err := r.Peek(len(patchHeader))
		if errors.Is(err, io.EOF) && len(start) == 0 && sections == 0 {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) || len(start) == 0 {
			return patchText{}, torn(err)
		}
		if string(start) == patchHeader {
			if sections == 0 {
				break // of the next file
			}
			sections, inHunk = sections-1, false
		} else if read == 0 {
			return patchText{}, badOutput("diff", start)
		}
		if inHunk, err = p.readLine(r, inHunk, limit); err != nil {
			return patchText{}, err
		}
	}
	if p.binary || p.tooLarge {
		p.text = nil
	}
	return p, nil
}

// readLine reads one line of a patch, and returns whether the next one is in a
// hunk.
func (p *patchText) readLine(r *bufio.Reader, inHunk bool, limit int) (bool, error) {
	for first := true; ; first = false {
		piece, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return false, torn(err)
		}
		switch {
		case !first:
		case inHunk && piece[0] == '+':
			p.additions++
		case inHunk && piece[0] == '-':
			p.deletions++
		case !inHunk && bytes.HasPrefix(piece, []byte("@@ ")):
			inHunk = true
		case !inHunk && bytes.HasPrefix(piece, []byte("Binary files ")):
			p.binary = true
		}
		if p.tooLarge = p.tooLarge || len(p.text)+len(piece) > limit; !p.tooLarge {
			p.text = append(p.text, piece...)
		}
		if err == nil {
			return inHunk, nil
		}
	}
}

// workFiles checks the files of a work tree that git compares. Git follows no
// symlink to them, but it knows nothing of what a daemon must not show.
type workFiles struct {
	dir   *dirHandle
	below *statBelow
}

func (g *gitReader) openWorkFiles(top resolvedPath) (*workFiles, error) {
	dir, err := g.access.openDir(top)
	if err != nil {
		return nil, err
	}
	self, err := dir.info()
	if err != nil {
		dir.close()
		return nil, g.access.wireError(err, top.abs)
	}
	return &workFiles{dir: dir, below: &statBelow{access: g.access, abs: top.abs, start: dir, self: self}}, nil
}

func (w *workFiles) close() {
	w.below.close()
	w.dir.close()
}

// look returns a text that changes with the file, and whether the file may be
// shown: it is not one of the daemon's own or denied, and no symlink leads to it.
// Of a deleted file git shows the old content.
func (w *workFiles) look(rel, status string) (stamp string, visible bool) {
	abs := filepath.Join(w.below.abs, filepath.FromSlash(rel))
	info, err := w.below.lstat(rel)
	if err != nil {
		return "", status == "D" && !w.below.access.covers(abs)
	}
	stamp = fmt.Sprint(info.mode, info.size, info.mtime.UnixNano())
	return stamp, !w.below.access.hides(abs, info.id, w.below.secrets)
}

// visible reports whether a file may be shown, as look does.
func (w *workFiles) visible(rel, status string) bool {
	_, visible := w.look(rel, status)
	return visible
}
