package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
)

// defaultListLimit is the page size of fs/listDir without limit.
const defaultListLimit = 1000

type listDirParams struct {
	pathParam
	Limit  *int    `json:"limit,omitempty" doc:"entries per page, 1 to 10,000; default 1,000"`
	Cursor *string `json:"cursor,omitempty" doc:"next_cursor of the previous page"`
}

type listDirResult struct {
	Path       string     `json:"path" doc:"absolute path, symlinks resolved"`
	PathBase64 string     `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Entries    []dirEntry `json:"entries" doc:"sorted by name, bytewise"`
	NextCursor *string    `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
}

// dirEntry describes a directory entry: a symlink itself, not its target.
type dirEntry struct {
	Name         string `json:"name"`
	NameBase64   string `json:"name_base64,omitempty" doc:"base64 of the name; only if it is not valid UTF-8"`
	Type         string `json:"type" enum:"file,dir,symlink,other" doc:"type of the entry; symlinks are not followed"`
	Size         int64  `json:"size" doc:"size in bytes"`
	Mode         string `json:"mode" doc:"permission bits in octal, such as 0644"`
	Mtime        string `json:"mtime" doc:"modification time, RFC 3339 in UTC"`
	Target       string `json:"target,omitempty" doc:"target of a symlink, only if it lies inside the allowed directories"`
	TargetBase64 string `json:"target_base64,omitempty" doc:"base64 of the target; only if it is not valid UTF-8"`
}

// jsonSize returns an upper bound for the size of the entry as JSON.
func (e *dirEntry) jsonSize() int {
	const rest = 160 // keys, punctuation, numbers and the time
	return rest + jsonSize(e.Name) + len(e.NameBase64) + jsonSize(e.Target) + len(e.TargetBase64)
}

// listDir implements fs/listDir.
func (f *fsService) listDir(ctx context.Context, p listDirParams) (*listDirResult, error) {
	limit, err := limitParam("limit", p.Limit, defaultListLimit, maxPageEntries)
	if err != nil {
		return nil, err
	}
	// openDir describes the directory before its names are read: a change in
	// between makes the cursor stale.
	at, dir, self, err := f.openDir(ctx, p.pathParam)
	if err != nil {
		return nil, err
	}
	defer dir.close()
	cursor, err := startCursor(p.Cursor, fingerprint("fs/listDir"), directoryState(at.abs, self))
	if err != nil {
		return nil, err
	}
	names, more, err := dir.namesAfter(ctx, string(cursor.After), limit, func(name string, typ fs.FileMode) (dirEntryName, bool) {
		return dirEntryName{key: name, name: name, typ: typ}, !hasSecretName(name)
	})
	if err != nil {
		return nil, f.walkError(ctx, err, at.abs)
	}

	result := &listDirResult{Path: showName(at.abs), PathBase64: nameBase64(at.abs), Entries: []dirEntry{}}
	secrets := f.access.secretIDs()
	size := 0
	for _, n := range names {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		beat(ctx)
		info, err := dir.lstat(n.name)
		gone := errors.Is(err, fs.ErrNotExist) // removed since its name was read
		switch {
		case gone, err == nil && f.access.hides(filepath.Join(at.abs, n.name), info.id, secrets):
			cursor.After = []byte(n.name)
			continue
		case err != nil:
			return nil, f.access.wireError(err, filepath.Join(at.abs, n.name))
		}
		entry := dirEntry{
			Name: showName(n.name), NameBase64: nameBase64(n.name),
			Type: fileType(info.mode), Size: info.size, Mode: permMode(info.mode), Mtime: wireTime(info.mtime),
		}
		if info.mode&fs.ModeSymlink != 0 {
			entry.Target, entry.TargetBase64 = f.linkTarget(dir, at, n.name)
		}
		if size += entry.jsonSize(); size > maxPageBytes && len(result.Entries) > 0 {
			more = true
			break
		}
		result.Entries = append(result.Entries, entry)
		cursor.After = []byte(n.name)
	}
	if more {
		result.NextCursor = cursor.text()
	}
	return result, nil
}

// linkTarget returns the text of a symlink if its target, existing or not, lies
// inside the allowed directories, and otherwise "": the text would reveal names
// outside.
func (f *fsService) linkTarget(dir *dirHandle, at resolvedPath, name string) (target, exact string) {
	text, err := dir.readlink(name)
	if err != nil {
		return "", ""
	}
	if _, err := f.access.within(filepath.Join(at.abs, name)); err != nil {
		return "", ""
	}
	return showName(text), nameBase64(text)
}

// walkError returns the caller's error for a failed read of a directory: the
// context's error and an rpcError unchanged, a file system error as its wire
// error.
func (f *fsService) walkError(ctx context.Context, err error, path string) error {
	if _, ok := errors.AsType[*rpcError](err); ok || ctx.Err() != nil {
		return err
	}
	return f.access.wireError(err, path)
}
