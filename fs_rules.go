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

// specialRules is the error for a file with rules, such as .gitignore, or a file of
// a nested repository that is a named pipe, a socket or a device. Git opens it and waits for as long as it
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
// work tree, meets a file of rules, or of a nested repository, that is not a
// regular one. It opens no such
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
	err = a.checkRulesBelow(ctx, dir, self, at.abs, deep, 0)
	if e, ok := errors.AsType[*specialRules](err); ok {
		return e
	}
	return nil // git says what is wrong
}

func (a *access) checkRulesBelow(ctx context.Context, d *dirHandle, self entryInfo, abs string, deep bool, depth int) error {
	for after := ""; ; {
		names, more, err := d.namesAfter(ctx, after, chunkSize(depth), func(name string, typ fs.FileMode) (dirEntryName, bool) {
			rules := isRulesName(name)
			if rules || deep && name != ".git" {
				typ = d.typeOf(name, typ)
			}
			nested := name == ".git" && depth > 0
			return dirEntryName{key: name, name: name, typ: typ}, nested || rules && !typ.IsRegular() && typ != fs.ModeIrregular || deep && typ.IsDir() && name != ".git"
		})
		if err != nil {
			return err
		}
		for _, n := range names {
			after = n.key
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case n.name == ".git":
				if !a.nestedCanBeRead(abs) {
					return &specialRules{path: filepath.Join(abs, n.name)}
				}
			case !n.typ.IsDir() && n.typ&fs.ModeSymlink == 0: // git does not follow symlinks here
				return &specialRules{path: filepath.Join(abs, n.name)}
			case n.typ.IsDir() && deep && depth < maxPathDepth:
				sub, info, err := d.child(n.name, self)
				if err != nil || sub == nil {
					continue
				}
				err = a.checkRulesBelow(ctx, sub, info, filepath.Join(abs, n.name), true, depth+1)
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

// nestedCanBeRead reports whether git can read the references of a repository
// inside a work tree without waiting: it reads them to find out whether the repository
// has a commit, and which one.
func (a *access) nestedCanBeRead(dir string) bool {
	at, err := a.within(dir)
	if err != nil {
		return true // a secret, which git only sees
	}
	r, err := repositoryAt(a, at)
	if err != nil || r == nil {
		e, ok := errors.AsType[*rpcError](err)
		isPipe := ok && e.Data["reason"] == gitCorrupt
		return !isPipe // otherwise git sees no repository there either, or cannot reach it
	}
	return r.checkGitDir() == nil
}
