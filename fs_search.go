package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"sync"
)

const (
	defaultSearchLimit = 1000
	maxContextLines    = 20
	maxPatternLength   = 4 << 10
	// maxSearchText bounds the text shown of a line, in bytes: a minified file
	// can be one line of many MiB.
	maxSearchText = 2000
	// maxSearchFile is the largest file that git may search, because git reads
	// a file into memory.
	maxSearchFile     = "256m"
	maxSearchFileSize = 256 << 20
	// maxLargeFiles bounds the files that are excluded for their size: each is
	// an argument of git.
	maxLargeFiles = 1000
	// binaryCheck is how many bytes git looks at to tell a binary file.
	binaryCheck = 8000
)

// errSearchFile is returned when git met a file that is larger than
// maxSearchFile.
var errSearchFile = errors.New("a file is too large to search")

type searchParams struct {
	pathParam
	Pattern       string   `json:"pattern" doc:"what to search for; one line"`
	Regexp        bool     `json:"regexp,omitempty" doc:"true if pattern is a POSIX extended regular expression; default false: a fixed string"`
	CaseSensitive *bool    `json:"case_sensitive,omitempty" doc:"false to ignore case; default true"`
	Include       []string `json:"include,omitempty" doc:"globs of files to include; default: all files"`
	Exclude       []string `json:"exclude,omitempty" doc:"globs of files to leave out"`
	ContextLines  *int     `json:"context_lines,omitempty" doc:"lines to return before and after a match, 0 to 20; default 0"`
	Limit         *int     `json:"limit,omitempty" doc:"lines to return, 1 to 10,000; default 1,000"`
}

type searchResult struct {
	Matches   []searchMatch `json:"matches" doc:"one per matching line"`
	Truncated bool          `json:"truncated" doc:"true if there are more than limit"`
	Head      *string       `json:"head,omitempty" doc:"commit that was checked out; absent outside a repository and without commits"`
	Skipped   int           `json:"skipped" doc:"files and directories passed over because they cannot be read or are larger than 256 MiB"`
}

