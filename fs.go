package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// maxStatPaths bounds the paths of one fs/stat.
	maxStatPaths = 1000
	// maxPageBytes ends a page of a listing before its JSON could exceed a
	// message of 16 MiB, however long the names are. The caller continues with
	// the cursor.
	maxPageBytes = 8 << 20
	// maxPageEntries is the largest limit that a listing accepts.
	maxPageEntries = 10_000
	// maxGlobEntries is the largest limit of fs/glob. It is higher than
	// maxPageEntries because git lists the whole repository again for every
	// page; most repositories fit in one.
	maxGlobEntries = 25_000
)

// fsService implements the fs/* methods, which read files below the allowed
// directories. It changes nothing.
type fsService struct {
	access  *access
	git     *gitRunner
	log     *slog.Logger
	buffers *bufferPool // of files that are read
	names   keptLists   // of fs/glob
}

func newFSService(access *access, git *gitRunner, log *slog.Logger) *fsService {
	return &fsService{access: access, git: git, log: log, buffers: &bufferPool{}}
}

// methods returns the fs/* rows of the method table.
func (f *fsService) methods() []*method {
	path := []errorCode{codeAccessDenied, codeSourceNotFound, codeNotConfigured}
	return []*method{
		newMethod("fs/repoScan", "Find git repositories below directories.", f.repoScan).fails(path...).walk(),
		newMethod("fs/listDir", "List a directory, page by page.", f.listDir).fails(path...),
		newMethod("fs/stat", "Describe files; symlinks are followed.", f.stat).fails(path...).quickly(f.quickStat),
		newMethod("fs/readFile", "Read a file or part of it.", f.readFile).fails(path...).quickly(f.quickReadFile),
		newMethod("fs/glob", "List the files of a tree that match patterns, page by page.", f.glob).fails(path...).fails(codeGitFailed).walk(),
		newMethod("fs/search", "Search the files of a tree for a string or a regular expression.", f.search).fails(path...).fails(codeGitFailed).walk(),
	}
}

// openDir opens the directory that a path from the wire names, and describes
// it; the caller closes it.
func (f *fsService) openDir(ctx context.Context, p pathParam) (at resolvedPath, dir *dirHandle, self entryInfo, err error) {
	if at, err = f.access.resolve(p); err != nil {
		return at, nil, self, err
	}
	if dir, err = f.access.openDir(at); err != nil {
		return at, nil, self, err
	}
	if self, err = dir.info(); err != nil {
		err = f.access.wireError(err, at.abs)
	} else {
		err = opened(ctx)
	}
	if err != nil {
		dir.close()
		return at, nil, self, err
	}
	return at, dir, self, nil
}

type statParams struct {
	pathParam
	Paths []string `json:"paths,omitempty" doc:"paths to describe instead of path, at most 1,000"`
}

type statResult struct {
	Entries []statEntry `json:"entries" doc:"in the order of the request"`
}

