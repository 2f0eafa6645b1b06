package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

const (
	// blameLimit is the default of lines of vcs/blame, and maxBlameLimit the
	// largest.
	blameLimit    = 1000
	maxBlameLimit = 10_000
	// maxBlameLine is the largest start_line: git takes no larger number on
	// every system.
	maxBlameLine = 1<<31 - 1
	// maxBlameField bounds the author and the subject of a commit, because a
	// page can have as many commits as lines.
	maxBlameField = 2000
)

// blameParams are the params of vcs/blame.
type blameParams struct {
	pathParam
	File       string  `json:"file,omitempty" doc:"relative to path; either file or file_base64 is required"`
	FileBase64 string  `json:"file_base64,omitempty" doc:"base64 of the file's path, instead of file, if it is not valid UTF-8"`
	Commit     *string `json:"commit,omitempty" doc:"branch, tag or commit id; default HEAD"`
	StartLine  *int    `json:"start_line,omitempty" doc:"first line, from 1; default 1; beyond the end there are no lines"`
	Lines      *int    `json:"lines,omitempty" doc:"lines to look at, 1 to 10,000; default 1,000"`
}

// blameResult is the result of vcs/blame.
type blameResult struct {
	Commit   string     `json:"commit" doc:"id of the commit in which the lines are"`
	Lines    []blameRun `json:"lines" doc:"runs of lines that come from one place, in order; the content is not included"`
	NextLine *int       `json:"next_line" doc:"pass it as start_line to continue; null at the end of the file"`
}

// blameRun is a run of lines that one commit added to one file.
type blameRun struct {
	Start              int          `json:"start" doc:"first line, from 1"`
	Count              int          `json:"count" doc:"number of lines"`
	OID                string       `json:"oid" doc:"id of the commit that last changed the lines"`
	IsBoundary         bool         `json:"is_boundary" doc:"a shallow history ends at the commit, so that the lines may be older"`
	Author             commitPerson `json:"author"`
	Subject            string       `json:"subject" doc:"first line of the message"`
	OriginalStart      int          `json:"original_start" doc:"number of the first line in that commit"`
	OriginalFile       string       `json:"original_file" doc:"name of the file in that commit, relative to path"`
	OriginalFileBase64 string       `json:"original_file_base64,omitempty" doc:"base64 of the original file; only if it is not valid UTF-8"`
}

// blame implements vcs/blame.
func (g *gitReader) blame(ctx context.Context, p blameParams) (blameResult, error) {
	lines, err := limitParam("lines", p.Lines, blameLimit, maxBlameLimit)
	if err != nil {
		return blameResult{}, err
	}
	start, err := limitParam("start_line", p.StartLine, 1, maxBlameLine)
	if err != nil {
		return blameResult{}, err
	}
	file, err := pathParam{p.File, p.FileBase64}.text("file")
	if err != nil {
		return blameResult{}, err
	}
	if err := checkTreePath("file", file); err != nil {
		return blameResult{}, err
	}
	v, err := g.open(p.pathParam, objectsView)
	if err != nil {
		return blameResult{}, err
	}
	defer v.remove()
	full := path.Join(v.repo.prefix, file)
	commit, rev := v.repo.head, valueOr(p.Commit, "HEAD") // that of HEAD is known without git
	if rev != "HEAD" || commit == "" {
		if commit, err = g.commitWithFile(ctx, v, rev, full); err != nil {
			return blameResult{}, err
		}
	}
	// One line more shows whether there are more. The commit id and the
	// numbers cannot be taken for options, which git blame would look for
	// behind --end-of-options. Without mailmap.blob a .mailmap in HEAD would
	// count, for the view is bare.
	command := v.command("blame", "--incremental", "--no-textconv", "--encoding=UTF-8", fmt.Sprintf("-L%d,+%d", start, lines+1), commit, "--", full)
	command.config = []string{"mailmap.blob=", "core.quotePath=true"}
	b := &blameReader{commits: map[string]*blameCommit{}}
	err = g.git.stream(ctx, command, b.read)
	if failed, ok := errors.AsType[*gitError](err); ok {
		if strings.HasPrefix(failed.stderr, "fatal: file ") && strings.Contains(failed.stderr, " has only ") {
			err = nil // start_line is beyond the end
		} else if _, why := g.commitWithFile(ctx, v, commit, full); why != nil {
			err = why
		}
	}
	if err != nil {
		return blameResult{}, err
	}
	result := blameResult{Commit: commit, Lines: []blameRun{}}
	result.Lines, result.NextLine = b.page(v.repo, start+lines)
	return result, nil
}

// commitWithFile resolves the param commit with one git process. It is an error
// unless the commit has a file at full, a path from the top of the tree.
func (g *gitReader) commitWithFile(ctx context.Context, v *gitView, rev, full string) (string, error) {
	if err := checkRevision("commit", rev); err != nil {
		return "", err
	}
	none := failure(codeSourceNotFound, "%s: the commit has no such file", showName(full))
	if rev == "HEAD" && v.repo.head == "" {
		return "", none
	}
	names := []string{rev + "^{commit}"}
	if !strings.ContainsAny(full, "\r\n") {
		names = append(names, rev+"^{commit}:"+full)
	}
	objects, err := g.lookUp(ctx, v, names)
	if err != nil {
		return "", err
	}
	commit, file := objects[0].oid, objects[len(objects)-1]
	switch {
	case objects[0].kind != "commit":
		return "", g.unknownRevision(ctx, v, rev)
	case len(names) == 1, file.oid == "": // not asked for, or perhaps missing
		entries, err := g.entriesOf(ctx, v, commit, []string{full})
		if err != nil {
			return "", err
		}
		file = entries[full]
	}
	switch file.kind {
	case "blob":
		return commit, nil
	case "":
		return "", none
	}
	return "", invalidParam("file", "is a directory: give a file")
}