type searchMatch struct {
	Path       string   `json:"path" doc:"relative to the requested path, separated by /"`
	PathBase64 string   `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Line       int      `json:"line" doc:"line number, from 1"`
	Column     int      `json:"column" doc:"column of the first match, in bytes, from 1"`
	Text       string   `json:"text" doc:"first 2,000 bytes of the line"`
	Before     []string `json:"before" doc:"lines before the match"`
	After      []string `json:"after" doc:"lines after the match"`
}

// search implements fs/search.
func (f *fsService) search(ctx context.Context, p searchParams) (*searchResult, error) {
	limit, err := limitParam("limit", p.Limit, defaultSearchLimit, maxPageEntries)
	if err != nil {
		return nil, err
	}
	around := valueOr(p.ContextLines, 0)
	switch {
	case around < 0 || around > maxContextLines:
		return nil, invalidParam("context_lines", "must be 0 to %d, not %d", maxContextLines, around)
	case p.Pattern == "":
		return nil, invalidParam("pattern", "must not be empty")
	case len(p.Pattern) > maxPatternLength:
		return nil, invalidParam("pattern", "must have at most %d bytes", maxPatternLength)
	case strings.ContainsAny(p.Pattern, "\n\x00"):
		return nil, invalidParam("pattern", "must be one line without a NUL byte")
	}
	if p.Regexp {
		if err := checkPattern(p.Pattern); err != nil {
			return nil, err
		}
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
	s := &search{
		ctx: ctx, files: f, filter: filter, limit: limit, around: around,
		below: &statBelow{access: f.access, abs: at.abs, start: dir, self: self}, matches: []searchMatch{},
	}
	defer s.below.close()
	if err := s.run(p, at); err != nil {
		return nil, err
	}
	return &searchResult{Matches: s.matches, Truncated: s.truncated, Head: f.headOf(at), Skipped: s.skipped}, nil
}

// search is the state of one fs/search. Git finds the matching lines, but it
// could follow a symlink that appears while it runs. So each line is read again
// through descriptors that follow no symlink, and dropped if it differs.
type search struct {
	ctx    context.Context
	files  *fsService
	filter *treeFilter
	limit  int
	around int // lines of context before and after a match
	below  *statBelow
	// gitDirs finds git directories that git does not recognize outside a
	// repository; nil inside one.
	gitDirs *namedGitDirs

	excluded []string // paths that git must not read
	skipped  int
	text     bool // git does not leave out binary files

	matches   []searchMatch
	size      int // of matches as JSON
	truncated bool
	hits      []grepHit // hits in one file that are still to be read
}

// run searches the directory at. If a file turns out to be too large for git,
// it searches again without the files of that size.
func (s *search) run(p searchParams, at resolvedPath) error {
	s.excluded = append(kernelMountsBelow(at.abs), s.files.access.deniedBelow(at.abs)...)
	err := s.grep(p, at)
	if !errors.Is(err, errSearchFile) {
		return err
	}
	large, err := s.largeFiles(p)
	if err != nil {
		return err
	}
	if len(large) == 0 || len(large) > maxLargeFiles {
		return gitFailure(gitTooLarge, "%d files are larger than %s: exclude them", len(large), maxSearchFile)
	}
	s.excluded, s.skipped = append(s.excluded, large...), len(large)
	s.matches, s.hits, s.size, s.truncated = []searchMatch{}, nil, 0, false
	return s.grep(p, at)
}

// largeFiles returns the files of the search that are larger than
// maxSearchFile.
func (s *search) largeFiles(p searchParams) (large []string, err error) {
	err = s.eachListed(p, func(path string, size int64) {
		if size > maxSearchFileSize {
			large = append(large, path)
		}
	})
	return large, err
}

// eachListed calls each for every file of the search, as fs/glob lists them.
func (s *search) eachListed(p searchParams, each func(path string, size int64)) error {
	list := globParams{pathParam: p.pathParam, Include: p.Include, Exclude: p.Exclude, Limit: new(maxGlobEntries)}
	for {
		page, err := s.files.glob(s.ctx, list)
		if err != nil {
			return err
		}
		for _, file := range page.Files {
			path := file.Path
			if exact, err := base64.StdEncoding.DecodeString(file.PathBase64); err == nil && len(exact) > 0 {
				path = string(exact)
			}
			each(path, file.Size)
		}
		if list.Cursor = page.NextCursor; list.Cursor == nil {
			return nil
		}
	}
}

// grep runs git grep: inside a work tree with the ignore rules of its
// repository, elsewhere with --no-index.
func (s *search) grep(p searchParams, at resolvedPath) error {
	standard := []string{"--exclude-standard"}
	r := s.files.workTreeOf(at)
	if r == nil {
		s.gitDirs = &namedGitDirs{access: s.files.access, start: at.abs}
		temp, err := s.files.access.temp.emptyGitDir(40)
		if err != nil {
			return err
		}
		defer temp.remove()
		err = s.pass(p, at, gitCommand{gitDir: temp.path, workTree: at.abs, check: func(ctx context.Context) error { return s.files.access.checkRules(ctx, at, at) }}, append(standard, "--no-index"), nil)
		if _, special := errors.AsType[*specialRules](err); special {
			s.files.log.Warn("searching with git's rules failed", "error", err)
			return s.grepListed(p, at)
		}
		return err
	}
	view, err := s.files.workTreeView(r)
	if err != nil {
		return err
	}
	defer view.remove()
	// Files that are tracked although a rule ignores them need a second pass. Git looks
	// for them during the first.
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	var ignored map[string]bool
	var ignoredErr error
	var listing sync.WaitGroup
	listing.Go(func() { ignored, ignoredErr = s.trackedIgnored(ctx, view.command(), at) }) // ends with git
	// In this mode git reads no index and finds whatever no rule ignores.
	command := view.command()
	command.check = func(ctx context.Context) error { return s.files.access.checkRules(ctx, r.work, at) }
	err = s.pass(p, at, command, append(standard, "--untracked"), nil)
	if err != nil || s.truncated {
		stop()
	}
	listing.Wait()
	if _, special := errors.AsType[*specialRules](err); special {
		s.files.log.Warn("searching with git's rules failed", "error", err)
		return s.grepListed(p, at)
	}
	if err != nil || s.truncated {
		return err
	}
	if ignoredErr != nil || len(ignored) == 0 {
		return ignoredErr
	}
	err = s.pass(p, at, view.command(), nil, ignored)
	sortStableBy(s.matches, func(x, y searchMatch) int { return strings.Compare(x.Path, y.Path) })
	return err
}

// grepListed searches the files that fs/glob lists, with a git that reads no
// rules at all: neither .gitignore nor .gitattributes.
func (s *search) grepListed(p searchParams, at resolvedPath) error {
	only := map[string]bool{}
	if err := s.eachListed(p, func(path string, _ int64) { only[path] = true }); err != nil {
		return err
	}
	temp, err := s.files.access.temp.emptyGitDir(40)
	if err != nil {
		return err
	}
	defer temp.remove()
	s.text = true
	return s.pass(p, at, gitCommand{gitDir: temp.path, workTree: at.abs}, []string{"--no-index", "--no-exclude-standard"}, only)
}

// trackedIgnored returns the tracked files below at that ignore rules match.
func (s *search) trackedIgnored(ctx context.Context, command gitCommand, at resolvedPath) (map[string]bool, error) {
	ignored := map[string]bool{}
	command.args, command.dir = []string{"ls-files", "-z", "--cached", "--ignored", "--exclude-standard"}, at.abs
	err := s.files.git.stream(ctx, command, func(r *bufio.Reader) error {
		return readRecords(r, func(record []byte) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if path := string(record); safeRel(path) && s.filter.file(path) {
				ignored[path] = true
			}
			return nil
		})
	})
	return ignored, err
}

// pass runs git grep once. With only, it reports the matches in those files
// alone.
func (s *search) pass(p searchParams, at resolvedPath, command gitCommand, options []string, only map[string]bool) error {
	args := append([]string{"grep", "-z", "-n", "--column", "--no-color", "--no-textconv"}, options...)
	if s.text {
		args = append(args, "-a") // with -I git reads attributes
	} else {
		args = append(args, "-I")
	}
	if p.Regexp {
		args = append(args, "-E")
	} else {
		args = append(args, "-F")
	}
	if !valueOr(p.CaseSensitive, true) {
		args = append(args, "-i")
	}
	args = append(append(args, "-e", p.Pattern, "--"), s.filter.pathspecs()...)
	for _, path := range s.excluded {
		args = append(args, ":(exclude,literal)"+path)
	}
	command.args, command.dir = args, at.abs
	// A UTF-8 locale makes -i work beyond ASCII; C.UTF-8 keeps git's messages
	// in English. The pathspecs are globs, which the runner turns off by
	// default.
	command.env = append(command.env, "LC_ALL=C.UTF-8", "GIT_LITERAL_PATHSPECS=0", "GIT_ALLOC_LIMIT="+maxSearchFile)
	unreadable := 0
	command.line = func(line string) {
		if isUnreadable(line) {
			unreadable++
		}
	}
	err := s.files.git.stream(s.ctx, command, func(r *bufio.Reader) error {
		for {
			hit, err := readGrepHit(r)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if only != nil && !only[hit.path] {
				continue
			}
			if err := s.add(hit); err != nil {
				return err
			}
		}
	})
	s.skipped += unreadable
	if err = grepFailure(err); err == nil {
		err = s.flush()
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// grepFailure returns the error that the end of git grep means to the caller.
// Status 1 is no match, even if git complained about files that it cannot read.
// An invalid pattern is an invalid parameter.
func grepFailure(err error) error {
	e, ok := errors.AsType[*gitError](err)
	if !ok {
		return err
	}
	if e.exit == 1 {
		return nil
	}
	if _, rest, ok := strings.Cut(e.stderr, "fatal: -e option, "); ok {
		reason := strings.TrimSpace(rest[strings.LastIndex(rest, "': ")+1:])
		return invalidParam("pattern", "is not a valid regular expression%s", strings.TrimPrefix(reason, "'"))
	}
	if strings.Contains(e.stderr, "over limit") {
		return errSearchFile
	}
	return err
}

// add records a line that git found. It returns errEnough when the limit is
// reached.
func (s *search) add(hit grepHit) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	beat(s.ctx)
	if !safeRel(hit.path) || !s.filter.file(hit.path) || s.gitDirs != nil && s.gitDirs.containsFile(hit.path) {
		return nil
	}
	if len(s.hits) > 0 && s.hits[0].path != hit.path {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.hits = append(s.hits, hit)
	if len(s.matches)+len(s.hits) > s.limit {
		return s.flush()
	}
	return nil
}

// flush reads the recorded lines of one file, with their context, and appends
// the matches.
func (s *search) flush() error {
	hits := s.hits
	s.hits = nil
	if len(hits) == 0 {
		return nil
	}
	lines, err := s.readLines(hits)
	if err != nil {
		return nil // removed, behind a symlink or not readable: not a match
	}
	for _, hit := range hits {
		text, ok := lines[hit.line]
		if !ok || text != hit.text {
			continue // the file has changed
		}
		m := searchMatch{
			Path: showName(hit.path), PathBase64: nameBase64(hit.path), Line: hit.line, Column: hit.column,
			Text: showLine(text), Before: []string{}, After: []string{},
		}
		for line := max(hit.line-s.around, 1); line <= hit.line+s.around; line++ {
			text, ok := lines[line]
			switch {
			case !ok || line == hit.line:
			case line < hit.line:
				m.Before = append(m.Before, showLine(text))
			default:
				m.After = append(m.After, showLine(text))
			}
		}
		const rest = 100 // keys, punctuation and numbers
		s.size += rest + jsonSize(m.Path) + len(m.PathBase64) + jsonSize(m.Text)
		for _, text := range append(m.Before, m.After...) {
			s.size += jsonSize(text) + 1
		}
		if len(s.matches) == s.limit || s.size > maxPageBytes && len(s.matches) > 0 {
			s.truncated = true
			return errEnough
		}
		s.matches = append(s.matches, m)
	}
	reportProgress(s.ctx, progress{Phase: "searching", Message: "searching", Done: int64(len(s.matches))})
	return nil
}

// showLine makes a line valid UTF-8. A line that was cut ends at a whole
// character.
func showLine(text string) string {
	if len(text) == maxSearchText {
		text = text[:wholeRunes([]byte(text))]
	}
	return showName(text)
}

// readLines reads the lines of hits and their context from the file itself,
// each cut at maxSearchText, and no more than fit into a page.
func (s *search) readLines(hits []grepHit) (map[int]string, error) {
	rel := hits[0].path
	if _, err := s.below.lstat(rel); err != nil {
		return nil, err
	}
	dir, _ := s.below.current()
	file, err := dir.openFile(path.Base(rel))
	if err != nil {
		return nil, err
	}
	defer file.Close() // only read
	if info, err := file.Stat(); err != nil || s.files.access.isSecret(info) {
		return nil, denied()
	}
	lines := map[int]string{}
	reader := bufio.NewReaderSize(file, 64<<10)
	if s.text {
		// A file is binary if git finds a NUL near its start.
		if start, _ := reader.Peek(binaryCheck); bytes.IndexByte(start, 0) >= 0 {
			return nil, errors.ErrUnsupported
		}
	}
	size, next := 0, 0
	for number := 1; next < len(hits) && size < maxPageBytes; number++ {
		if number%1024 == 0 && s.ctx.Err() != nil {
			return nil, context.Cause(s.ctx)
		}
		text, _, err := readUntil(reader, '\n', maxSearchText)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("reading a line: %w", err)
		}
		for next < len(hits) && number > hits[next].line+s.around {
			next++
		}
		if next < len(hits) && number >= hits[next].line-s.around {
			lines[number] = string(text)
			size += len(text)
		}
	}
	return lines, nil
}

// maxGrepNumber bounds the digits of a line or column number.
const maxGrepNumber = 20

// grepHit is one line that git grep found.
type grepHit struct {
	path         string
	line, column int
	text         string // the start of the line, at most maxSearchText bytes
}

// readGrepHit reads one line that `git grep -z -n --column` found: its path,
// number and column, each ended by a NUL, and the line itself, ended by a
// newline. A path may contain a newline, and a line a NUL: git looks for one
// only near the start of a file to tell that it is binary. io.EOF when there
// are no more.
func readGrepHit(r *bufio.Reader) (grepHit, error) {
	path, cut, err := readUntil(r, 0, maxPathField)
	if err != nil {
		return grepHit{}, err
	}
	hit := grepHit{path: string(path)}
	if cut {
		return hit, badOutput("grep", path)
	}
	for _, number := range []*int{&hit.line, &hit.column} {
		digits, _, err := readUntil(r, 0, maxGrepNumber)
		if err != nil {
			return hit, torn(err)
		}
		if *number, err = strconv.Atoi(string(digits)); err != nil || *number < 1 {
			return hit, badOutput("grep", digits)
		}
	}
	text, _, err := readUntil(r, '\n', maxSearchText)
	hit.text = string(text)
	return hit, torn(err)
}
