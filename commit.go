package main

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

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
		field, _, err := readField(r, maxCommitField)
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
