package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
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
	// maxBlobsAsked bounds the ids or names in one request.
	maxBlobsAsked = 100_000
)

// blobsParams are the params of index/readBlobs: either oids or files.
type blobsParams struct {
	pathParam
	OIDs     []string `json:"oids,omitempty" doc:"full blob ids, at most 100,000; either oids or files is required"`
	Files    []string `json:"files,omitempty" doc:"paths relative to path, instead of oids"`
	Commit   *string  `json:"commit,omitempty" doc:"branch, tag or commit id to read files from; default HEAD"`
	MaxBytes *int     `json:"max_bytes,omitempty" doc:"largest total content of the result, 1 to 64 MiB; default 8 MiB"`
}

// blobsResult is the result of index/readBlobs.
type blobsResult struct {
	Blobs     []blobEntry `json:"blobs" doc:"in the order of the request"`
	NextIndex *int        `json:"next_index" doc:"index of the first id or file that did not fit and needs another request; null if none"`
}

// blobEntry is a blob with its content, or the reason why it has none.
type blobEntry struct {
	OID      *string   `json:"oid" doc:"blob id; null if the commit has no such file"`
	Path     string    `json:"path,omitempty" doc:"as requested"`
	Size     *int64    `json:"size,omitempty" doc:"size in bytes"`
	Encoding string    `json:"encoding,omitempty" enum:"utf-8,base64"`
	Content  *string   `json:"content,omitempty"`
	Error    *rpcError `json:"error,omitempty" doc:"why there is no content"`
}

// readBlobs implements index/readBlobs.
func (g *gitReader) readBlobs(ctx context.Context, p blobsParams) (blobsResult, error) {
	maxBytes, err := limitParam("max_bytes", p.MaxBytes, blobBytes, maxBlobBytes)
	if err != nil {
		return blobsResult{}, err
	}
	if err := p.check(); err != nil {
		return blobsResult{}, err
	}
	v, err := g.open(p.pathParam, objectsView)
	if err != nil {
		return blobsResult{}, err
	}
	defer v.remove()

	names, err := g.blobNames(ctx, v, p)
	if err != nil {
		return blobsResult{}, err
	}
	result := blobsResult{Blobs: make([]blobEntry, 0, min(len(names), 1024))}
	left := int64(maxBytes)
	add := func(o objectInfo, content *objectContent) error {
		n := len(result.Blobs)
		if o.kind == "blob" && o.size <= int64(maxBytes) && o.size > left {
			result.NextIndex = &n
			return errEnough
		}
		entry := p.entry(n, o.oid)
		switch {
		case o.oid == "":
			entry.Error = failure(codeSourceNotFound, "there is no such blob in this repository")
		case o.kind != "blob":
			entry.Error = failure(codeSourceNotFound, "the object is a %s, not a blob", o.kind)
		case o.size > int64(maxBytes):
			entry.Error = failure(codeResultTooLarge, "the blob has %d bytes, more than max_bytes (%d)", o.size, maxBytes).with("bytes", o.size)
		default:
			left -= o.size
			text, err := content.read(o.size)
			if err != nil {
				return err
			}
			text, entry.Encoding = blobText(text)
			entry.Size, entry.Content = &o.size, &text
		}
		result.Blobs = append(result.Blobs, entry)
		reportProgress(ctx, progress{Phase: "reading", Percent: (n + 1) * 99 / len(names), Done: int64(n + 1), Total: int64(len(names))})
		if content.left > maxBlobSkipped {
			return errEnough
		}
		return nil
	}
	for result.NextIndex == nil && len(result.Blobs) < len(names) {
		if err := g.git.eachObject(ctx, v.command(), names[len(result.Blobs):], add); err != nil {
			return blobsResult{}, err
		}
	}
	return result, nil
}

// entry returns the n-th entry of the result, without content.
func (p blobsParams) entry(n int, oid string) blobEntry {
	if len(p.OIDs) > 0 {
		return blobEntry{OID: &p.OIDs[n]}
	}
	return blobEntry{OID: optionalString(oid), Path: p.Files[n]}
}

// check returns an error for an id that is not a full object id, or a path that
// leads outside the repository.
func (p blobsParams) check() error {
	switch {
	case len(p.OIDs) == 0 && len(p.Files) == 0:
		return invalidParam("oids", "give either oids or files")
	case len(p.OIDs) > 0 && len(p.Files) > 0:
		return invalidParam("files", "give either oids or files, not both")
	case len(p.OIDs) > maxBlobsAsked:
		return invalidParam("oids", "must have at most %d elements", maxBlobsAsked)
	case len(p.Files) > maxBlobsAsked:
		return invalidParam("files", "must have at most %d elements", maxBlobsAsked)
	}
	for _, oid := range p.OIDs {
		if !isObjectID(oid) {
			return invalidParam("oids", "%.100q is not a full object id", oid)
		}
	}
	for _, file := range p.Files {
		if err := checkTreePath("files", file); err != nil {
			return err
		}
	}
	return nil
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

// blobNames returns the requested blobs as object names for git.
func (g *gitReader) blobNames(ctx context.Context, v *gitView, p blobsParams) ([]string, error) {
	if len(p.OIDs) > 0 {
		return p.OIDs, nil
	}
	names := make([]string, len(p.Files))
	commit, err := g.commitOf(ctx, v, "commit", valueOr(p.Commit, "HEAD"))
	if err != nil {
		return nil, err
	}
	var multiline []string // paths that cannot be a line of standard input
	for n, file := range p.Files {
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
		size += entrySize + len(r.Blobs[n].Path)
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