// blameCommit holds the facts that git blame prints once for each commit.
type blameCommit struct {
	author  commitPerson
	subject string
	size    int // of the texts as JSON
}

// blameReader reads the output of git blame --incremental.
type blameReader struct {
	commits map[string]*blameCommit
	runs    []blameRun // with the exact name of the original file
}

// read reads to the end. Runs come in the order in which git finds them
// (git-blame(1), INCREMENTAL OUTPUT).
func (b *blameReader) read(r *bufio.Reader) error {
	for {
		run, err := b.next(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b.runs = append(b.runs, run)
	}
}

// next reads a run. The first one of a commit has the commit's headers.
func (b *blameReader) next(r *bufio.Reader) (blameRun, error) {
	line, _, err := readUntil(r, '\n', maxObjectLine)
	if err != nil {
		return blameRun{}, err
	}
	run, err := parseBlameHead(line)
	if err != nil {
		return blameRun{}, err
	}
	c := b.commits[run.OID]
	if c == nil {
		c = &blameCommit{}
		b.commits[run.OID] = c
	}
	for {
		line, cut, err := readUntil(r, '\n', maxObjectLine)
		if err != nil {
			return blameRun{}, torn(err)
		}
		key, value, _ := bytes.Cut(line, []byte{' '})
		if string(key) == "filename" {
			if run.OriginalFile = unquotePath(string(value)); run.OriginalFile == "" || cut {
				return blameRun{}, badOutput("blame", line)
			}
			return run, nil
		}
		text := showName(string(value[:min(len(value), maxBlameField)]))
		switch string(key) {
		case "author":
			c.author.Name = text
		case "author-mail":
			c.author.Email = strings.TrimSuffix(strings.TrimPrefix(text, "<"), ">")
		case "author-time":
			c.author.At = wireTime(commitTime(text))
		case "summary":
			if c.subject = text; text == "("+run.OID+")" {
				c.subject = "" // git's text for an empty message
			}
		}
		c.size = jsonSize(c.author.Name) + jsonSize(c.author.Email) + jsonSize(c.subject)
	}
}

// parseBlameHead parses "id original-line line count".
func parseBlameHead(line []byte) (blameRun, error) {
	fields := strings.Split(string(line), " ")
	if len(fields) != 4 || !isObjectID(fields[0]) {
		return blameRun{}, badOutput("blame", line)
	}
	var numbers [3]int
	for n, digits := range fields[1:] {
		number, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || number == 0 {
			return blameRun{}, badOutput("blame", line)
		}
		numbers[n] = int(number)
	}
	return blameRun{OID: fields[0], OriginalStart: numbers[0], Start: numbers[1], Count: numbers[2]}, nil
}

// unquotePath returns the path that git prints, in quotes if it has special
// characters, or "". With core.quotePath (git-config(1)) all other bytes than
// ASCII are escaped, in the syntax of a Go string.
func unquotePath(text string) string {
	if !strings.HasPrefix(text, `"`) {
		return text
	}
	path, err := strconv.Unquote(text)
	if err != nil {
		return ""
	}
	return path
}

// page returns the runs before the line end in order, as many as fit in a
// result, and the first line that is left.
func (b *blameReader) page(repo *repository, end int) (runs []blameRun, next *int) {
	sortBy(b.runs, func(a, b blameRun) int { return cmp.Compare(a.Start, b.Start) })
	runs = []blameRun{}
	size := 0
	for _, run := range b.runs {
		const runBytes = 300 // an entry without its texts
		c := b.commits[run.OID]
		if size += runBytes + c.size + jsonSize(run.OriginalFile); run.Start >= end || size > maxLogBytes && len(runs) > 0 {
			return b.finish(repo, runs), &run.Start
		}
		if over := run.Start + run.Count - end; over > 0 {
			run.Count, next = run.Count-over, &end
		}
		// Git finds the lines of a commit in several steps.
		if n := len(runs); n > 0 && runs[n-1].continues(run) {
			runs[n-1].Count += run.Count
		} else {
			runs = append(runs, run)
		}
		if next != nil {
			break
		}
	}
	return b.finish(repo, runs), next
}

// continues reports whether two runs are one.
func (r blameRun) continues(next blameRun) bool {
	return r.OID == next.OID && r.OriginalFile == next.OriginalFile && r.Start+r.Count == next.Start && r.OriginalStart+r.Count == next.OriginalStart
}

// finish sets what the runs have of their commits.
func (b *blameReader) finish(repo *repository, runs []blameRun) []blameRun {
	boundary := repo.boundary()
	for n := range runs {
		run := &runs[n]
		c := b.commits[run.OID]
		run.Author, run.Subject = c.author, c.subject
		run.IsBoundary = boundary[run.OID]
		exact := relativeTo(repo.prefix, run.OriginalFile)
		if hasSecretName(exact) {
			exact = "" // never reveal the daemon's own files
		}
		run.OriginalFile, run.OriginalFileBase64 = showName(exact), nameBase64(exact)
	}
	return runs
}

// relativeTo returns a path relative to a directory; both have slashes and
// begin at the top of the tree.
func relativeTo(dir, file string) string {
	up := ""
	for dir != "" {
		if rest, ok := strings.CutPrefix(file, dir+"/"); ok {
			file = rest
			break
		}
		up += "../"
		if dir = path.Dir(dir); dir == "." {
			dir = ""
		}
	}
	return up + file
}