// statEntry describes one path. For a path that does not exist only path and
// exists are set.
type statEntry struct {
	Path       string `json:"path" doc:"absolute path, symlinks resolved"`
	PathBase64 string `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Exists     bool   `json:"exists" doc:"false if there is no such file; then only path is set"`
	Type       string `json:"type,omitempty" enum:"file,dir,other" doc:"type of the file after symlinks are followed"`
	Size       *int64 `json:"size,omitempty" doc:"size in bytes"`
	Mode       string `json:"mode,omitempty" doc:"permission bits in octal, such as 0644"`
	Mtime      string `json:"mtime,omitempty" doc:"modification time, RFC 3339 in UTC"`

	Error *rpcError `json:"error,omitempty" doc:"why this one of several paths cannot be described, such as a loop of symlinks; then exists is false and only path is set"`
}

// stat implements fs/stat.
func (f *fsService) stat(ctx context.Context, p statParams) (*statResult, error) {
	single := p.Path != "" || p.PathBase64 != ""
	switch {
	case single && p.Paths != nil:
		return nil, invalidParam("paths", "give either path or paths, not both")
	case len(p.Paths) > maxStatPaths:
		return nil, invalidParam("paths", "has %d paths, at most %d are allowed", len(p.Paths), maxStatPaths)
	case p.Paths == nil:
		entry, err := f.statOne(p.pathParam, "path")
		if err != nil {
			return nil, err
		}
		return &statResult{Entries: []statEntry{entry}}, nil
	}
	result := &statResult{Entries: []statEntry{}}
	for i, path := range p.Paths {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := readIn(ctx, f.access.rootOf(path)); err != nil {
			return nil, err
		}
		name := fmt.Sprintf("paths[%d]", i)
		entry, err := f.statOne(pathParam{Path: path}, name)
		if err != nil {
			// The others are described; a path that is not allowed fails the
			// request.
			if entry.Path == "" || isDenied(err) || ctx.Err() != nil {
				return nil, err
			}
			entry.Error = asRPCError(renameParam(err, name))
		}
		beat(ctx)
		result.Entries = append(result.Entries, entry)
	}
	return result, nil
}

// quickStat is the quick version of stat for one plain path.
func (f *fsService) quickStat(to []byte, params json.RawMessage) ([]byte, bool) {
	path, ok := onlyPath(params)
	if !ok {
		return to, false
	}
	info, ok := f.access.quickStat(path)
	if !ok {
		return to, false
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(f.access.workDir, path)
	}
	to = appendJSONString(append(to, `{"entries":[{"path":`...), path)
	to = append(append(to, `,"exists":true,"type":"`...), fileType(info.mode)...)
	to = strconv.AppendInt(append(to, `","size":`...), info.size, 10)
	to = append(append(to, `,"mode":"`...), permMode(info.mode)...)
	to = appendWireTime(append(to, `","mtime":"`...), info.mtime)
	return append(to, `"}]}`...), true
}

// onlyPath returns the path of params that hold nothing else, as most do. The
// params are valid JSON. ok is false for all others, and for a path with escapes.
func onlyPath(params json.RawMessage) (path string, ok bool) {
	rest, ok := bytes.CutPrefix(params, []byte(`{"path":`))
	rest = bytes.TrimLeft(rest, " ")
	if !ok || len(rest) < 2 || rest[0] != '"' {
		return "", false
	}
	end := bytes.IndexAny(rest[1:], `"\\`) + 1
	if rest[end] != '"' || string(rest[end+1:]) != "}" {
		return "", false
	}
	return string(rest[1:end]), true
}

func (f *fsService) statOne(p pathParam, name string) (statEntry, error) {
	path, err := p.text(name)
	if err != nil {
		return statEntry{}, err
	}
	if r, rel, ok := f.access.quickPath(path); ok {
		if info, err := f.access.describePlain(r, rel); err == nil {
			return newStatEntry(filepath.Join(r.real, rel), info), nil
		}
	}
	at, err := f.access.resolvePath(path)
	if isMissing(err) {
		// A parent in the path is a regular file, so there is nothing to
		// resolve.
		return statEntry{Path: showName(path), PathBase64: nameBase64(path)}, nil
	}
	if err != nil {
		return statEntry{Path: showName(path), PathBase64: nameBase64(path)}, err
	}
	entry := statEntry{Path: showName(at.abs), PathBase64: nameBase64(at.abs)}
	info, err := f.access.stat(at)
	if isMissing(err) {
		return entry, nil
	}
	if err != nil {
		return entry, err
	}
	entry.Exists, entry.Type, entry.Size = true, fileType(info.Mode()), new(fileSize(info))
	entry.Mode, entry.Mtime = permMode(info.Mode()), wireTime(info.ModTime())
	return entry, nil
}

// newStatEntry describes an existing file.
func newStatEntry(abs string, info entryInfo) statEntry {
	return statEntry{
		Path: showName(abs), PathBase64: nameBase64(abs), Exists: true, Type: fileType(info.mode), Size: new(info.size),
		Mode: permMode(info.mode), Mtime: wireTime(info.mtime),
	}
}

// isDenied reports whether err is the error for a path that is not allowed.
func isDenied(err error) bool {
	e, ok := errors.AsType[*rpcError](err)
	return ok && (e.Message == denied().Message || e.name() == codeNotConfigured)
}

// isMissing reports whether err is the error for an allowed path that does not
// exist.
func isMissing(err error) bool {
	e, ok := errors.AsType[*rpcError](err)
	return ok && e.name() == codeSourceNotFound
}

// fileType returns the wire's name for a kind of file.
func fileType(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "file"
	case mode.IsDir():
		return "dir"
	case mode&fs.ModeSymlink != 0:
		return "symlink"
	}
	return "other"
}

// permMode formats the permission bits as four octal digits, as chmod(1) takes
// them.
func permMode(mode fs.FileMode) string {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return string([]byte{'0' + byte(bits>>9), '0' + byte(bits>>6&7), '0' + byte(bits>>3&7), '0' + byte(bits&7)})
}

// wireTime formats t as RFC 3339 in UTC with nanoseconds. Files and commits can
// have times outside the years 0 to 9999 of RFC 3339: the first or the last
// second of those years stands for them.
func wireTime(t time.Time) string {
	return string(appendWireTime(make([]byte, 0, len(time.RFC3339Nano)), t))
}

// appendWireTime appends what wireTime returns.
func appendWireTime(to []byte, t time.Time) []byte {
	const firstSecond, lastSecond = -62167219200, 253402300799 // of the years 0 and 9999, since 1970
	switch seconds := t.Unix(); {
	case seconds < firstSecond:
		return append(to, "0000-01-01T00:00:00Z"...)
	case seconds > lastSecond:
		return append(to, "9999-12-31T23:59:59Z"...)
	}
	return t.UTC().AppendFormat(to, time.RFC3339Nano)
}

// jsonSize returns an upper bound for the size of s as a JSON string: an
// encoder may write six bytes for a control character, for <, > and &, and for
// U+2028 and U+2029.
func jsonSize(s string) int {
	size := len(s) + 2
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20, c == '<', c == '>', c == '&', c == 0x7f:
			size += 5
		case c == '"', c == '\\':
			size++
		case c == 0xe2:
			size += 3 // possibly the first byte of U+2028
		}
	}
	return size
}
