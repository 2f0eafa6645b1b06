package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file has read_file: the daemon's method reads bytes, a model wants lines.

const (
	// readPiece is how many bytes are read at once. A file of that size is read
	// whole, so that its number of lines is known.
	readPiece = 256 << 10
	// readMost bounds how far into a file the lines are counted. Behind it tail
	// reads the end, and fs/readFile any part.
	readMost = 64 << 20
	// readTailMost bounds how far before the end tail looks for its lines.
	readTailMost = 4 << 20
	// readLine bounds one line: minified files have lines of a megabyte.
	readLine = 2000
	// readMaxBytes bounds max_bytes, as fs/readFile does.
	readMaxBytes = 4 << 20
	// readImage bounds an image: it takes a third more as base64.
	readImage = 256 << 10
	// readSniff is how many bytes are searched for a NUL, as git does it.
	readSniff = 8000
	// readLevels bounds how many directories above a file are tried as the place of
	// its repository.
	readLevels = 40
	// mcpNumberRoom is kept for the number of a line.
	mcpNumberRoom = 20
)

type readFileArgs struct {
	Path      string `json:"path" doc:"absolute path of a file"`
	StartLine *int   `json:"start_line,omitempty" doc:"first line to show, from 1"`
	Lines     *int   `json:"lines,omitempty" doc:"number of lines; default: as many as fit"`
	Tail      *int   `json:"tail,omitempty" doc:"show this many lines at the end instead"`
	Commit    string `json:"commit,omitempty" doc:"branch, tag or commit to read the file from"`
	MaxBytes  *int   `json:"max_bytes,omitempty" doc:"bytes of text, 2000 to 4194304; default 16000"`
}

func runReadFile(ctx context.Context, c *mcpCall, args readFileArgs) (*mcpAnswer, error) {
	budget := valueOr(args.MaxBytes, mcpTextBudget)
	start, lines, tail := valueOr(args.StartLine, 1), valueOr(args.Lines, readMost), valueOr(args.Tail, 0)
	switch {
	case budget < mcpMinBudget || budget > readMaxBytes:
		return nil, badArgument("max_bytes must be %d to %d, not %d", mcpMinBudget, readMaxBytes, budget)
	case start < 1:
		return nil, badArgument("start_line counts from 1; for the end of a file use tail")
	case lines < 1 || args.Tail != nil && tail < 1:
		return nil, badArgument("lines and tail must be at least 1")
	case args.Tail != nil && (args.StartLine != nil || args.Lines != nil):
		return nil, badArgument("use either tail or start_line and lines")
	}
	f := &mcpFile{call: c, at: newMCPPath(args.Path)}
	f.read = f.readDisk
	if args.Commit != "" {
		if err := f.readCommit(ctx, args.Commit); err != nil {
			return nil, err
		}
	}
	v := &lineView{budget: budget - mcpHeadRoom, start: start, most: lines}
	v.longest = min(readLine, v.budget-mcpNumberRoom)
	return f.show(ctx, v, tail)
}

// show shows the lines of the view, or that many lines at the end if tail is not 0.
func (f *mcpFile) show(ctx context.Context, v *lineView, tail int) (*mcpAnswer, error) {
	first, err := f.read(ctx, 0, readPiece)
	if err != nil {
		return nil, err
	}
	if answer := f.binary(first); answer != nil {
		return answer, nil
	}
	if tail == 0 {
		return f.showLines(ctx, v, first)
	}
	return f.showTail(ctx, v, first, tail)
}

// mcpFile is a file on disk, or as it was in a commit.
type mcpFile struct {
	call    *mcpCall
	at      mcpPath
	read    func(ctx context.Context, at int64, length int) (filePart, error)
	commit  string // "" for the file on disk
	notUTF8 bool   // a part that was read is not UTF-8
}

// filePart is a part of a file.
type filePart struct {
	data []byte
	at   int64 // offset in the file
	size int64 // of the file
}

func (p filePart) end() int64  { return p.at + int64(len(p.data)) }
func (p filePart) isEnd() bool { return p.end() >= p.size || len(p.data) == 0 }

// readDisk reads a part of the file on disk.
func (f *mcpFile) readDisk(ctx context.Context, at int64, length int) (filePart, error) {
	var part struct {
		Content  string `json:"content"`
		Encoding string `json:"encoding"`
		Size     int64  `json:"size"`
	}
	params := struct {
		mcpPath
		Offset int64 `json:"offset"`
		Length int   `json:"length"`
	}{f.at, at, length}
	if err := f.call.ask(ctx, "fs/readFile", params, &part); err != nil {
		return filePart{}, err
	}
	data, err := f.decode(part.Content, part.Encoding)
	return filePart{data, at, part.Size}, err
}

// decode returns the bytes of a content.
func (f *mcpFile) decode(content, encoding string) ([]byte, error) {
	if encoding != "base64" {
		return []byte(content), nil
	}
	f.notUTF8 = true
	data, err := base64.StdEncoding.DecodeString(content)
	if err != nil {
		return nil, fmt.Errorf("reading the content of a file: %w", err)
	}
	return data, nil
}

