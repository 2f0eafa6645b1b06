package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// blobBytes is the default of max_bytes: half of a message, because JSON or
	// base64 makes the content longer.
	blobBytes = 8 << 20
	// maxBlobBytes is the largest max_bytes. It bounds the memory of a request.
	maxBlobBytes = 64 << 20
	// maxBlobSkipped bounds how much of an oversized blob is read and dropped.
	// After a larger one git is restarted, which takes about as long as
	// decompressing that much.
	maxBlobSkipped = 4 << 20
	// maxBlobsAsked bounds the ids or names in one request. So many ids fit in
	// the body of a request to the scheduler (maxRPCBody).
	maxBlobsAsked = 20_000
	// maxUnreadable bounds the blobs of one request at which git fails and is
	// restarted. More of them are no accident.
	maxUnreadable = 100
)

// blobsParams are the params of index/readBlobs: either oids or files, in one of
// two forms.
type blobsParams struct {
	pathParam
	OIDs        []string `json:"oids,omitempty" doc:"full blob ids, at most 20,000; one of oids, files and files_base64 is required"`
	Files       []string `json:"files,omitempty" doc:"paths relative to path, at most 20,000"`
	FilesBase64 []string `json:"files_base64,omitempty" doc:"base64 of the paths, instead of files, if some are not valid UTF-8"`
	Commit      *string  `json:"commit,omitempty" doc:"branch, tag or commit id to read files from; default HEAD"`
	MaxBytes    *int     `json:"max_bytes,omitempty" doc:"largest total content of the result, 1 to 64 MiB; default 8 MiB"`
}

// blobsResult is the result of index/readBlobs.
type blobsResult struct {
	Blobs     []blobEntry `json:"blobs" doc:"in the order of the request"`
	NextIndex *int        `json:"next_index" doc:"index of the first id or file that did not fit and needs another request; null if none"`
}

