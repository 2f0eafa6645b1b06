package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"
)

const (
	// logLimit is the default limit of vcs/log, and maxLogLimit the largest.
	logLimit    = 50
	maxLogLimit = 10_000
	// maxLogBytes ends a page before its limit is reached, because commit
	// messages have no maximum length. It is half of a message.
	maxLogBytes = 8 << 20
	// maxAuthor bounds the text to search for in authors.
	maxAuthor = 1024
)

// logParams are the params of vcs/log.
type logParams struct {
	pathParam
	Ref    *string `json:"ref,omitempty" doc:"branch, tag or commit id; default HEAD"`
	File   *string `json:"file,omitempty" doc:"return only commits that change this file or directory; relative to path"`
	Since  *string `json:"since,omitempty" doc:"earliest time of the committer, RFC 3339"`
	Until  *string `json:"until,omitempty" doc:"latest time of the committer, RFC 3339"`
	Author *string `json:"author,omitempty" doc:"part of the author's name or email address"`
	Limit  *int    `json:"limit,omitempty" doc:"commits per page, 1 to 10,000; default 50"`
	Cursor *string `json:"cursor,omitempty" doc:"next_cursor of the previous page"`
}

// logResult is the result of vcs/log.
type logResult struct {
	Commits    []commitEntry `json:"commits" doc:"newest first"`
	NextCursor *string       `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
}

func (r logResult) jsonSize() int {
	const rest = 400 // bytes of a commit without its texts
	size := rest
	for n := range r.Commits {
		size += rest + len(r.Commits[n].Subject) + len(r.Commits[n].Body)
	}
	return size
}

func (r logResult) appendJSON(to []byte) []byte {
	to = append(to, `{"commits":[`...)
	for n := range r.Commits {
		if n > 0 {
			to = append(to, ',')
		}
		to = r.Commits[n].appendJSON(to)
	}
	return append(appendOptionalString(append(to, `],"next_cursor":`...), r.NextCursor), '}')
}

func (c *commitEntry) appendJSON(to []byte) []byte {
	to = appendJSONString(append(to, `{"oid":`...), c.OID)
	to = append(to, `,"parents":[`...)
	for n, id := range c.Parents {
		if n > 0 {
			to = append(to, ',')
		}
		to = appendJSONString(to, id)
	}
	to = strconv.AppendBool(append(to, `],"is_boundary":`...), c.IsBoundary)
	to = c.Author.appendJSON(append(to, `,"author":`...))
	to = c.Committer.appendJSON(append(to, `,"committer":`...))
	to = appendJSONString(append(to, `,"subject":`...), c.Subject)
	return append(appendJSONString(append(to, `,"body":`...), c.Body), '}')
}

func (p *commitPerson) appendJSON(to []byte) []byte {
	to = appendJSONString(append(to, `{"name":`...), p.Name)
	to = appendJSONString(append(to, `,"email":`...), p.Email)
	return append(appendJSONString(append(to, `,"at":`...), p.At), '}')
}

// history implements vcs/log.
func (g *gitReader) history(ctx context.Context, p logParams) (logResult, error) {
	limit, err := limitParam("limit", p.Limit, logLimit, maxLogLimit)
	if err != nil {
		return logResult{}, err
	}
	filters, err := p.filters()
	if err != nil {
		return logResult{}, err
	}
	times, err := p.timeRange()
	if err != nil {
		return logResult{}, err
	}
	v, err := g.open(p.pathParam, objectsView)
	if err != nil {
		return logResult{}, err
	}
	repo := v.repo
	used := true // the view is given back here
	defer func() {
		if used {
			v.remove()
		}
	}()
	rev := valueOr(p.Ref, "HEAD")
	commit := repo.fixed(rev)
	asked := commit == "" // git was asked for the commit
	if asked {
		if commit, err = g.commitOf(ctx, v, "ref", rev); err != nil {
			return logResult{}, err
		}
	}
	file := valueOr(p.File, "")
	request := fingerprint("vcs/log", repo.top.abs, repo.prefix, rev, file, fingerprintList(filters), valueOr(p.Since, ""), valueOr(p.Until, ""))
	cursor, err := startCursor(p.Cursor, request, fingerprint(commit, string(repo.shallow)))
	if err != nil {
		return logResult{}, err
	}
	result := logResult{Commits: []commitEntry{}}
	if commit == "" {
		return result, nil
	}
	key := fingerprint(request, cursor.State)
	if s := g.access.views.logs.take(key, cursor.At); s != nil {
		if page, err := s.page(ctx, limit); err == nil || ctx.Err() != nil {
			return g.logPage(s, cursor, page, err)
		}
	}
	skip := cursor.At // commits of the pages before
	if times == (timeRange{}) {
		filters = append(filters, fmt.Sprintf("--skip=%d", skip))
		skip = 0
		if p.Cursor == nil { // most callers need one page, and git none of the rest
			filters = append(filters, fmt.Sprintf("--max-count=%d", limit+1))
		}
	}
	filters = append(filters, "--end-of-options", commit, "--")
	if file != "" {
		filters = append(filters, path.Join(repo.prefix, file))
	}
	s := g.openLog(v, key, cursor.At, logArgs(filters...), times, skip)
	used = false
	page, err := s.page(ctx, limit)
	if _, failed := errors.AsType[*gitError](err); failed && !asked {
		if notCommit := g.checkCommit(ctx, p.pathParam, rev); notCommit != nil {
			return logResult{}, notCommit
		}
	}
	if err == nil && p.Cursor == nil {
		s.end()
		s = nil
	}
	return g.logPage(s, cursor, page, err)
}

// checkCommit returns an error unless a revision is a commit.
func (g *gitReader) checkCommit(ctx context.Context, p pathParam, rev string) error {
	v, err := g.open(p, objectsView)
	if err != nil {
		return err
	}
	defer v.remove()
	_, err = g.commitOf(ctx, v, "ref", rev)
	return err
}

// logPage returns the result for a page, and keeps its stream, if it has one, while
// more follow.
func (g *gitReader) logPage(s *logStream, cursor pageCursor, page logPage, err error) (logResult, error) {
	if err != nil {
		return logResult{}, err
	}
	result := logResult{Commits: page.commits}
	if page.more {
		result.NextCursor = cursor.next(len(page.commits))
		if s != nil {
			g.access.views.logs.keep(s)
		}
	}
	return result, nil
}

// filters returns the options of git log for the params. Each is one argument,
// so no value can be taken for another option.
func (p logParams) filters() ([]string, error) {
	var filters []string
	if p.File != nil {
		if err := checkTreePath("file", *p.File); err != nil {
			return nil, err
		}
	}
	if p.Author != nil && *p.Author != "" {
		if len(*p.Author) > maxAuthor || strings.ContainsFunc(*p.Author, func(r rune) bool { return r < ' ' }) {
			return nil, invalidParam("author", "must be part of a name or email address, at most %d bytes and without line breaks", maxAuthor)
		}
		// A fixed string: matching a regular expression could take forever.
		filters = append(filters, "--fixed-strings", "--author="+*p.Author)
	}
	return filters, nil
}

// timeRange is a range of commit times; a bound that is nil is open.
type timeRange struct{ since, until *time.Time }

// timeRange returns the range for since and until. It is applied here and not by
// git, which takes years before 1970 and after 2099 for the current time, and
// which ends the history at the first commit before since (git-log(1), --since),
// although a commit with a wrong clock can have older ones with later times.
func (p logParams) timeRange() (timeRange, error) {
	var times timeRange
	for _, bound := range []struct {
		name  string
		given *string
		time  **time.Time
	}{{"since", p.Since, &times.since}, {"until", p.Until, &times.until}} {
		if bound.given == nil {
			continue
		}
		t, err := time.Parse(time.RFC3339, *bound.given)
		if err != nil {
			return timeRange{}, invalidParam(bound.name, "must be an RFC 3339 time, such as 2026-01-31T12:00:00Z")
		}
		*bound.time = &t
	}
	return times, nil
}

// contains reports whether a time lies in the range, bounds included.
func (r timeRange) contains(t time.Time) bool {
	return (r.since == nil || !t.Before(*r.since)) && (r.until == nil || !t.After(*r.until))
}

const (
	// maxCommitField bounds each field of a commit, because a message of 100
	// MiB would fill the result.
	maxCommitField = 64 << 10
	// commitFields is the number of fields in commitFormat, separated by %x00.
	commitFields = 10
)

// commitFormat is the format that readCommit parses (git-log(1), PRETTY
// FORMATS). It must not contain %G, which would run gpg.program.
const commitFormat = "--format=%H%x00%P%x00%an%x00%ae%x00%at%x00%cn%x00%ce%x00%ct%x00%s%x00%b"

// commitPerson is the author or the committer of a commit, with the time in
// UTC.
type commitPerson struct {
	Name  string `json:"name"`
	Email string `json:"email"`
	At    string `json:"at" doc:"RFC 3339 in UTC; 9999-12-31T23:59:59Z for later times, 1970-01-01T00:00:00Z for a date that git cannot read"`
}

// commitEntry is one commit of a log.
type commitEntry struct {
	OID        string       `json:"oid" doc:"full commit id"`
	Parents    []string     `json:"parents" doc:"full commit ids"`
	IsBoundary bool         `json:"is_boundary" doc:"a shallow history ends here: its parents are missing"`
	Author     commitPerson `json:"author"`
	Committer  commitPerson `json:"committer"`
	Subject    string       `json:"subject" doc:"first paragraph of the message"`
	Body       string       `json:"body" doc:"rest of the message"`

	committed time.Time // exact, also beyond the years of RFC 3339
}

// size returns the approximate size of the entry as JSON, which can take six
// bytes for one character.
func (c *commitEntry) size() int {
	size := 70*len(c.Parents) + 300
	for _, text := range []string{c.Subject, c.Body, c.Author.Name, c.Author.Email, c.Committer.Name, c.Committer.Email} {
		size += jsonSize(text)
	}
	return size
}

// logArgs returns the arguments of a git log whose output readCommit parses.
func logArgs(more ...string) []string {
	return append([]string{"log", "-z", "--no-show-signature", "--no-mailmap", "--no-ext-diff", "--no-textconv", "--no-color", "--no-notes", "--encoding=UTF-8", commitFormat}, more...)
}

// readCommit reads one commit of git log -z with commitFormat. It returns
// io.EOF if there is none left.
func readCommit(r *bufio.Reader) (commitEntry, error) {
	var fields [commitFields]string
	for i := range fields {
		field, _, err := readUntil(r, 0, maxCommitField)
		if errors.Is(err, io.EOF) && i > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return commitEntry{}, err
		}
		fields[i] = showName(string(field))
	}
	c := commitEntry{
		OID:       fields[0],
		Parents:   strings.Fields(fields[1]),
		Author:    commitPerson{fields[2], fields[3], wireTime(commitTime(fields[4]))},
		Committer: commitPerson{fields[5], fields[6], wireTime(commitTime(fields[7]))},
		Subject:   fields[8],
		Body:      strings.TrimRight(fields[9], "\n"),
		committed: commitTime(fields[7]),
	}
	if c.Parents == nil {
		c.Parents = []string{}
	}
	if !isObjectID(c.OID) {
		return commitEntry{}, badOutput("log", []byte(c.OID))
	}
	return c, nil
}

// commitTime returns a time that git prints as seconds since 1970. No digits,
// which git prints for a date that it cannot read, are 1970, as in git's own
// output of dates. More than fit in 64 bits are the last time that does.
func commitTime(digits string) time.Time {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		n = 0
	}
	// Times near the end of int64 overflow a time.Time; this one does not.
	return time.Unix(min(max(n, 0), 1<<62), 0).UTC()
}
