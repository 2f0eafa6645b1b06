package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// rulesCheckAfter is how long git may run before it is checked whether a named
// pipe in place of a .gitignore holds it up: most runs are over by then.
const rulesCheckAfter = 250 * time.Millisecond

// specialRules is the error for a file with rules, such as .gitignore, that is a
// named pipe, a socket or a device. Git opens it and waits for as long as it
// likes, so it must not run there.
type specialRules struct{ path string }

func (e *specialRules) Error() string {
	return showName(e.path) + ": is not a regular file, and git would wait for it"
}

// isRulesName reports whether git reads rules from files of this name in a work
// tree.
func isRulesName(name string) bool {
	return slices.Contains([]string{".gitignore", ".gitattributes", ".gitmodules", ".mailmap"}, name)
}

// checkRules returns a *specialRules error if git, listing the directory at of a
// work tree, meets a file of rules that is not a regular one. It opens no such
// file.
func (a *access) checkRules(ctx context.Context, top, at resolvedPath) error {
	for dir, ok := at, true; ok && dir.abs != top.abs; {
		if dir, ok = parentOf(a, dir); ok {
			if err := a.checkRulesIn(ctx, dir, false); err != nil {
				return err
			}
		}
	}
	return a.checkRulesIn(ctx, at, true)
}

func (a *access) checkRulesIn(ctx context.Context, at resolvedPath, deep bool) error {
	dir, err := a.openDir(at)
	if err != nil {
		return nil // nor can git open it
	}
	defer dir.close()
	self, err := dir.info()
	if err != nil {
		return nil
	}
	err = checkRulesBelow(ctx, dir, self, at.abs, deep, 0)
	if e, ok := errors.AsType[*specialRules](err); ok {
		return e
	}
	return nil // git says what is wrong
}

func checkRulesBelow(ctx context.Context, d *dirHandle, self entryInfo, abs string, deep bool, depth int) error {
	for after := ""; ; {
		names, more, err := d.namesAfter(ctx, after, chunkSize(depth), func(name string, typ fs.FileMode) (dirEntryName, bool) {
			rules := isRulesName(name)
			if rules || deep && name != ".git" {
				typ = d.typeOf(name, typ)
			}
			return dirEntryName{key: name, name: name, typ: typ}, rules && !typ.IsRegular() && typ != fs.ModeIrregular || deep && typ.IsDir() && name != ".git"
		})
		if err != nil {
			return err
		}
		for _, n := range names {
			after = n.key
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case !n.typ.IsDir() && n.typ&fs.ModeSymlink == 0: // git does not follow symlinks here
				return &specialRules{path: filepath.Join(abs, n.name)}
			case n.typ.IsDir() && deep && depth < maxPathDepth:
				sub, info, err := d.child(n.name, self)
				if err != nil || sub == nil {
					continue
				}
				err = checkRulesBelow(ctx, sub, info, filepath.Join(abs, n.name), true, depth+1)
				sub.close()
				if err != nil {
					return err
				}
			}
		}
		if !more {
			return nil
		}
	}
}
