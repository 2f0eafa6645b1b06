package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"unicode/utf8"
)

const (
	// defaultReadLength is the length of fs/readFile without length.
	defaultReadLength = 4 << 20
	// maxReadLength is the largest length accepted: 10.7 MiB in base64, which
	// fits a message of 16 MiB.
	maxReadLength = 8 << 20
	// maxReadJSON bounds the escaped form of a text, where each control
	// character takes six bytes, so that it fits a message.
	maxReadJSON = 12 << 20
	// maxReadOffset is the largest integer that every JSON reader keeps exact
	// (RFC 8259 section 6).
	maxReadOffset = 1<<53 - 1
	// readStep is the number of bytes read between two checks of the context.
	readStep = 1 << 20
	// readSlack is read beyond the size that stat reports, because some file
	// systems report 0 for files with content.
	readSlack = 4 << 10
	// maxQuickRead is the size of a file that the goroutine that reads requests may
	// read itself. It takes some 50 µs; to hand it over takes half as long.
	maxQuickRead = 64 << 10
)

type readFileParams struct {
	pathParam
	Offset *int64 `json:"offset,omitempty" doc:"bytes to skip; default 0"`
	Length *int   `json:"length,omitempty" doc:"bytes, 1 to 8 MiB; default 4 MiB"`
}

// readFileResult is part of a file. The length may be smaller than requested
// before the end of the file: text ends at a whole character and before its
// JSON grows too long. Reading continues at offset + length until eof.
type readFileResult struct {
	Path       string   `json:"path" doc:"absolute path, symlinks resolved"`
	PathBase64 string   `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Content    jsonText `json:"content"`
	Encoding   string   `json:"encoding" enum:"utf-8,base64" doc:"base64 if the part is not valid UTF-8 or contains a NUL"`
	Offset     int64    `json:"offset" doc:"offset of content in the file, in bytes"`
	Length     int      `json:"length" doc:"bytes of the file in content; may be less than requested: continue at offset + length"`
	Size       int64    `json:"size" doc:"size of the whole file in bytes"`
	EOF        bool     `json:"eof" doc:"true if content reaches the end of the file"`
	Mtime      string   `json:"mtime" doc:"modification time, RFC 3339 in UTC"`
	Head       *string  `json:"head,omitempty" doc:"commit that was checked out; absent outside a repository and without commits"`

	buffers *bufferPool // takes Content back; nil after giveBack
}

func (r *readFileResult) giveBack() {
	if r.buffers != nil {
		r.buffers.put(r.Content)
		r.Content, r.buffers = nil, nil
	}
}

// jsonSize expects one character in eight to need an escape.
func (r *readFileResult) jsonSize() int { return len(r.Content) + len(r.Content)/8 + len(r.Path) + 512 }

func (r *readFileResult) appendJSON(to []byte) []byte {
	to = appendJSONString(append(to, `{"path":`...), r.Path)
	if r.PathBase64 != "" {
		to = appendJSONString(append(to, `,"path_base64":`...), r.PathBase64)
	}
	to = appendJSONText(append(to, `,"content":`...), r.Content)
	to = appendJSONString(append(to, `,"encoding":`...), r.Encoding)
	to = strconv.AppendInt(append(to, `,"offset":`...), r.Offset, 10)
	to = strconv.AppendInt(append(to, `,"length":`...), int64(r.Length), 10)
	to = strconv.AppendInt(append(to, `,"size":`...), r.Size, 10)
	to = strconv.AppendBool(append(to, `,"eof":`...), r.EOF)
	to = appendJSONString(append(to, `,"mtime":`...), r.Mtime)
	if r.Head != nil {
		to = appendJSONString(append(to, `,"head":`...), *r.Head)
	}
	return append(to, '}')
}

// readFile implements fs/readFile.
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
	// Use one descriptor throughout: replacing the file meanwhile has no
	// effect.
	at, file, info, err := f.access.open(p.pathParam)
	if err != nil {
		return nil, err
	}
	defer file.Close() // only read
	if err := opened(ctx); err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, invalidParam("path", "is a directory: use fs/listDir")
	}
	return f.readOpened(ctx, at, file, info, offset, length)
}

// quickReadFile is the quick version of readFile for a small file at a plain path. A
// panic leaves its directory to regular requests.
func (f *fsService) quickReadFile(to []byte, params json.RawMessage) ([]byte, bool) {
	path, ok := onlyPath(params)
	if !ok {
		return to, false
	}
	mark := f.access.replaced.mark()
	at, file, info, ended, ok := f.access.quickOpen(path, maxQuickRead)
	if !ok {
		return to, false
	}
	result, err := f.readOpened(context.Background(), at, file, info, 0, defaultReadLength)
	_ = file.Close() // only read
	ended()
	if err != nil || f.access.disturbed(mark, params) {
		return to, false
	}
	if size := len(to) + result.jsonSize(); cap(to) < size {
		to = append(f.buffers.get(size), to...)
	}
	to = result.appendJSON(to)
	result.giveBack()
	return to, true
}

// readOpened reads a part of a regular file that was opened and described.
func (f *fsService) readOpened(ctx context.Context, at resolvedPath, file *os.File, info fs.FileInfo, offset int64, length int) (*readFileResult, error) {
	length = int(min(int64(length), max(info.Size()-offset, 0)+readSlack))
	data, err := readPart(ctx, file, offset, f.buffers.get(length)[:length])
	if err != nil {
		return nil, f.walkError(ctx, err, at.abs)
	}
	if info, err = file.Stat(); err != nil {
		return nil, f.access.wireError(err, at.abs)
	}
	read := int64(len(data))
	size := info.Size() // or what was read, if the file has shrunk since
	if read > 0 {
		size = max(size, offset+read)
	}
	content, encoding, used := encodePart(data, offset+read >= size)
	if encoding == "base64" { // the content is a buffer of its own
		f.buffers.put(data)
	}
	var head *string
	if dir, ok := parentOf(f.access, at); ok {
		head = f.headOf(dir)
	}
	return &readFileResult{
		Path: showName(at.abs), PathBase64: nameBase64(at.abs),
		Content: content, Encoding: encoding,
		Offset: offset, Length: used, Size: size, EOF: offset+int64(used) >= size,
		Mtime: wireTime(info.ModTime()), Head: head,
		buffers: f.buffers,
	}, nil
}

// readPart fills data from offset and returns what it read, which is shorter at
// the end of the file.
func readPart(ctx context.Context, file io.ReaderAt, offset int64, data []byte) ([]byte, error) {
	done, length := 0, len(data)
	for done < length {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		beat(ctx)
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

// encodePart encodes part of a file and returns the number of bytes used. Text
// is valid UTF-8 without NUL. A character that is cut off at the end of the
// part is left for the next part, unless the file ends there.
func encodePart(data []byte, atEnd bool) (content jsonText, encoding string, used int) {
	text := data
	if !atEnd {
		text = data[:wholeRunes(data)]
	}
	if len(data) > 0 && len(text) == 0 || bytes.IndexByte(data, 0) >= 0 || !utf8.Valid(text) {
		return base64.StdEncoding.AppendEncode(nil, data), "base64", len(data)
	}
	text = text[:fitJSON(text, maxReadJSON)]
	return text, "utf-8", len(text)
}

// wholeRunes returns the length of data without an incomplete UTF-8 sequence at
// its end.
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

// fitJSON returns how many bytes of valid text, in whole characters, fit into
// limit bytes as a JSON string.
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
