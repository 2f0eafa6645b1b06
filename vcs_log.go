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
	// logLimit is the default of vcs/log, maxLogLimit its bound.
	logLimit    = 50
	maxLogLimit = 10_000
	// maxLogBytes ends a page before its limit: commit messages have no bound
	// of their own. Half of a message.
	maxLogBytes = 8 << 20
	// maxAuthor bounds the text that authors are searched for.
	maxAuthor = 1024
)

// logParams are the params of vcs/log.
type logParams struct {
	pathParam
	Ref    *string `json:"ref,omitempty" doc:"branch, tag or commit; default HEAD"`
	File   *string `json:"file,omitempty" doc:"only commits that touch it: relative to path, inside it"`
	Since  *string `json:"since,omitempty" doc:"RFC 3339"`
	Until  *string `json:"until,omitempty" doc:"RFC 3339"`
	Author *string `json:"author,omitempty" doc:"a part of a name or address"`
	Limit  *int    `json:"limit,omitempty" doc:"commits of a page, 1 to 10,000; default 50"`
	Cursor *string `json:"cursor,omitempty" doc:"next_cursor of the page before"`
}

// logResult is the result of vcs/log, the newest commit first.
type logResult struct {
	Commits    []commitEntry `json:"commits" doc:"the newest first"`
	NextCursor *string       `json:"next_cursor" doc:"null at the end"`
}

// history answers vcs/log.
func (g *gitReader) history(ctx context.Context, p logParams) (logResult, error) {
	limit, err := limitParam("limit", p.Limit, logLimit, maxLogLimit)
	if err != nil {
		return logResult{}, err
	}
	filters, err := p.filters()
	if err != nil {
		return logResult{}, err
	}
	v, err := g.open(p.pathParam, objectsView)
	if err != nil {
		return logResult{}, err
	}
	defer v.remove()
	repo := v.repo
	rev := valueOr(p.Ref, "HEAD")
	commit, err := g.commitOf(ctx, v, "ref", rev)
	if err != nil {
		return logResult{}, err
	}
	file := valueOr(p.File, "")
	request := fingerprint("vcs/log", repo.top.abs, repo.prefix, rev, file, fingerprintList(filters))
	cursor, err := startCursor(p.Cursor, request, fingerprint(commit, string(repo.shallow)))
	if err != nil {
		return logResult{}, err
	}
	result := logResult{Commits: []commitEntry{}}
	if commit == "" {
		return result, nil
	}
	filters = append(filters, fmt.Sprintf("--skip=%d", cursor.At), fmt.Sprintf("--max-count=%d", limit+1), "--end-of-options", commit, "--")
	if file != "" {
		filters = append(filters, path.Join(repo.prefix, file))
	}
	more, size := false, 0
	err = g.git.stream(ctx, v.command(logArgs(filters...)...), func(r *bufio.Reader) error {
		for {
			c, err := readCommit(r)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(result.Commits) == limit || size > maxLogBytes {
				more = true
				return nil
			}
			result.Commits = append(result.Commits, c)
			size += c.size()
		}
	})
	if err != nil {
		return logResult{}, err
	}
	if more {
		result.NextCursor = cursor.next(len(result.Commits))
	}
	return result, nil
}

// filters are the options of git log for the params, each one argument that
// begins with its own name.
func (p logParams) filters() ([]string, error) {
	var filters []string
	if p.File != nil {
		if err := checkTreePath("file", *p.File); err != nil {
			return nil, err
		}
	}
	for _, bound := range []struct {
		name  string
		given *string
	}{{"since", p.Since}, {"until", p.Until}} {
		if bound.given == nil {
			continue
		}
		t, err := time.Parse(time.RFC3339, *bound.given)
		if err != nil {
			return nil, invalidParam(bound.name, "must be an RFC 3339 time, such as 2026-01-31T12:00:00Z")
		}
		filters = append(filters, "--"+bound.name+"="+gitTime(t))
	}
	if p.Author != nil && *p.Author != "" {
		if len(*p.Author) > maxAuthor || strings.ContainsFunc(*p.Author, func(r rune) bool { return r < ' ' }) {
			return nil, invalidParam("author", "must be a part of a name or address, of at most %d bytes and without line breaks", maxAuthor)
		}
		// As it is: a regular expression could take for ever.
		filters = append(filters, "--fixed-strings", "--author="+*p.Author)
	}
	return filters, nil
}

// gitTime writes a time as git reads it. Git knows the years 1970 to 2099 and
// takes others for nonsense, that is for now.
func gitTime(t time.Time) string {
	first := time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)
	last := time.Date(2099, 12, 30, 0, 0, 0, 0, time.UTC)
	t = t.UTC()
	if t.Before(first) {
		t = first
	}
	if t.After(last) {
		t = last
	}
	return t.Format("2006-01-02T15:04:05Z")
}

const (
	// maxCommitField bounds each field of a commit; one with a message of
	// 100 MiB would fill the answer.
	maxCommitField = 64 << 10
	// commitFields are the %x00-separated fields of commitFormat.
	commitFields = 10
)

// commitFormat prints what readCommit reads (git-log(1), PRETTY FORMATS). No
// %G: it would run gpg.program.
const commitFormat = "--format=%H%x00%P%x00%an%x00%ae%x00%at%x00%cn%x00%ce%x00%ct%x00%s%x00%b"

// commitPerson is who made a commit, and when, in UTC.
type commitPerson struct {
	Name  string `json:"name"`
	Email string `json:"email"`
	At    string `json:"at" doc:"RFC 3339, UTC"`
}

// commitEntry is one commit of a log.
type commitEntry struct {
	OID       string       `json:"oid" doc:"full id"`
	Parents   []string     `json:"parents" doc:"full ids"`
	Author    commitPerson `json:"author"`
	Committer commitPerson `json:"committer"`
	Subject   string       `json:"subject" doc:"first paragraph of the message"`
	Body      string       `json:"body" doc:"the rest of it"`
}

// size is about how many bytes the entry is in an answer. A message may be made
// of characters that JSON writes as six.
func (c *commitEntry) size() int {
	size := 70*len(c.Parents) + 300
	for _, text := range []string{c.Subject, c.Body, c.Author.Name, c.Author.Email, c.Committer.Name, c.Committer.Email} {
		size += jsonSize(text)
	}
	return size
}

// logArgs are the arguments of a git log whose output readCommit reads.
func logArgs(more ...string) []string {
	return append([]string{"log", "-z", "--no-show-signature", "--no-mailmap", "--no-ext-diff", "--no-textconv", "--no-color", "--no-notes", "--encoding=UTF-8", commitFormat}, more...)
}

// readCommit reads one commit of git log -z with commitFormat; io.EOF when
// there is none left.
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
		Author:    commitPerson{fields[2], fields[3], commitTime(fields[4])},
		Committer: commitPerson{fields[5], fields[6], commitTime(fields[7])},
		Subject:   fields[8],
		Body:      strings.TrimRight(fields[9], "\n"),
	}
	if c.Parents == nil {
		c.Parents = []string{}
	}
	if !isObjectID(c.OID) {
		return commitEntry{}, badOutput("log", []byte(c.OID))
	}
	return c, nil
}

// commitTime is a Unix time as RFC 3339 in UTC. What is no time of the years
// that RFC 3339 can write becomes the epoch, as git itself shows it.
func commitTime(seconds string) string {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if t := time.Unix(n, 0).UTC(); err == nil && t.Year() >= 0 && t.Year() <= 9999 {
		return t.Format(time.RFC3339)
	}
	return time.Unix(0, 0).UTC().Format(time.RFC3339)
}
