package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
)

// defaultListLimit is what fs/listDir returns where limit is absent.
const defaultListLimit = 1000

type listDirParams struct {
	pathParam
	Limit  *int    `json:"limit,omitempty" doc:"entries of a page, 1 to 10,000; default 1,000"`
	Cursor *string `json:"cursor,omitempty" doc:"next_cursor of the page before"`
}

type listDirResult struct {
	Path       string     `json:"path" doc:"absolute, links resolved"`
	PathBase64 string     `json:"path_base64,omitempty" doc:"the path in base64, where it is not UTF-8"`
	Entries    []dirEntry `json:"entries" doc:"by the bytes of their names"`
	NextCursor *string    `json:"next_cursor" doc:"null at the end"`
}

// dirEntry describes a directory's entry, a link itself and not what it points
// to.
type dirEntry struct {
	Name         string `json:"name"`
	NameBase64   string `json:"name_base64,omitempty" doc:"the name in base64, where it is not UTF-8"`
	Type         string `json:"type" enum:"file,dir,symlink,other" doc:"of a link itself, not of what it points to"`
	Size         int64  `json:"size" doc:"bytes"`
	Mode         string `json:"mode" doc:"permissions, such as 0644"`
	Mtime        string `json:"mtime" doc:"RFC 3339, UTC"`
	Target       string `json:"target,omitempty" doc:"of a link that stays inside the allowed directories"`
	TargetBase64 string `json:"target_base64,omitempty" doc:"the target in base64, where it is not UTF-8"`
}

// jsonSize is what the entry takes at most in a result.
func (e *dirEntry) jsonSize() int {
	const rest = 160 // keys, punctuation, figures and the time
	return rest + jsonSize(e.Name) + len(e.NameBase64) + jsonSize(e.Target) + len(e.TargetBase64)
}

// fs/listDir
func (f *fsService) listDir(ctx context.Context, p listDirParams) (*listDirResult, error) {
	limit, err := limitParam("limit", p.Limit, defaultListLimit, maxPageEntries)
	if err != nil {
		return nil, err
	}
	at, dir, err := f.openDir(p.pathParam)
	if err != nil {
		return nil, err
	}
	defer dir.close()
	// Taken before the names are read: a change meanwhile makes the cursor stale.
	self, err := dir.info()
	if err != nil {
		return nil, f.access.wireError(err, at.abs)
	}
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
		info, err := dir.lstat(n.name)
		gone := errors.Is(err, fs.ErrNotExist) // since its name was read
		switch {
		case gone, err == nil && info.mode.IsRegular() && slices.Contains(secrets, info.id):
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

// linkTarget is the text of a link whose target, there or not, lies inside the
// allowed directories; nothing else is told of what is outside.
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

// walkError is the answer for an error met while reading directories: the
// context's own, the caller's, or the file system's.
func (f *fsService) walkError(ctx context.Context, err error, path string) error {
	if _, ok := errors.AsType[*rpcError](err); ok || ctx.Err() != nil {
		return err
	}
	return f.access.wireError(err, path)
}