// readCommit reads the file as it was in a commit. Its directory is the place to
// look from; where that is gone on disk, the next one above it.
func (f *mcpFile) readCommit(ctx context.Context, commit string) error {
	full := f.at.bytes()
	dir, name := path.Split(full)
	var first error
	for range readLevels {
		blob, err := f.askBlob(ctx, strings.TrimSuffix(dir, "/"), name, commit)
		refusal, isRefusal := errors.AsType[*rpcError](err)
		above, last := path.Split(strings.TrimSuffix(dir, "/"))
		gone := isRefusal && (refusal.name() == codeSourceNotFound || refusal.name() == codeRepoNotFound) && blob == nil
		if gone && last != "" {
			first = cmp.Or(first, err)
			dir, name = above, last+"/"+name
			continue
		}
		if first = cmp.Or(first, err); first != nil && err != nil {
			return first // that of the directory that was named
		}
		content, err := f.decode(*blob.Content, blob.Encoding)
		f.commit = commit
		f.read = func(_ context.Context, at int64, length int) (filePart, error) {
			from := min(at, int64(len(content)))
			to := min(from+int64(length), int64(len(content)))
			return filePart{content[from:to], from, int64(len(content))}, nil
		}
		return err
	}
	return badArgument("path has too many directories that do not exist")
}

// commitBlob is a file in the result of index/readBlobs.
type commitBlob struct {
	Encoding string    `json:"encoding"`
	Content  *string   `json:"content"`
	Error    *rpcError `json:"error"`
}

// askBlob reads a file relative to a directory. The blob is nil if the directory
// is the reason of the error, and not the file.
func (f *mcpFile) askBlob(ctx context.Context, dir, name, commit string) (*commitBlob, error) {
	if dir == "" {
		dir = "."
		if strings.HasPrefix(f.at.bytes(), "/") {
			dir = "/"
		}
	}
	params := struct {
		mcpPath
		Files       []string `json:"files,omitempty"`
		FilesBase64 []string `json:"files_base64,omitempty"`
		Commit      string   `json:"commit"`
	}{mcpPath: mcpPathOf(dir), Commit: commit}
	if encoded := nameBase64(name); encoded != "" {
		params.FilesBase64 = []string{encoded}
	} else {
		params.Files = []string{name}
	}
	var result struct {
		Blobs []commitBlob `json:"blobs"`
	}
	if err := f.call.ask(ctx, "index/readBlobs", params, &result); err != nil {
		return nil, err
	}
	if len(result.Blobs) == 0 {
		return nil, failure(codeResultTooLarge, "the file is too large to be read from a commit")
	}
	blob := &result.Blobs[0]
	switch {
	case blob.Error != nil:
		return blob, blob.Error
	case blob.Content == nil:
		return blob, failure(codeSourceNotFound, "the commit has no such file")
	}
	return blob, nil
}

// shown names the file in the first line.
func (f *mcpFile) shown() string {
	if f.commit == "" {
		return f.at.shown()
	}
	return f.at.shown() + " at " + cutText(cleanText(f.commit), 100)
}

// binary answers for a file that is not text: an image for one that clients
// show, facts for others. It returns nil for a text.
func (f *mcpFile) binary(first filePart) *mcpAnswer {
	kind := http.DetectContentType(first.data)
	isImage := slices.Contains([]string{"image/png", "image/jpeg", "image/gif", "image/webp"}, kind)
	switch {
	case isImage && first.size <= readImage && first.isEnd():
		answer := textAnswer(fmt.Sprintf("[%s: %s, %s]", f.shown(), kind, sizeText(first.size)))
		answer.Content = append(answer.Content, mcpImage{"image", first.data, kind})
		return answer
	case isImage || bytes.IndexByte(first.data[:min(len(first.data), readSniff)], 0) >= 0:
		return textAnswer(fmt.Sprintf("[%s: a binary file (%s) of %s, not shown; images are shown up to %d KiB]", f.shown(), kind, sizeText(first.size), readImage>>10))
	}
	return nil
}

// showLines shows lines counted from the start.
func (f *mcpFile) showLines(ctx context.Context, v *lineView, part filePart) (*mcpAnswer, error) {
	for {
		v.add(part.data)
		if part.isEnd() {
			v.end()
			break
		}
		if v.full || part.end() >= readMost {
			break
		}
		var err error
		if part, err = f.read(ctx, part.end(), readPiece); err != nil {
			return nil, err
		}
	}
	head := "[" + f.shown()
	switch {
	case part.isEnd() && v.number == 0:
		return textAnswer(head + ": empty]"), nil
	case len(v.lines) == 0 && part.isEnd():
		return nil, badArgument("start_line %d is behind the end: the file has %s", v.start, countNoun(v.number, "line"))
	case len(v.lines) == 0:
		return nil, badArgument("start_line %d is not in the first %s of the file of %s: use tail, or call_method with fs/readFile and an offset", v.start, sizeText(readMost), sizeText(part.size))
	}
	last := v.start + len(v.lines) - 1
	head += fmt.Sprintf(" lines %d-%d", v.start, last)
	switch {
	case part.isEnd():
		head += fmt.Sprintf(" of %d", v.number)
	default:
		head += ", of " + sizeText(part.size)
	}
	if !part.isEnd() || last < v.number {
		head += fmt.Sprintf("; continue with start_line %d", last+1)
	}
	return textAnswer(joinText(head+f.notes(v)+"]", v.lines)), nil
}

