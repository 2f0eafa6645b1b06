package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
)

// maxObjectLine bounds one line of cat-file --batch-check: an id, a type and a
// size, or the requested name.
const maxObjectLine = 2*maxPathField + maxRevision

// objectInfo describes the object that a name resolves to; oid is "" if there
// is no such object.
type objectInfo struct {
	oid  string
	kind string // commit, tree, blob or tag
	size int64
}

// lookUp resolves names of objects (gitrevisions(7)), which must not contain a
// newline, with one git process. The results are in the order of names.
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

// readObjects calls each with the content of each object, up to limit bytes of
// it, with one git process. Missing objects are skipped. base selects the
// repository; its args are not used.
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

// eachObject calls each for each of the named objects in their order, with one
// git process. Names are as in gitrevisions(7), without a newline. The function
// reads as much of the content as it needs; errEnough from it ends the reading
// without an error. base selects the repository; its args are not used.
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
				content.left++ // the newline after the content
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

// objectContent reads the content of an object from git's output.
type objectContent struct {
	r    *bufio.Reader
	left int64 // bytes left before the next object's header
}

// read returns at most limit bytes of the content.
func (c *objectContent) read(limit int64) (string, error) {
	n := min(c.left-1, limit)
	c.left -= n
	return readContent(c.r, n)
}

func (c *objectContent) skip() error {
	for c.left > 0 { // int can be too small for the size of an object
		n, err := c.r.Discard(int(min(c.left, 1<<30)))
		if err != nil {
			return torn(err)
		}
		c.left -= int64(n)
	}
	return nil
}

// readObjectInfo reads one header line of cat-file.
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

// readContent reads size bytes and copies them only once.
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

// torn converts io.EOF, where more output was expected, to io.ErrUnexpectedEOF.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func torn(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseObjectLine parses a line of cat-file --batch-check (git-cat-file(1),
// BATCH OUTPUT): "id type size", or the requested name and why there is no
// object.
func parseObjectLine(line string) (objectInfo, error) {
	for _, why := range []string{" missing", " ambiguous", " submodule"} {
		if strings.HasSuffix(line, why) {
			return objectInfo{}, nil
		}
	}
	oid, rest, _ := strings.Cut(line, " ")
	kind, digits, _ := strings.Cut(rest, " ")
	size, err := strconv.ParseUint(digits, 10, 63) // ParseUint rejects a sign
	if !isObjectID(oid) || err != nil || kind != "commit" && kind != "tree" && kind != "blob" && kind != "tag" {
		return objectInfo{}, badOutput("cat-file", []byte(line))
	}
	return objectInfo{oid: oid, kind: kind, size: int64(size)}, nil
}
