package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

const (
	// maxPackedRefs bounds packed-refs and shallow: about two million
	// references.
	maxPackedRefs = 128 << 20
	// maxLooseRefs bounds the number of files below refs.
	maxLooseRefs = 200_000
	// maxRefDepth bounds the depth of directories below refs.
	maxRefDepth = 64
	// maxRelists bounds the listings of a directory that never stops changing.
	maxRelists = 3
)

// gitRef is a reference that names an object. peeled is the object that an annotated
// tag leads to, notTag for another reference, or "" when it is not known.
type gitRef struct{ name, oid, peeled string }

const notTag = "-"

// readRefs reads the files below refs, and then packed-refs, which they
// override. In this order, as in git's own files backend, a reference that git
// pack-refs moves meanwhile has its newest value: it writes packed-refs before
// it deletes the files. A linked work tree has private references of its own.
func (r *repository) readRefs() error {
	r.symrefs = map[string]string{}
	loose := map[string]string{}
	all := func(string) bool { return true }
	if r.gitDir.abs == r.common.abs {
		if err := r.readLoose(r.common, all, loose); err != nil {
			return err
		}
	} else {
		shared := func(name string) bool { return !isPrivateRef(name) }
		if err := r.readLoose(r.common, shared, loose); err != nil {
			return err
		}
		if err := r.readLoose(r.gitDir, isPrivateRef, loose); err != nil && !isMissing(err) {
			return err
		}
	}
	packed, err := r.optional(r.common, "packed-refs", maxPackedRefs)
	if err != nil {
		return err
	}
	refs := parsePackedRefs(string(packed))
	r.refs = refs[:0]
	for _, ref := range refs {
		_, over := loose[ref.name]
		if _, symbolic := r.symrefs[ref.name]; !over && !symbolic {
			r.refs = append(r.refs, ref)
		}
	}
	for name, oid := range loose {
		r.refs = append(r.refs, gitRef{name: name, oid: oid})
	}
	sorted := true
	for n := 1; n < len(r.refs); n++ {
		sorted = sorted && r.refs[n-1].name < r.refs[n].name
	}
	if sorted {
		return nil
	}
	sortStableBy(r.refs, func(a, b gitRef) int { return strings.Compare(a.name, b.name) })
	refs, r.refs = r.refs, r.refs[:0]
	for n, ref := range refs {
		if n == 0 || ref.name != refs[n-1].name { // the first of each name counts
			r.refs = append(r.refs, ref)
		}
	}
	return nil
}

// isPrivateRef reports whether each work tree has its own reference of that name
// (git-worktree(1), REFS).
func isPrivateRef(name string) bool {
	return strings.HasPrefix(name, "refs/bisect/") || strings.HasPrefix(name, "refs/worktree/") || strings.HasPrefix(name, "refs/rewritten/")
}

// readLoose reads the files below refs in a git directory. It adds those with a
// wanted name to direct or to r.symrefs.
func (r *repository) readLoose(gitDir resolvedPath, wanted func(name string) bool, direct map[string]string) error {
	r.look(filepath.Join(gitDir.abs, "refs"), false)
	refs, err := r.access.within(filepath.Join(gitDir.abs, "refs"))
	if err != nil {
		return err
	}
	dir, err := refs.root.dir.OpenRoot(refs.rel)
	if err != nil {
		return r.access.wireError(err, refs.abs)
	}
	defer dir.Close()
	loose := looseRefs{root: dir, wanted: wanted, direct: direct, symbolic: r.symrefs, look: func(rel string) {
		r.look(filepath.Join(refs.abs, filepath.FromSlash(rel)), false)
	}}
	if err := loose.read(".", maxRefDepth); err != nil {
		return r.access.wireError(err, refs.abs)
	}
	return nil
}

// looseRefs reads the files below one refs directory.
type looseRefs struct {
	root             *os.Root // refs
	wanted           func(name string) bool
	direct, symbolic map[string]string
	look             func(rel string) // is called with each path before it is read
}

// read reads the files below dir, which is relative to root and separated by
// slashes.
func (l *looseRefs) read(dir string, depth int) error {
	if depth == 0 || len(l.direct)+len(l.symbolic) > maxLooseRefs {
		return gitFailure(gitTooLarge, "the repository has more than %d loose references: pack them with git pack-refs --all", maxLooseRefs)
	}
	entries, err := readChangingDir(l.root, filepath.FromSlash(dir))
	if errors.Is(err, fs.ErrNotExist) && dir != "." {
		return nil // git deletes a directory with its last reference
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		rel := path.Join(dir, e.name)
		name := "refs/" + rel
		switch {
		case e.typ.IsDir():
			l.look(rel)
			if err := l.read(rel, depth-1); err != nil {
				return err
			}
		case !isRefName(name) || !l.wanted(name):
		case e.typ&fs.ModeSymlink != 0:
			l.look(rel)
			l.readSymlink(name, rel)
		case e.typ.IsRegular():
			l.look(rel)
			text, err := readRefFile(l.root, rel)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since it was listed
			}
			if err != nil {
				return err
			}
			l.add(name, text)
		}
	}
	return nil
}

func (l *looseRefs) add(name, text string) {
	if oid, target := parseRefFile(text); oid != "" {
		l.direct[name] = oid
	} else if target != "" {
		l.symbolic[name] = target
	}
}

// readSymlink reads a reference that is a symlink. If its text is the name of a
// reference, it is a symbolic reference (gitrepository-layout(5), HEAD).
// Otherwise git reads the file that it leads to; here that file must lie below
// refs, because a hostile link could name any file of the machine.
func (l *looseRefs) readSymlink(name, rel string) {
	text, err := l.root.Readlink(filepath.FromSlash(rel))
	if err != nil {
		return
	}
	if target := filepath.ToSlash(text); isRefName(target) {
		l.symbolic[name] = target
	} else if text, err := readRefFile(l.root, rel); err == nil {
		l.add(name, text)
	}
}