// blobEntry is a blob with its content, or the reason why it has none.
type blobEntry struct {
	OID        *string   `json:"oid" doc:"blob id; null if the commit has no such file"`
	Path       string    `json:"path,omitempty" doc:"as requested"`
	PathBase64 string    `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Size       *int64    `json:"size,omitempty" doc:"size in bytes"`
	Encoding   string    `json:"encoding,omitempty" enum:"utf-8,base64"`
	Content    *string   `json:"content,omitempty"`
	Error      *rpcError `json:"error,omitempty" doc:"why there is no content"`
}

// readBlobs implements index/readBlobs.
func (g *gitReader) readBlobs(ctx context.Context, p blobsParams) (blobsResult, error) {
	maxBytes, err := limitParam("max_bytes", p.MaxBytes, blobBytes, maxBlobBytes)
	if err != nil {
		return blobsResult{}, err
	}
	files, err := p.check()
	if err != nil {
		return blobsResult{}, err
	}
	v, err := g.open(p.pathParam, objectsView)
	if err != nil {
		return blobsResult{}, err
	}
	defer v.remove()

	commit := ""
	names := p.OIDs
	if len(files) > 0 {
		if commit, err = g.commitOf(ctx, v, "commit", valueOr(p.Commit, "HEAD")); err != nil {
			return blobsResult{}, err
		}
		if names, err = g.blobNames(ctx, v, commit, files); err != nil {
			return blobsResult{}, err
		}
	}
	b := &blobReader{oids: p.OIDs, files: files, maxBytes: int64(maxBytes), left: int64(maxBytes)}
	if err := b.read(ctx, g.git, v, names); err != nil {
		return blobsResult{}, err
	}
	if commit != "" {
		if err := g.findMissing(ctx, v, commit, files, b.result.Blobs); err != nil {
			return blobsResult{}, err
		}
	}
	return b.result, nil
}

// blobReader collects the result of index/readBlobs.
type blobReader struct {
	oids     []string // either oids or files
	files    []string
	maxBytes int64
	left     int64 // bytes of content that still fit
	result   blobsResult
	unread   *blobEntry // the blob at whose content git failed
}

// read reads the named objects, with another git process after a blob that is
// large or cannot be read.
func (b *blobReader) read(ctx context.Context, git *gitRunner, v *gitView, names []string) error {
	b.result.Blobs = make([]blobEntry, 0, min(len(names), 1024))
	unreadable := 0
	for b.result.NextIndex == nil && len(b.result.Blobs) < len(names) {
		before := len(b.result.Blobs)
		err := git.eachObject(ctx, v.command(), names[before:], func(o objectInfo, content *objectContent) error {
			err := b.add(o, content)
			n := len(b.result.Blobs)
			reportProgress(ctx, progress{Phase: "reading", Percent: n * 99 / len(names), Done: int64(n), Total: int64(len(names))})
			return err
		})
		if err == nil {
			continue
		}
		failed, ok := errors.AsType[*gitError](err)
		if b.unread != nil {
			b.unread.Error = failed.rpc()
			b.result.Blobs = append(b.result.Blobs, *b.unread)
			b.unread = nil
		}
		if unreadable++; !ok || len(b.result.Blobs) == before || unreadable > maxUnreadable {
			return err
		}
	}
	return nil
}

// add appends an object to the result. It returns errEnough if the object does
// not fit, or if reading to its end would take longer than another process.
func (b *blobReader) add(o objectInfo, content *objectContent) error {
	n := len(b.result.Blobs)
	if o.kind == "blob" && o.size <= b.maxBytes && o.size > b.left {
		b.result.NextIndex = &n
		return errEnough
	}
	entry := b.entry(n, o.oid)
	switch {
	case o.oid == "":
		entry.Error = failure(codeSourceNotFound, "there is no such blob in this repository")
	case o.kind != "blob":
		entry.Error = failure(codeSourceNotFound, "the object is a %s, not a blob", o.kind)
	case o.size > b.maxBytes:
		entry.Error = failure(codeResultTooLarge, "the blob has %d bytes, more than max_bytes (%d)", o.size, b.maxBytes).with("bytes", o.size)
	default:
		text, err := content.read(o.size)
		if err != nil {
			b.unread = &entry
			return err
		}
		b.left -= o.size
		text, entry.Encoding = blobText(text)
		entry.Size, entry.Content = &o.size, &text
	}
	b.result.Blobs = append(b.result.Blobs, entry)
	if content.left > maxBlobSkipped {
		return errEnough
	}
	return nil
}

// entry returns the n-th entry of the result, without content.
func (b *blobReader) entry(n int, oid string) blobEntry {
	if len(b.oids) > 0 {
		return blobEntry{OID: &b.oids[n]}
	}
	return blobEntry{OID: optionalString(oid), Path: showName(b.files[n]), PathBase64: nameBase64(b.files[n])}
}

// findMissing sets the ids of files that the commit has and whose blobs are
// missing, as in a partial clone. cat-file does not tell them from files that
// the commit does not have.
func (g *gitReader) findMissing(ctx context.Context, v *gitView, commit string, files []string, blobs []blobEntry) error {
	var paths []string
	for n := range blobs {
		if blobs[n].OID == nil {
			paths = append(paths, path.Join(v.repo.prefix, files[n]))
		}
	}
	entries, err := g.entriesOf(ctx, v, commit, paths)
	failed, ok := errors.AsType[*gitError](err)
	if err != nil && !ok {
		return err
	}
	for n := range blobs {
		if blobs[n].OID != nil {
			continue
		}
		if failed != nil { // a directory is missing too: git knows nothing of its files
			blobs[n].Error = failed.rpc()
		} else if o := entries[path.Join(v.repo.prefix, files[n])]; o.oid != "" {
			blobs[n].OID = &o.oid
			blobs[n].Error = failure(codeSourceNotFound, "the %s is missing from this repository", o.kind)
		}
	}
	return nil
}

// check returns the requested paths. It is an error if an id is not a full
// object id, or a path leads outside the repository.
func (p blobsParams) check() ([]string, error) {
	given := 0
	for _, list := range []struct {
		name string
		len  int
	}{{"oids", len(p.OIDs)}, {"files", len(p.Files)}, {"files_base64", len(p.FilesBase64)}} {
		if list.len > maxBlobsAsked {
			return nil, invalidParam(list.name, "must have at most %d elements", maxBlobsAsked)
		}
		if list.len == 0 {
			continue
		}
		if given++; given > 1 {
			return nil, invalidParam(list.name, "give only one of oids, files and files_base64")
		}
	}
	if given == 0 {
		return nil, invalidParam("oids", "give one of oids, files and files_base64")
	}
	for _, oid := range p.OIDs {
		if !isObjectID(oid) {
			return nil, invalidParam("oids", "%.100q is not a full object id", oid)
		}
	}
	return treePaths("files", p.Files, p.FilesBase64)
}

// treePaths returns the paths of a parameter that is given as text, or with
// _base64 behind its name in base64. It is an error if both are given, or if a
// path cannot name a file in a tree.
func treePaths(name string, plain, encoded []string) ([]string, error) {
	paths := plain
	if len(encoded) > 0 {
		if len(plain) > 0 {
			return nil, invalidParam(name+"_base64", "give either %s or %s_base64, not both", name, name)
		}
		name += "_base64"
		paths = make([]string, len(encoded))
		for n, text := range encoded {
			path, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, invalidParam(name, "%.100q is not valid base64", text)
			}
			paths[n] = string(path)
		}
	}
	for _, path := range paths {
		if err := checkTreePath(name, path); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// checkTreePath returns an error unless file is a relative path that can name a
// file in a tree.
func checkTreePath(name, file string) error {
	switch {
	case file == "":
		return invalidParam(name, "a path must not be empty")
	case strings.IndexByte(file, 0) >= 0:
		return invalidParam(name, "a path must not contain a NUL byte")
	case hasSecretName(file):
		return denied()
	case len(file) > maxPathField:
		return invalidParam(name, "a path must have at most %d bytes", maxPathField)
	case file[0] == '/', file != path.Clean(file), file == ".", file == "..", strings.HasPrefix(file, "../"):
		return invalidParam(name, "%.200q: must be relative to path and below it, without . or .. or double slashes", file)
	}
	return nil
}

// noObject is the null id (gitglossary(7)), which no object has.
const noObject = "0000000000000000000000000000000000000000"

// blobNames returns the files of a commit as object names for git.
func (g *gitReader) blobNames(ctx context.Context, v *gitView, commit string, files []string) ([]string, error) {
	names := make([]string, len(files))
	var multiline []string // paths that cannot be a line of standard input
	for n, file := range files {
		full := path.Join(v.repo.prefix, file)
		switch {
		case commit == "":
			names[n] = noObject
		case strings.ContainsAny(full, "\r\n"):
			multiline = append(multiline, full)
		default:
			names[n] = commit + ":" + full
		}
	}
	if len(multiline) == 0 {
		return names, nil
	}
	found, err := g.entriesOf(ctx, v, commit, multiline)
	if err != nil {
		return nil, err
	}
	for n := range names {
		if names[n] == "" {
			names[n] = cmp.Or(found[multiline[0]].oid, noObject)
			multiline = multiline[1:]
		}
	}
	return names, nil
}

// blobText encodes content for JSON: as text if it is valid UTF-8 without NUL,
// otherwise as base64.
func blobText(data string) (content, encoding string) {
	if utf8.ValidString(data) && strings.IndexByte(data, 0) < 0 {
		return data, "utf-8"
	}
	return base64.StdEncoding.EncodeToString([]byte(data)), "base64"
}

func (r blobsResult) jsonSize() int {
	const entrySize = 160 // bytes of an entry without its content and path
	size := entrySize
	for n := range r.Blobs {
		size += entrySize + len(r.Blobs[n].Path) + len(r.Blobs[n].PathBase64)
		if r.Blobs[n].Content != nil {
			size += len(*r.Blobs[n].Content)
		}
	}
	return size + size/20 // for escapes, as frequent as in source code
}

func (r blobsResult) appendJSON(to []byte) []byte {
	to = append(to, `{"blobs":[`...)
	for n := range r.Blobs {
		if n > 0 {
			to = append(to, ',')
		}
		to = r.Blobs[n].appendJSON(to)
	}
	to = append(to, `],"next_index":`...)
	if r.NextIndex == nil {
		return append(to, "null}"...)
	}
	return append(strconv.AppendInt(to, int64(*r.NextIndex), 10), '}')
}

func (e *blobEntry) appendJSON(to []byte) []byte {
	to = appendOptionalString(append(to, `{"oid":`...), e.OID)
	if e.Path != "" {
		to = appendJSONString(append(to, `,"path":`...), e.Path)
	}
	if e.PathBase64 != "" {
		to = appendJSONString(append(to, `,"path_base64":`...), e.PathBase64)
	}
	if e.Size != nil {
		to = strconv.AppendInt(append(to, `,"size":`...), *e.Size, 10)
	}
	if e.Encoding != "" {
		to = appendJSONString(append(to, `,"encoding":`...), e.Encoding)
	}
	if e.Content != nil {
		to = appendJSONString(append(to, `,"content":`...), *e.Content)
	}
	if e.Error != nil {
		var buf bytes.Buffer
		if encodeJSON(&buf, e.Error) == nil { // a code and strings can always be encoded
			to = append(append(to, `,"error":`...), buf.Bytes()...)
		}
	}
	return append(to, '}')
}
