package main

import (
	"bufio"
	"bytes"
	"context"
	"strings"
)

// treesOf resolves revisions to their commits and to the trees at the caller's
// path. The tree is empty for a commit that has no such directory, and for a
// repository without commits.
func (g *gitReader) treesOf(ctx context.Context, v *gitView, revs ...namedRevision) (commits, trees []string, err error) {
	commits, at, err := g.resolve(ctx, v, revs...)
	if err != nil {
		return nil, nil, err
	}
	trees = make([]string, len(commits))
	for n, commit := range commits {
		if commit != "" && at[n].kind == "" {
			if at[n], err = g.unresolved(ctx, v, commit); err != nil {
				return nil, nil, err
			}
		}
		if trees[n], err = v.treeIn(at[n]); err != nil {
			return nil, nil, err
		}
	}
	return commits, trees, nil
}

// unresolved returns the object at the caller's path in a commit, where
// cat-file found none or could not be asked. It is empty if the commit has no
// such path, and the error is GIT_FAILED if the object is missing.
func (g *gitReader) unresolved(ctx context.Context, v *gitView, commit string) (objectInfo, error) {
	prefix := v.repo.prefix
	missing := gitFailure(gitCorrupt, "%s: the directory %q of commit %s is missing from the repository's objects", showName(v.repo.top.abs), prefix, commit)
	if prefix == "" {
		return objectInfo{}, missing
	}
	entries, err := g.entriesOf(ctx, v, commit, []string{prefix})
	if err == nil && entries[prefix].kind == "tree" && !strings.ContainsAny(prefix, "\r\n") {
		err = missing
	}
	return entries[prefix], err
}

func (v *gitView) treeIn(o objectInfo) (string, error) {
	switch o.kind {
	case "tree":
		return o.oid, nil
	case "":
		return v.emptyTree(), nil
	}
	return "", invalidParam("path", "is a file: give a directory of the repository")
}

// emptyTree returns the id of the empty tree, which git knows without a stored
// object.
func (v *gitView) emptyTree() string {
	if v.repo.sha256 {
		return "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
	}
	return "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
}

// maxArguments bounds the paths on one command line: Linux allows 128 KiB for
// one argument, Windows 32 KiB for all.
const maxArguments = 24 << 10

// entriesOf finds paths in a tree or in the tree of a commit, with a git process
// for every maxArguments bytes of them. It is for names with a line break, which
// cannot be passed on standard input, and for objects that are missing. A
// submodule is not found.
func (g *gitReader) entriesOf(ctx context.Context, v *gitView, tree string, paths []string) (map[string]objectInfo, error) {
	entries := map[string]objectInfo{}
	for len(paths) > 0 {
		n, length := 0, 0
		for n < len(paths) && (n == 0 || length+len(paths[n]) < maxArguments) {
			length += len(paths[n]) + 1
			n++
		}
		args := append([]string{"ls-tree", "-z", "-l", "--full-tree", "--end-of-options", tree, "--"}, paths[:n]...)
		err := g.git.stream(ctx, v.command(args...), func(r *bufio.Reader) error {
			return readRecords(r, func(record []byte) error {
				e, err := parseTreeEntry(record)
				if err == nil && e.mode != modeSubmodule {
					entries[string(e.path)] = objectInfo{oid: string(e.oid), kind: string(e.kind), size: max(e.size, 0)}
				}
				return err
			})
		})
		if err != nil {
			return nil, err
		}
		paths = paths[n:]
	}
	return entries, nil
}

// modeSubmodule is the mode of a submodule in a tree: a commit of another
// repository.
const modeSubmodule = "160000"

// treeEntry is one record of git ls-tree -l. Its slices are valid as long as
// the record is.
type treeEntry struct {
	mode string
	kind []byte
	oid  []byte
	size int64 // -1 for a tree or a submodule, which have none, and for a missing blob
	path []byte
}

// parseTreeEntry parses "mode type id size<TAB>path" (git-ls-tree(1), OUTPUT
// FORMAT). The size is as -l prints it, or absent. For a blob that is missing or
// unreadable, git prints BAD in its place.
func parseTreeEntry(record []byte) (treeEntry, error) {
	head, path, ok := bytes.Cut(record, []byte{'\t'})
	mode, rest, ok1 := bytes.Cut(head, []byte{' '})
	kind, rest, ok2 := bytes.Cut(rest, []byte{' '})
	oid, rest, _ := bytes.Cut(rest, []byte{' '})
	e := treeEntry{mode: modeText(mode), kind: kind, oid: oid, size: -1, path: path}
	if !ok || !ok1 || !ok2 || e.mode == "" || len(oid) != 40 && len(oid) != 64 || len(path) == 0 {
		return treeEntry{}, badOutput("ls-tree", record)
	}
	digits := bytes.TrimLeft(rest, " ")
	if len(digits) == 0 || string(digits) == "-" || string(digits) == "BAD" {
		return e, nil
	}
	e.size = 0
	for _, c := range digits {
		if c < '0' || c > '9' || e.size > (1<<62)/10 {
			return treeEntry{}, badOutput("ls-tree", record)
		}
		e.size = e.size*10 + int64(c-'0')
	}
	return e, nil
}

// modeText returns mode as a string, without an allocation for git's own modes,
// or "" if it is not six octal digits.
func modeText(mode []byte) string {
	for _, known := range treeModes() {
		if string(mode) == known {
			return known
		}
	}
	if len(mode) != 6 {
		return ""
	}
	for _, c := range mode {
		if c < '0' || c > '7' {
			return ""
		}
	}
	return string(mode)
}

// treeModes returns the modes that git writes into trees.
func treeModes() [5]string {
	return [5]string{"100644", "100755", "120000", modeSubmodule, "040000"}
}