// readChangingDir lists a directory until a listing has no new name, at most
// maxRelists more times, and returns the entries of all listings. A file that is
// renamed over another one while its directory is listed can be absent from the
// list, although the name exists all the time (readdir(3)).
func readChangingDir(root *os.Root, rel string) ([]dirEntryName, error) {
	entries, err := readDir(root, rel)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, e := range entries {
		known[e.name] = true
	}
	for range maxRelists {
		again, err := readDir(root, rel)
		if err != nil {
			return entries, nil // deleted since; its files are looked up one by one
		}
		before := len(entries)
		for _, e := range again {
			if !known[e.name] {
				known[e.name] = true
				entries = append(entries, e)
			}
		}
		if len(entries) == before {
			break
		}
	}
	return entries, nil
}

func readRefFile(root *os.Root, rel string) (string, error) {
	f, err := root.OpenFile(filepath.FromSlash(rel), os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text := make([]byte, 4<<10) // a path cannot be longer
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(text[:n]), nil
}

// refID resolves a reference to an object id, or "" if it does not lead to one.
func (r *repository) refID(name string) string {
	for range maxSymrefHops {
		target, symbolic := r.symrefs[name]
		if !symbolic {
			break
		}
		name = target
	}
	at := sort.Search(len(r.refs), func(n int) bool { return r.refs[n].name >= name })
	if at == len(r.refs) || r.refs[at].name != name {
		return ""
	}
	return r.refs[at].oid
}

// parseRefFile parses HEAD or a file below refs: an object id, or "ref: " and a
// name. It returns two empty strings for anything else.
func parseRefFile(text string) (oid, target string) {
	if target, ok := strings.CutPrefix(text, "ref:"); ok {
		target = strings.Trim(target, " \t\r\n")
		if strings.HasPrefix(target, "refs/") && isRefName(target) {
			return "", target
		}
		return "", ""
	}
	if oid, _, _ = strings.Cut(strings.TrimRight(text, "\r\n \t"), " "); isObjectID(oid) {
		return oid, ""
	}
	return "", ""
}

// parsePackedRefs parses packed-refs (git-pack-refs(1)). Below a header that says
// "fully-peeled", a line "^…" follows each annotated tag, and no other reference
// (refs/packed-backend.c in git).
func parsePackedRefs(text string) []gitRef {
	refs := make([]gitRef, 0, strings.Count(text, "\n"))
	header, _, _ := strings.Cut(text, "\n")
	checked := strings.HasPrefix(header, "# pack-refs with:") && strings.Contains(header+" ", " fully-peeled ")
	last := false // the line before was a reference
	for line := range strings.SplitSeq(text, "\n") {
		if ref, ok := parsePackedRef(line); ok {
			if checked {
				ref.peeled = notTag
			}
			refs = append(refs, ref)
			last = true
			continue
		}
		if peeled, ok := strings.CutPrefix(strings.TrimSuffix(line, "\r"), "^"); ok && last && isObjectID(peeled) {
			refs[len(refs)-1].peeled = peeled
		}
		last = false
	}
	return refs
}

// parsePackedRef parses one line: an id and a name. It returns false for a
// comment and for a peeled id ("^…").
func parsePackedRef(line string) (gitRef, bool) {
	oid, name, ok := strings.Cut(strings.TrimSuffix(line, "\r"), " ")
	return gitRef{name: name, oid: oid}, ok && isObjectID(oid) && isRefName(name)
}

// readRef resolves one reference to an object id without reading the others. It
// returns "" if the reference does not lead to one.
func (r *repository) readRef(name string) string {
	for range maxSymrefHops {
		dir := r.common
		if isPrivateRef(name) {
			dir = r.gitDir
		}
		text, err := r.optional(dir, filepath.FromSlash(name), maxSmallFile)
		if err != nil || text == nil {
			return r.findPackedRef(name)
		}
		oid, target := parseRefFile(string(text))
		if target == "" {
			return oid
		}
		name = target
	}
	return ""
}

// findPackedRef finds a reference in packed-refs, "" if it is not there. The
// file can have a million lines, so it is neither kept in memory nor fully
// parsed.
func (r *repository) findPackedRef(name string) string {
	p, err := r.access.within(filepath.Join(r.common.abs, "packed-refs"))
	if err != nil {
		return ""
	}
	f, _, err := r.access.openFile(p)
	if err != nil {
		return ""
	}
	defer f.Close() // only read
	end := []byte(" " + name)
	lines := bufio.NewScanner(io.LimitReader(f, maxPackedRefs)) // lines have at most 64 KiB: a ref name is shorter than a path
	for lines.Scan() {
		if !bytes.HasSuffix(lines.Bytes(), end) {
			continue
		}
		if ref, ok := parsePackedRef(lines.Text()); ok && ref.name == name {
			return ref.oid
		}
	}
	return ""
}

// isRefName reports whether name is a full reference name by the rules of
// git-check-ref-format(1).
func isRefName(name string) bool {
	if !strings.HasPrefix(name, "refs/") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") || strings.Contains(name, "@{") {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`~^:?*[\`, c) >= 0 {
			return false
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return true
}

// isObjectID reports whether s is a full object id, SHA-1 or SHA-256.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func isObjectID(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c-'0' > 9 && c-'a' > 5 { // bytes wrap around
			return false
		}
	}
	return true
}
