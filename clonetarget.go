package main

import (
	"cmp"
	"strings"
)

// cloneTarget is what a clone is to stand at, chosen from what the remote
// offers.
type cloneTarget struct {
	source        string // what is fetched: a full ref name, HEAD or an object id
	oid           string // what the remote says it is at
	commit        string // where oid leads, if the remote told; for a branch the same
	branch        string // short, when source is a branch
	tag           string // short, when source is a tag
	defaultBranch string // short; "" when the remote's HEAD is detached
	sha256        bool   // the object format
	empty         bool   // the remote has no commits
}

// pickTarget finds ref, "" or HEAD for the default, among a remote's refs.
func pickTarget(list remoteRefs, ref string) (cloneTarget, error) {
	t := cloneTarget{}
	t.defaultBranch, _ = strings.CutPrefix(list.head, "refs/heads/")
	if len(list.refs) > 0 {
		t.sha256 = len(list.refs[0].oid) == 64
	}
	if ref == "" || ref == "HEAD" {
		return t.pickDefault(list)
	}
	if id := strings.ToLower(ref); isObjectID(id) {
		t.source, t.oid, t.commit, t.sha256 = id, id, id, len(id) == 64
		return t, nil
	}
	for _, name := range []string{"refs/heads/" + ref, "refs/tags/" + ref, ref} {
		if found, ok := list.find(name); ok {
			t.take(found)
			return t, nil
		}
	}
	if strings.Trim(strings.ToLower(ref), "0123456789abcdef") == "" && len(ref) >= 4 {
		return t, failure(codeCommitNotFound, "the remote has no branch or tag %s; a commit must be given by its full id", ref)
	}
	return t, failure(codeCommitNotFound, "the remote has no branch or tag %s", ref)
}

func (t cloneTarget) pickDefault(list remoteRefs) (cloneTarget, error) {
	if found, ok := list.find(list.head); ok {
		t.take(found)
		return t, nil
	}
	switch {
	case list.headOID != "": // detached
		t.source, t.oid, t.commit, t.sha256 = "HEAD", list.headOID, list.headOID, len(list.headOID) == 64
	case len(list.refs) == 0:
		t.empty = true
	default:
		return t, failure(codeCommitNotFound, "the remote's HEAD names a branch without commits: give ref")
	}
	return t, nil
}

func (t *cloneTarget) take(ref remoteRef) {
	t.source, t.oid, t.commit = ref.name, ref.oid, cmp.Or(ref.peeled, ref.oid)
	if branch, ok := strings.CutPrefix(ref.name, "refs/heads/"); ok {
		t.branch = branch
	} else if tag, ok := strings.CutPrefix(ref.name, "refs/tags/"); ok {
		t.tag = tag
	}
}

// refs are those that a clone of the target has, at what was fetched: oid, and
// the commit that it leads to.
func (t cloneTarget) refs(oid, commit string) map[string]string {
	switch {
	case t.branch != "":
		return map[string]string{"refs/heads/" + t.branch: commit, "refs/remotes/origin/" + t.branch: commit}
	case t.tag != "":
		return map[string]string{"refs/tags/" + t.tag: oid}
	}
	return map[string]string{} // HEAD, detached, holds it
}
