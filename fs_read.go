package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"unicode/utf8"
)

const (
	// defaultReadLength is what fs/readFile returns where length is absent.
	defaultReadLength = 4 << 20
	// maxReadLength is the most that length may ask: in base64 it is 10.7 MiB
	// and fits a message of 16 MiB.
	maxReadLength = 8 << 20
	// maxReadJSON ends a text before its escaped form outgrows a message: a file
	// of control characters takes six bytes for each.
	maxReadJSON = 12 << 20
	// maxReadOffset is the largest integer that every JSON reader keeps exact
	// (RFC 8259 section 6).
	maxReadOffset = 1<<53 - 1
	// readStep is read between two looks at the context.
	readStep = 1 << 20
	// readSlack is read beyond the size that the file system tells: some of them
	// tell 0 for a file that has content.
	readSlack = 4 << 10
)

type readFileParams struct {
	pathParam
	Offset *int64 `json:"offset,omitempty" doc:"bytes to skip; default 0"`
	Length *int   `json:"length,omitempty" doc:"bytes, 1 to 8 MiB; default 4 MiB"`
}

// readFileResult is a part of a file. length may be less than asked before the
// end: text ends at a whole character, and before its JSON would be too long.
// Reading goes on at offset + length until eof.
type readFileResult struct {
	Path       string `json:"path" doc:"absolute, links resolved"`
	PathBase64 string `json:"path_base64,omitempty" doc:"the path in base64, where it is not UTF-8"`
	Content    string `json:"content"`
	Encoding   string `json:"encoding" enum:"utf-8,base64" doc:"base64 where the part is not UTF-8 or holds a NUL"`
	Offset     int64  `json:"offset" doc:"of the part"`
	Length     int    `json:"length" doc:"bytes of the file in content: may be less than asked; go on at offset + length"`
	Size       int64  `json:"size" doc:"bytes of the whole file"`
	EOF        bool   `json:"eof" doc:"the part reaches the end"`
	Mtime      string `json:"mtime" doc:"RFC 3339, UTC"`
}

// fs/readFile
func (f *fsService) readFile(ctx context.Context, p readFileParams) (*readFileResult, error) {
	length, err := limitParam("length", p.Length, defaultReadLength, maxReadLength)
	if err != nil {
		return nil, err
	}
	var offset int64
	if p.Offset != nil {
		offset = *p.Offset
	}
	if offset < 0 || offset > maxReadOffset {
		return nil, invalidParam("offset", "must be 0 to %d, not %d", int64(maxReadOffset), offset)
	}
	at, err := f.access.resolve(p.pathParam)
	if err != nil {
		return nil, err
	}
	// One descriptor for all: a file that is replaced meanwhile stays the same.
	file, info, err := f.access.openFile(at)
	if err != nil {
		return nil, err
	}
	defer file.Close() // nothing is written
	if info.IsDir() {
		return nil, invalidParam("path", "is a directory: use fs/listDir")
	}
	data, err := readPart(ctx, file, offset, int(min(int64(length), max(info.Size()-offset, 0)+readSlack)))
	if err != nil {
		return nil, f.walkError(ctx, err, at.abs)
	}
	if info, err = file.Stat(); err != nil {
		return nil, f.access.wireError(err, at.abs)
	}
	read := int64(len(data))
	size := info.Size() // or what was seen of a file that has shrunk since
	if read > 0 {
		size = max(size, offset+read)
	}
	content, encoding, used := encodePart(data, offset+read >= size)
	return &readFileResult{
		Path: showName(at.abs), PathBase64: nameBase64(at.abs),
		Content: content, Encoding: encoding,
		Offset: offset, Length: used, Size: size, EOF: offset+int64(used) >= size,
		Mtime: wireTime(info.ModTime()),
	}, nil
}

// readPart reads length bytes from offset on, fewer at the end of the file.
func readPart(ctx context.Context, file io.ReaderAt, offset int64, length int) ([]byte, error) {
	data := make([]byte, length)
	done := 0
	for done < length {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n, err := file.ReadAt(data[done:min(length, done+readStep)], offset+int64(done))
		done += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return data[:done], nil
}

// encodePart makes the content of a result from a part of a file and tells how
// many bytes of it went in. Text is valid UTF-8 without NUL; a character that
// the end of the part cuts is left to the next part, unless the file ends
// there too.
func encodePart(data []byte, atEnd bool) (content, encoding string, used int) {
	text := data
	if !atEnd {
		text = data[:wholeRunes(data)]
	}
	if len(data) > 0 && len(text) == 0 || bytes.IndexByte(data, 0) >= 0 || !utf8.Valid(text) {
		return base64.StdEncoding.EncodeToString(data), "base64", len(data)
	}
	s := string(text[:fitJSON(text, maxReadJSON)])
	return s, "utf-8", len(s)
}

// wholeRunes is the length of data without a UTF-8 sequence that its end cuts.
func wholeRunes(data []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(data); back++ {
		if tail := data[len(data)-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return len(data) - back
			}
			break
		}
	}
	return len(data)
}

// fitJSON is how much of valid text fits into most bytes as a JSON string,
// whole characters only.
func fitJSON(text []byte, limit int) int {
	if len(text) <= limit/6 {
		return len(text)
	}
	size := 2
	for i, r := range string(text) {
		width := utf8.RuneLen(r)
		switch {
		case r < 0x20, r == '<', r == '>', r == '&', r == 0x7f, r == 0x2028, r == 0x2029:
			width = 6
		case r == '"', r == '\\':
			width = 2
		}
		if size += width; size > limit {
			return i
		}
	}
	return len(text)
}
