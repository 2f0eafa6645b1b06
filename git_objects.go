package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
)

// maxObjectLine bounds one answer of cat-file --batch-check: an id, a type and
// a size, or the name that was asked for.
const maxObjectLine = 2*maxPathField + maxRevision

// objectInfo is what a name stands for; oid is "" where there is no such
// object.
type objectInfo struct {
	oid  string
	kind string // commit, tree, blob or tag
	size int64
}

// lookUp finds objects by names that have no newline (gitrevisions(7)), in
// their order, with one git for all.
func (g *gitReader) lookUp(ctx context.Context, v *gitView, names []string) ([]objectInfo, error) {
	command := v.command("cat-file", "--batch-check", "--buffer")
	command.stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	objects := make([]objectInfo, 0, len(names))
	err := g.git.stream(ctx, command, func(r *bufio.Reader) error {
		for range names {
			o, err := readObjectInfo(r)
			if err != nil {
				return err
			}
			objects = append(objects, o)
		}
		return nil
	})
	return objects, err
}

// readObjects hands each object's content to take, with one git for all; what
// is over most is skipped. An object that is not here is not handed over.
// where is the repository to read, without a command.
func (g *gitRunner) readObjects(ctx context.Context, base gitCommand, oids []string, limit int64, each func(o objectInfo, content string) error) error {
	return g.eachObject(ctx, base, oids, func(o objectInfo, content *objectContent) error {
		if o.oid == "" {
			return nil
		}
		text, err := content.read(limit)
		if err != nil {
			return err
		}
		return each(o, text)
	})
}

// eachObject hands each of the named objects (gitrevisions(7), without a
// newline) to take, in their order, with one git for all. take reads of the
// content what it wants; errEnough from it ends the reading without an error.
// where is the repository to read, without a command.
func (g *gitRunner) eachObject(ctx context.Context, base gitCommand, names []string, each func(o objectInfo, content *objectContent) error) error {
	if len(names) == 0 {
		return nil
	}
	base.args = []string{"cat-file", "--batch", "--buffer"}
	base.stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	return g.stream(ctx, base, func(r *bufio.Reader) error {
		for range names {
			o, err := readObjectInfo(r)
			if err != nil {
				return err
			}
			content := &objectContent{r: r, left: o.size}
			if o.oid != "" {
				content.left++ // the newline behind it
			}
			if err := each(o, content); errors.Is(err, errEnough) {
				return nil
			} else if err != nil {
				return err
			}
			if err := content.skip(); err != nil {
				return err
			}
		}
		return nil
	})
}

// objectContent is the content of an object as it comes from git.
type objectContent struct {
	r    *bufio.Reader
	left int64 // bytes up to the next object's line
}

// read returns the content, at most that many bytes of it.
func (c *objectContent) read(limit int64) (string, error) {
	n := min(c.left-1, limit)
	c.left -= n
	return readContent(c.r, n)
}

func (c *objectContent) skip() error {
	for c.left > 0 { // an int may be shorter than an object
		n, err := c.r.Discard(int(min(c.left, 1<<30)))
		if err != nil {
			return torn(err)
		}
		c.left -= int64(n)
	}
	return nil
}

// readObjectInfo reads one line of what cat-file tells of an object.
func readObjectInfo(r *bufio.Reader) (objectInfo, error) {
	line, cut, err := readUntil(r, '\n', maxObjectLine)
	switch {
	case err != nil:
		return objectInfo{}, torn(err)
	case cut:
		return objectInfo{}, badOutput("cat-file", line)
	}
	return parseObjectLine(string(line))
}

// readContent reads size bytes; they are copied once.
func readContent(r *bufio.Reader, size int64) (string, error) {
	var b strings.Builder
	b.Grow(int(size))
	for left := int(size); left > 0; left = int(size) - b.Len() {
		if _, err := r.Peek(1); err != nil {
			return "", torn(err)
		}
		part, err := r.Peek(min(left, r.Buffered()))
		if err != nil {
			return "", torn(err)
		}
		b.Write(part)
		if _, err := r.Discard(len(part)); err != nil {
			return "", torn(err)
		}
	}
	return b.String(), nil
}

// torn makes the end of the output, where more was due, an error.
func torn(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseObjectLine reads a line of cat-file --batch-check (git-cat-file(1),
// BATCH OUTPUT): "id type size", or the name asked for and why there is none.
func parseObjectLine(line string) (objectInfo, error) {
	for _, why := range []string{" missing", " ambiguous", " submodule"} {
		if strings.HasSuffix(line, why) {
			return objectInfo{}, nil
		}
	}
	oid, rest, _ := strings.Cut(line, " ")
	kind, digits, _ := strings.Cut(rest, " ")
	size, err := strconv.ParseUint(digits, 10, 63) // no sign
	if !isObjectID(oid) || err != nil || kind != "commit" && kind != "tree" && kind != "blob" && kind != "tag" {
		return objectInfo{}, badOutput("cat-file", []byte(line))
	}
	return objectInfo{oid: oid, kind: kind, size: int64(size)}, nil
}
