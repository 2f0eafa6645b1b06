package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"
)

const (
	// maxStatPaths bounds the paths of one fs/stat.
	maxStatPaths = 1000
	// maxPageBytes ends a page of a listing before its JSON could outgrow a
	// message of 16 MiB, whatever the names are: the cursor goes on from there.
	maxPageBytes = 8 << 20
	// maxPageEntries is the most that limit may ask of a listing.
	maxPageEntries = 10_000
	// maxGlobEntries is the same for fs/glob, where git lists a repository anew
	// for each page: most fit in one.
	maxGlobEntries = 25_000
)

// fsService answers fs/*: what lies in the allowed directories. It changes nothing.
type fsService struct {
	access *access
	git    *gitRunner
	log    *slog.Logger
}

func newFSService(access *access, git *gitRunner, log *slog.Logger) *fsService {
	return &fsService{access: access, git: git, log: log}
}

// methods is the table of fs/*.
func (f *fsService) methods() []*method {
	path := []errorCode{codeAccessDenied, codeSourceNotFound, codeNotConfigured}
	return []*method{
		newMethod("fs/repoScan", "Find git repositories.", f.repoScan).fails(path...),
		newMethod("fs/listDir", "List a directory, page by page.", f.listDir).fails(path...),
		newMethod("fs/stat", "Describe files, following links.", f.stat).fails(path...),
		newMethod("fs/readFile", "Read a file or a part of it.", f.readFile).fails(path...),
		newMethod("fs/glob", "List the files of a tree that match patterns, page by page.", f.glob).fails(path...).fails(codeGitFailed),
		newMethod("fs/search", "Search the files of a tree for a text or a regular expression.", f.search).fails(path...).fails(codeGitFailed),
	}
}

// openDir opens the directory of a path from the wire; the caller closes it.
func (f *fsService) openDir(p pathParam) (resolvedPath, *dirHandle, error) {
	at, err := f.access.resolve(p)
	if err != nil {
		return resolvedPath{}, nil, err
	}
	dir, err := f.access.openDir(at)
	return at, dir, err
}

type statParams struct {
	pathParam
	Paths []string `json:"paths,omitempty" doc:"in place of path: at most 1,000"`
}

type statResult struct {
	Entries []statEntry `json:"entries" doc:"in the order asked"`
}

// statEntry describes one path. Only path and exists are there for what does
// not exist.
type statEntry struct {
	Path       string `json:"path" doc:"absolute, links resolved"`
	PathBase64 string `json:"path_base64,omitempty" doc:"the path in base64, where it is not UTF-8"`
	Exists     bool   `json:"exists" doc:"when false, only path is there beside it"`
	Type       string `json:"type,omitempty" enum:"file,dir,other" doc:"of what the path leads to"`
	Size       *int64 `json:"size,omitempty" doc:"bytes"`
	Mode       string `json:"mode,omitempty" doc:"permissions, such as 0644"`
	Mtime      string `json:"mtime,omitempty" doc:"RFC 3339, UTC"`
}

// fs/stat
func (f *fsService) stat(ctx context.Context, p statParams) (*statResult, error) {
	single := p.Path != "" || p.PathBase64 != ""
	switch {
	case single && p.Paths != nil:
		return nil, invalidParam("paths", "give path or paths, not both")
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
		entry, err := f.statOne(pathParam{Path: path}, fmt.Sprintf("paths[%d]", i))
		if err != nil {
			return nil, err
		}
		result.Entries = append(result.Entries, entry)
	}
	return result, nil
}

func (f *fsService) statOne(p pathParam, name string) (statEntry, error) {
	path, err := p.text(name)
	if err != nil {
		return statEntry{}, err
	}
	at, err := f.access.resolvePath(path)
	if isMissing(err) {
		// A file where the path needs a directory: there is nothing to resolve.
		return statEntry{Path: showName(path), PathBase64: nameBase64(path)}, nil
	}
	if err != nil {
		return statEntry{}, err
	}
	entry := statEntry{Path: showName(at.abs), PathBase64: nameBase64(at.abs)}
	info, err := f.access.stat(at)
	if isMissing(err) {
		return entry, nil
	}
	if err != nil {
		return statEntry{}, err
	}
	entry.Exists, entry.Type, entry.Size = true, fileType(info.Mode()), new(info.Size())
	entry.Mode, entry.Mtime = permMode(info.Mode()), wireTime(info.ModTime())
	return entry, nil
}

// isMissing tells the answer for an allowed path that is not there.
func isMissing(err error) bool {
	e, ok := errors.AsType[*rpcError](err)
	return ok && e.name() == codeSourceNotFound
}

// fileType is the wire's word for a kind of file.
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

// permMode is the permission bits as four octal digits, as chmod(1) takes
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
	return fmt.Sprintf("%04o", bits)
}

// wireTime is t in RFC 3339, UTC, as exact as it is known. A time.Time in a
// result would fail for a year over 9999, which a file can have.
func wireTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// jsonSize is what s takes at most as a JSON string: an encoder may write six
// bytes for a control character, for <, > and & and for U+2028 and U+2029.
func jsonSize(s string) int {
	size := len(s) + 2
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20, c == '<', c == '>', c == '&', c == 0x7f:
			size += 5
		case c == '"', c == '\\':
			size++
		case c == 0xe2:
			size += 3 // may begin U+2028
		}
	}
	return size
}
