package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// lastCommits fills in when the head commits were made. One git looks up many:
// it runs in an empty repository of its own that borrows all their objects, so
// that no repository's configuration is read. Where it fails, the times stay
// null.
func (f *files) lastCommits(ctx context.Context, repos []*foundRepo) error {
	for _, idLength := range []int{40, 64} { // SHA-1, SHA-256
		var batch []*foundRepo
		for _, r := range repos {
			if len(r.objects) > 0 && len(*r.facts.Head) == idLength {
				batch = append(batch, r)
			}
		}
		for len(batch) > 0 {
			n := min(len(batch), commitBatch)
			f.lastCommitsOf(ctx, batch[:n], idLength)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			batch = batch[n:]
		}
	}
	return nil
}

// lastCommitsOf looks up a batch. Git gives up at the first corrupt object; the
// halves are asked for apart then, so that one broken repository costs the
// others nothing.
func (f *files) lastCommitsOf(ctx context.Context, repos []*foundRepo, idLength int) {
	err := f.lastCommitBatch(ctx, repos, idLength)
	switch half := len(repos) / 2; {
	case err == nil || ctx.Err() != nil:
	case half == 0:
		f.log.Warn("reading the date of a last commit", "path", repos[0].facts.Path, "error", err)
	default:
		f.lastCommitsOf(ctx, repos[:half], idLength)
		f.lastCommitsOf(ctx, repos[half:], idLength)
	}
}

func (f *files) lastCommitBatch(ctx context.Context, repos []*foundRepo, idLength int) error {
	dir, err := emptyGitDir(idLength)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var alternates, ids strings.Builder
	for _, r := range repos {
		for _, objects := range r.objects {
			fmt.Fprintln(&alternates, objects)
		}
		fmt.Fprintln(&ids, *r.facts.Head)
	}
	if err := borrowObjects(dir, alternates.String()); err != nil {
		return err
	}
	times := &commitTimes{}
	_, err = f.git.run(ctx, gitCommand{
		args: []string{"cat-file", "--batch"}, gitDir: dir, stdin: strings.NewReader(ids.String()), stdout: times,
	})
	for i, r := range repos {
		if i < len(times.found) && times.found[i] != nil {
			r.facts.LastCommitAt = new(wireTime(time.Unix(*times.found[i], 0)))
		}
	}
	return err
}

// emptyGitDir makes the least that git takes for a repository.
func emptyGitDir(idLength int) (string, error) {
	dir, err := os.MkdirTemp("", "c4a-empty-*")
	if err != nil {
		return "", err
	}
	config := "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"
	if idLength == 64 {
		config = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n[extensions]\n\tobjectformat = sha256\n"
	}
	err = errors.Join(
		os.MkdirAll(filepath.Join(dir, "objects", "info"), 0o700),
		os.Mkdir(filepath.Join(dir, "refs"), 0o700),
		os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600),
	)
	if err != nil {
		_ = os.RemoveAll(dir) // the first error counts
		return "", fmt.Errorf("making an empty repository: %w", err)
	}
	return dir, nil
}

// borrowObjects lets the repository at dir read other object directories, one a
// line (gitrepository-layout(5), objects/info/alternates).
func borrowObjects(dir, lines string) error {
	return os.WriteFile(filepath.Join(dir, "objects", "info", "alternates"), []byte(lines), 0o600)
}

// maxCommitHead is how much of a commit is kept to look for its committer;
// the header ends before unless it has a thousand parents.
const maxCommitHead = 64 << 10

// commitTimes reads the output of `git cat-file --batch`, piece by piece: for
// each id "<oid> <type> <size>", the object and a newline, or "<oid> missing".
type commitTimes struct {
	found []*int64 // in the order asked; nil where there is no commit

	header []byte // the line being read
	head   []byte // the first part of the object being read
	left   int64  // bytes of it that are still to come, with the newline
	commit bool
}

func (c *commitTimes) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if c.left > 0 {
			part := p[:min(int64(len(p)), c.left)]
			p = p[len(part):]
			c.left -= int64(len(part))
			c.head = append(c.head, part[:min(len(part), maxCommitHead-len(c.head))]...)
			if c.left == 0 {
				c.end()
			}
			continue
		}
		i := bytes.IndexByte(p, '\n')
		length := i
		if i < 0 {
			length = len(p)
		}
		if len(c.header)+length > maxRefFile {
			return 0, fmt.Errorf("reading git cat-file: a line of over %d bytes", maxRefFile)
		}
		if i < 0 {
			c.header = append(c.header, p...)
			break
		}
		line := string(append(c.header, p[:i]...))
		p, c.header = p[i+1:], c.header[:0]
		fields := strings.Fields(line)
		if len(fields) == 2 {
			c.found = append(c.found, nil) // missing
			continue
		}
		if len(fields) != 3 {
			return 0, fmt.Errorf("reading git cat-file: unexpected line %.100q", line)
		}
		size, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil || size < 0 || size > 1<<60 {
			return 0, fmt.Errorf("reading git cat-file: unexpected size in %.100q", line)
		}
		c.left, c.commit, c.head = size+1, fields[1] == "commit", c.head[:0]
	}
	return n, nil
}

func (c *commitTimes) end() {
	var at *int64
	if seconds, ok := parseCommitTime(string(c.head)); ok && c.commit {
		at = &seconds
	}
	c.found = append(c.found, at)
}
