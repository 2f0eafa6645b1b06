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
	Since  *string `json:"since,omitempty" doc:"earliest commit time, RFC 3339"`
	Until  *string `json:"until,omitempty" doc:"latest commit time, RFC 3339"`
	Author *string `json:"author,omitempty" doc:"part of the author's name or email address"`
	Limit  *int    `json:"limit,omitempty" doc:"commits per page, 1 to 10,000; default 50"`
	Cursor *string `json:"cursor,omitempty" doc:"next_cursor of the previous page"`
}

// logResult is the result of vcs/log.
type logResult struct {
	Commits    []commitEntry `json:"commits" doc:"newest first"`
	NextCursor *string       `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
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

// filters returns the options of git log for the params. Each is one argument,
// so no value can be taken for another option.
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
			return nil, invalidParam("author", "must be part of a name or email address, at most %d bytes and without line breaks", maxAuthor)
		}
		// A fixed string: matching a regular expression could take forever.
		filters = append(filters, "--fixed-strings", "--author="+*p.Author)
	}
	return filters, nil
}

// gitTime formats a time for git. Git accepts only the years 1970 to 2099 and
// takes other times for the current time, so they are clamped.
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
	At    string `json:"at" doc:"RFC 3339 in UTC"`
}

// commitEntry is one commit of a log.
type commitEntry struct {
	OID       string       `json:"oid" doc:"full commit id"`
	Parents   []string     `json:"parents" doc:"full commit ids"`
	Author    commitPerson `json:"author"`
	Committer commitPerson `json:"committer"`
	Subject   string       `json:"subject" doc:"first paragraph of the message"`
	Body      string       `json:"body" doc:"rest of the message"`
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

// commitTime formats a Unix time as RFC 3339 in UTC. A time outside the years 0
// to 9999, which RFC 3339 cannot express, becomes the epoch, as in git's own
// output.
func commitTime(seconds string) string {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if t := time.Unix(n, 0).UTC(); err == nil && t.Year() >= 0 && t.Year() <= 9999 {
		return t.Format(time.RFC3339)
	}
	return time.Unix(0, 0).UTC().Format(time.RFC3339)
}
