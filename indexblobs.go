package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// blobBytes is the default of max_bytes: half of a message, for content
	// that JSON or base64 makes longer.
	blobBytes = 8 << 20
	// maxBlobBytes bounds it, and with it the memory of a request.
	maxBlobBytes = 64 << 20
	// blobsLookedUp is how many are looked up at once: about as many as one answer
	// holds, so that a caller who pages does not have all the rest looked up each
	// time.
	blobsLookedUp = 8000
	// maxBlobsAsked bounds the ids or names of one request.
	maxBlobsAsked = 100_000
)

// blobsParams are the params of index/readBlobs: oids or files.
type blobsParams struct {
	pathParam
	OIDs     []string `json:"oids,omitempty" doc:"full ids of blobs, at most 100,000; oids or files must be given"`
	Files    []string `json:"files,omitempty" doc:"paths relative to path, in place of oids"`
	Commit   *string  `json:"commit,omitempty" doc:"that files are read from; default HEAD"`
	MaxBytes *int     `json:"max_bytes,omitempty" doc:"content of one answer, 1 to 64 MiB; default 8 MiB"`
}

// blobsResult is the result of index/readBlobs. next_index is the index of the
// first id or name that is left for another request, null when none is.
type blobsResult struct {
	Blobs     []blobEntry `json:"blobs" doc:"in the order asked"`
	NextIndex *int        `json:"next_index" doc:"the first that is left for another request, null when none is"`
}

// blobEntry is a blob with its content, or why it has none.
type blobEntry struct {
	OID      *string   `json:"oid" doc:"null where the commit has no such file"`
	Path     string    `json:"path,omitempty" doc:"as asked"`
	Size     *int64    `json:"size,omitempty" doc:"bytes"`
	Encoding string    `json:"encoding,omitempty" enum:"utf-8,base64"`
	Content  *string   `json:"content,omitempty"`
	Error    *rpcError `json:"error,omitempty" doc:"in place of the content"`
}

// readBlobs answers index/readBlobs.
func (i *inspector) readBlobs(ctx context.Context, p blobsParams) (blobsResult, error) {
	most, err := limitParam("max_bytes", p.MaxBytes, blobBytes, maxBlobBytes)
	if err != nil {
		return blobsResult{}, err
	}
	if err := p.check(); err != nil {
		return blobsResult{}, err
	}
	s, err := i.open(p.pathParam, objectsView)
	if err != nil {
		return blobsResult{}, err
	}
	defer s.remove()
	repo := s.repo

	// The sizes are known before any content is read.
	result := blobsResult{Blobs: []blobEntry{}}
	var wanted []string // ids
	var places []int    // their indexes in blobs
	left := int64(most)
	for begin := 0; begin < p.count() && result.NextIndex == nil; begin += blobsLookedUp {
		objects, err := i.blobsAsked(ctx, s, p.part(begin, blobsLookedUp))
		if err != nil {
			return blobsResult{}, err
		}
		for at, o := range objects {
			n := begin + at
			entry := blobEntry{OID: optionalString(o.oid)}
			if len(p.OIDs) > 0 {
				entry.OID = &p.OIDs[n]
			} else {
				entry.Path = p.Files[n]
			}
			switch {
			case o.oid == "":
				entry.Error = failure(codeSourceNotFound, "no such blob in this repository")
			case o.kind != "blob":
				entry.Error = failure(codeSourceNotFound, "is a %s, not a blob", o.kind)
			case o.size > int64(most):
				entry.Error = failure(codeResultTooLarge, "the blob has %d bytes, over max_bytes (%d)", o.size, most).with("bytes", o.size)
			case o.size > left:
				result.NextIndex = &n
			default:
				left -= o.size
				wanted, places = append(wanted, o.oid), append(places, n)
			}
			if result.NextIndex != nil {
				break
			}
			result.Blobs = append(result.Blobs, entry)
		}
	}
	total := len(wanted)
	err = i.git.readObjects(ctx, s.command(), wanted, int64(most), func(o objectInfo, content string) error {
		if o.oid != wanted[0] || o.size != int64(len(content)) {
			return badOutput("cat-file", []byte(o.oid))
		}
		entry := &result.Blobs[places[0]]
		wanted, places = wanted[1:], places[1:]
		entry.Size = &o.size
		done := total - len(wanted)
		reportProgress(ctx, progress{Phase: "reading", Percent: done * 99 / total, Done: int64(done), Total: int64(total)})
		text, encoding := blobText(content)
		entry.Content, entry.Encoding = &text, encoding
		return nil
	})
	if err == nil && len(wanted) > 0 {
		err = gitFailure(gitCorrupt, "%s: the repository lost an object while it was read", showName(repo.top.abs))
	}
	return result, err
}

