package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
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
func (i *inspector) history(ctx context.Context, p logParams) (logResult, error) {
	limit, err := limitParam("limit", p.Limit, logLimit, maxLogLimit)
	if err != nil {
		return logResult{}, err
	}
	filters, err := p.filters()
	if err != nil {
		return logResult{}, err
	}
	s, err := i.open(p.pathParam, objectsView)
	if err != nil {
		return logResult{}, err
	}
	defer s.remove()
	repo := s.repo
	rev := valueOr(p.Ref, "HEAD")
	commit, err := i.commitOf(ctx, s, "ref", rev)
	if err != nil {
		return logResult{}, err
	}
	file := valueOr(p.File, "")
	asked := fingerprint("vcs/log", repo.top.abs, repo.prefix, rev, file, fingerprintList(filters))
	cursor, err := startCursor(p.Cursor, asked, fingerprint(commit, string(repo.shallow)))
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
	err = i.git.stream(ctx, s.command(logArgs(filters...)...), func(r *bufio.Reader) error {
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
