package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
)

// maxTreeHeader bounds what stands before a path in the output of git ls-tree.
const maxTreeHeader = 256

var (
	errTreeLimit   = errors.New("the tree is over the limits")
	errTreeCorrupt = errors.New("git ls-tree printed something else")
)

// treeGuard counts the output of git ls-tree -r -t -z --long as it comes, and
// stops git at a limit: 200 KB of objects can stand for ten million files,
// which a checkout would write one by one.
type treeGuard struct {
	maxFiles int
	maxBytes int64

	files, dirs int
	bytes       int64
	missing     int // blobs that are in a tree and not in the repository

	header []byte
	inPath bool
}

func (g *treeGuard) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if g.inPath {
			end := bytes.IndexByte(p, 0)
			if end < 0 {
				return total, nil
			}
			p, g.inPath = p[end+1:], false
			continue
		}
		end := bytes.IndexByte(p, '\t')
		part := p
		if end >= 0 {
			part = p[:end]
		}
		if len(g.header)+len(part) > maxTreeHeader {
			return 0, errTreeCorrupt
		}
		g.header = append(g.header, part...)
		if end < 0 {
			return total, nil
		}
		if err := g.entry(); err != nil {
			return 0, err
		}
		p, g.inPath, g.header = p[end+1:], true, g.header[:0]
	}
	return total, nil
}

// entry counts "100644 blob <oid>    1234".
func (g *treeGuard) entry() error {
	fields := bytes.Fields(g.header)
	if len(fields) != 4 {
		return errTreeCorrupt
	}
	switch size := string(fields[3]); {
	case string(fields[1]) == "tree":
		g.dirs++
	case size == "-": // a submodule: an empty directory
		g.files++
	case size == "BAD": // git's word for an object that it cannot read
		g.files++
		g.missing++
	default:
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n < 0 {
			return errTreeCorrupt
		}
		g.files++
		g.bytes += min(n, g.maxBytes+1)
	}
	if g.files > g.maxFiles || g.dirs > g.maxFiles || g.bytes > g.maxBytes {
		return errTreeLimit
	}
	return nil
}

// checkTree holds a commit's tree against the limits before it is checked
// out. A blob that is missing is a *gitError for a corrupt repository.
func (c *cloner) checkTree(ctx context.Context, w workTree, commit string) error {
	guard := &treeGuard{maxFiles: c.cfg.maxFiles, maxBytes: c.cfg.maxBytes}
	cmd := w.command("ls-tree", "-r", "-t", "-z", "--long", "--full-tree", "--end-of-options", commit)
	var stopped error
	cmd.stdout = writerFunc(func(p []byte) (int, error) {
		n, err := guard.Write(p)
		if err != nil {
			stopped = err
		}
		return n, err
	})
	_, err := c.cfg.git.run(ctx, cmd)
	switch {
	case errors.Is(stopped, errTreeLimit):
		return gitFailure(gitTooLarge, "the tree holds more than %d files or directories, or more than %d bytes (--max-clone-files, --max-clone-bytes)", c.cfg.maxFiles, c.cfg.maxBytes)
	case stopped != nil:
		return fmt.Errorf("counting the files of a commit: %w", stopped)
	case err != nil:
		return err
	case guard.missing > 0:
		return &gitError{command: "ls-tree", exit: 0, reason: gitCorrupt, summary: fmt.Sprintf("%d files of the commit are missing from the repository", guard.missing)}
	}
	return nil
}