// check refuses what is no full object id, or no path inside the repository.
func (p blobsParams) check() error {
	switch {
	case len(p.OIDs) == 0 && len(p.Files) == 0:
		return invalidParam("oids", "give oids or files")
	case len(p.OIDs) > 0 && len(p.Files) > 0:
		return invalidParam("files", "give oids or files, not both")
	case len(p.OIDs) > maxBlobsAsked:
		return invalidParam("oids", "must be at most %d", maxBlobsAsked)
	case len(p.Files) > maxBlobsAsked:
		return invalidParam("files", "must be at most %d", maxBlobsAsked)
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

// checkTreePath refuses what is no path of a file in a tree.
func checkTreePath(name, file string) error {
	switch {
	case file == "":
		return invalidParam(name, "a path must not be empty")
	case strings.IndexByte(file, 0) >= 0:
		return invalidParam(name, "a path must not hold a NUL byte")
	case hasSecretName(file):
		return denied()
	case len(file) > maxPathField:
		return invalidParam(name, "a path must have at most %d bytes", maxPathField)
	case file[0] == '/', file != path.Clean(file), file == ".", file == "..", strings.HasPrefix(file, "../"):
		return invalidParam(name, "%.200q: must be relative to the path and inside it, without . and .. and double slashes", file)
	}
	return nil
}

// count is how many blobs are asked for.
func (p blobsParams) count() int { return max(len(p.OIDs), len(p.Files)) }

// part is the request for at most n of the blobs, from the given one on.
func (p blobsParams) part(from, n int) blobsParams {
	to := min(from+n, p.count())
	if len(p.OIDs) > 0 {
		p.OIDs = p.OIDs[from:to]
	} else {
		p.Files = p.Files[from:to]
	}
	return p
}

// blobsAsked finds what a request names, in its order.
func (i *inspector) blobsAsked(ctx context.Context, s *shadow, p blobsParams) ([]objectInfo, error) {
	if len(p.OIDs) > 0 {
		return i.lookUp(ctx, s, p.OIDs)
	}
	commit, err := i.commitOf(ctx, s, "commit", valueOr(p.Commit, "HEAD"))
	if err != nil {
		return nil, err
	}
	objects := make([]objectInfo, len(p.Files))
	if commit == "" {
		return objects, nil
	}
	var lines, odd []string
	for _, file := range p.Files {
		full := path.Join(s.repo.prefix, file)
		if strings.ContainsAny(full, "\r\n") {
			odd = append(odd, full)
		} else {
			lines = append(lines, commit+":"+full)
		}
	}
	var found []objectInfo
	var oddFound map[string]objectInfo
	if len(lines) > 0 {
		if found, err = i.lookUp(ctx, s, lines); err != nil {
			return nil, err
		}
	}
	if len(odd) > 0 {
		if oddFound, err = i.entriesOf(ctx, s, commit, odd); err != nil {
			return nil, err
		}
	}
	for n, file := range p.Files {
		if full := path.Join(s.repo.prefix, file); strings.ContainsAny(full, "\r\n") {
			objects[n] = oddFound[full]
		} else {
			objects[n], found = found[0], found[1:]
		}
	}
	return objects, nil
}

// blobText is content for JSON: text where it is valid UTF-8 without NUL, else
// base64.
func blobText(data string) (content, encoding string) {
	if utf8.ValidString(data) && strings.IndexByte(data, 0) < 0 {
		return data, "utf-8"
	}
	return base64.StdEncoding.EncodeToString([]byte(data)), "base64"
}

func (r blobsResult) jsonSize() int {
	const most = 160 // bytes of an entry without its content and path
	size := most
	for n := range r.Blobs {
		size += most + len(r.Blobs[n].Path)
		if r.Blobs[n].Content != nil {
			size += len(*r.Blobs[n].Content)
		}
	}
	return size + size/20 // for escapes, as many as source code needs
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
		if encodeJSON(&buf, e.Error) == nil { // a code and texts always are JSON
			to = append(append(to, `,"error":`...), buf.Bytes()...)
		}
	}
	return append(to, '}')
}