// showTail shows lines at the end. Their numbers are only known in a file that
// was read whole.
func (f *mcpFile) showTail(ctx context.Context, v *lineView, part filePart, tail int) (*mcpAnswer, error) {
	data, whole := part.data, part.isEnd()
	for length := int64(readPiece); !whole; length *= 2 {
		var err error
		if data, err = f.readEnd(ctx, part.size, length); err != nil {
			return nil, err
		}
		if length < part.size {
			if _, rest, ok := bytes.Cut(data, []byte("\n")); ok {
				data = rest // the first line is not whole
			}
		}
		if bytes.Count(data, []byte("\n")) > tail || length >= min(part.size, readTailMost) {
			break
		}
	}
	text := strings.TrimSuffix(string(data), "\n")
	lines := strings.Split(text, "\n")
	if len(data) == 0 {
		return textAnswer("[" + f.shown() + ": empty]"), nil
	}
	// The last lines that fit.
	from, room := len(lines), v.budget
	for from > max(0, len(lines)-tail) {
		line := v.render(from, []byte(lines[from-1]))
		if !whole {
			_, line, _ = strings.Cut(line, "\t")
		}
		if room -= len(line) + 1; room < 0 {
			break
		}
		v.lines = append(v.lines, line)
		from--
	}
	slices.Reverse(v.lines)
	head := fmt.Sprintf("[%s: the last %s", f.shown(), countNoun(len(v.lines), "line"))
	if whole {
		head += fmt.Sprintf(" of %d", len(lines))
	} else {
		head += " of " + sizeText(part.size) + ", without line numbers"
	}
	if len(v.lines) < min(tail, len(lines)) {
		head += "; more do not fit: raise max_bytes"
	}
	return textAnswer(joinText(head+f.notes(v)+"]", v.lines)), nil
}

// readEnd reads the last bytes of a file of the size.
func (f *mcpFile) readEnd(ctx context.Context, size, length int64) (data []byte, err error) {
	for at := max(size-length, 0); at < size; {
		piece, err := f.read(ctx, at, readPiece)
		if err != nil {
			return nil, err
		}
		if len(piece.data) == 0 {
			break // the file became shorter
		}
		data, at = append(data, piece.data...), piece.end()
	}
	return data, nil
}

// notes says what of the text is not as in the file.
func (f *mcpFile) notes(v *lineView) (notes string) {
	if v.cut > 0 {
		notes += fmt.Sprintf("; %s cut at %d bytes", countNoun(v.cut, "line"), v.longest)
	}
	if f.notUTF8 {
		notes += "; not UTF-8, its other bytes are shown as \uFFFD"
	}
	return notes
}

// lineView cuts lines out of the parts of a file. It keeps the lines from start,
// at most most of them and as many as fit in budget bytes, and counts the others.
type lineView struct {
	budget, start, most int
	longest             int // bytes of a line that are shown

	number  int    // of lines that ended
	partial []byte // the start of the line that has not ended, at most readLine+1 bytes
	begun   bool   // a line has begun and not ended
	lines   []string
	cut     int    // lines that were cut
	full    bool   // no line is kept any more
	text    []byte // of the line being rendered
}

// add takes the next part.
func (v *lineView) add(data []byte) {
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		v.begun = true
		if room := readLine + 1 - len(v.partial); room > 0 {
			v.partial = append(v.partial, line[:min(len(line), room)]...)
		}
		if ended {
			v.endLine()
		}
		data = rest
	}
}

// end ends the last line, if it has no line end.
func (v *lineView) end() {
	if v.begun {
		v.endLine()
	}
}

func (v *lineView) endLine() {
	v.number++
	if v.number >= v.start && !v.full {
		cut := v.cut
		line := v.render(v.number, v.partial)
		if v.budget -= len(line) + 1; v.budget < 0 || len(v.lines) == v.most {
			v.full, v.cut = true, cut
		} else {
			v.lines = append(v.lines, line)
		}
	}
	v.partial, v.begun = v.partial[:0], false
}

// render returns the line with its number.
func (v *lineView) render(number int, line []byte) string {
	line = bytes.TrimSuffix(line, []byte("\r"))
	v.text = append(strconv.AppendInt(v.text[:0], int64(number), 10), '\t')
	if len(line) <= v.longest && utf8.Valid(line) {
		return string(append(v.text, line...))
	}
	text := strings.ToValidUTF8(string(line), "\uFFFD")
	if shown := cutText(text, v.longest); shown != text {
		text = shown
		v.cut++
	}
	return string(v.text) + text
}
