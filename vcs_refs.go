package main

import (
	"context"
	"strings"
	"sync"
)

const (
	// refsLimit is the default limit of vcs/refs, and maxRefsLimit the largest.
	refsLimit    = 1000
	maxRefsLimit = 100_000
)

// refsParams are the params of vcs/refs: either a path or a URL.
type refsParams struct {
	pathParam
	URL    *string `json:"url,omitempty" doc:"URL of a remote to list instead of path"`
	Limit  *int    `json:"limit,omitempty" doc:"references per page, 1 to 100,000; default 1,000"`
	Cursor *string `json:"cursor,omitempty" doc:"next_cursor of the previous page"`
}

// refsResult is the result of vcs/refs.
type refsResult struct {
	Head       refsHead   `json:"head"`
	Refs       []refEntry `json:"refs" doc:"sorted by name"`
	NextCursor *string    `json:"next_cursor" doc:"pass it as cursor to get the next page; null on the last page"`
}

// refsHead describes HEAD.
type refsHead struct {
	Ref *string `json:"ref" doc:"full name of the reference; null if HEAD is detached"`
	OID *string `json:"oid" doc:"commit id; null if there are no commits"`
}

// refEntry is one reference.
type refEntry struct {
	Name       string  `json:"name" doc:"full name, such as refs/heads/main"`
	NameBase64 string  `json:"name_base64,omitempty" doc:"base64 of the name; only if it is not valid UTF-8"`
	OID        string  `json:"oid" doc:"object id"`
	PeeledOID  *string `json:"peeled_oid,omitempty" doc:"id of the object that an annotated tag points to"`
	Type       string  `json:"type" enum:"branch,remote,tag,other"`
}

// listRefs implements vcs/refs.
func (g *gitReader) listRefs(ctx context.Context, p refsParams) (refsResult, error) {
	limit, err := limitParam("limit", p.Limit, refsLimit, maxRefsLimit)
	if err != nil {
		return refsResult{}, err
	}
	if p.URL == nil {
		return g.localRefs(ctx, p, limit)
	}
	if p.Path != "" || p.PathBase64 != "" {
		return refsResult{}, invalidParam("url", "give path or url, not both")
	}
	return g.remoteRefs(ctx, *p.URL, p, limit)
}

// remoteRefs lists the references of a remote.
func (g *gitReader) remoteRefs(ctx context.Context, url string, p refsParams, limit int) (refsResult, error) {
	rm, err := g.remotes.open(url)
	if err != nil {
		return refsResult{}, err
	}
	list, err := rm.list(ctx)
	if err != nil {
		return refsResult{}, err
	}
	var refs refListing
	for _, ref := range list.refs {
		refs.add(ref.name, ref.oid, ref.peeled)
	}
	refs.finish(list.head, list.headOID)
	return refs.page(p, fingerprint("vcs/refs", "url", rm.key()), limit)
}

// localRefs lists the references of a repository on this machine.
func (g *gitReader) localRefs(ctx context.Context, p refsParams, limit int) (refsResult, error) {
	repo, err := openRepository(g.access, p.pathParam)
	if err != nil {
		return refsResult{}, err
	}
	result, err := repo.listed().page(p, fingerprint("vcs/refs", "path", repo.top.abs), limit)
	if err != nil {
		return refsResult{}, err
	}
	return result, g.peel(ctx, repo, result.Refs)
}

// listed returns the references for vcs/refs, which the caller does not change.
func (r *repository) listed() *refListing {
	list := &r.listing
	list.once.Do(func() {
		for n := range r.refs {
			ref := &r.refs[n]
			list.add(ref.name, ref.oid, ref.peeled)
		}
		for name := range r.symrefs {
			if oid := r.refID(name); oid != "" { // a dangling reference is not listed
				list.add(name, oid, "")
			}
		}
		list.finish(r.headRef, r.head)
	})
	return list
}

// refListing is all references of a repository.
type refListing struct {
	once  sync.Once // for listed
	head  refsHead
	refs  []refEntry // without what a page adds
	state string     // fingerprint for cursors
}

//go:noinline // each copy counts in the size of a release
func (l *refListing) add(name, oid, peeled string) {
	l.refs = append(l.refs, refEntry{Name: name, OID: oid, PeeledOID: optionalString(peeled)})
}

// finish sorts the references after the last one was added.
func (l *refListing) finish(headRef, head string) {
	l.head = refsHead{optionalString(headRef), optionalString(head)}
	sortStableBy(l.refs, func(a, b refEntry) int { return strings.Compare(a.Name, b.Name) })
	state := []string{headRef, head}
	for n := range l.refs {
		state = append(state, l.refs[n].Name, l.refs[n].OID)
	}
	l.state = fingerprint(state...)
}

// page returns the page at the cursor of p.
func (l *refListing) page(p refsParams, request string, limit int) (refsResult, error) {
	cursor, err := startCursor(p.Cursor, request, l.state)
	if err != nil {
		return refsResult{}, err
	}
	result := refsResult{Head: l.head}
	page := l.refs[min(cursor.At, int64(len(l.refs))):]
	if len(page) > limit {
		page = page[:limit]
		result.NextCursor = cursor.next(limit)
	}
	result.Refs = append([]refEntry{}, page...)
	for n := range result.Refs {
		ref := &result.Refs[n]
		ref.Type, ref.NameBase64, ref.Name = refType(ref.Name), nameBase64(ref.Name), showName(ref.Name)
	}
	return result, nil
}

// refType returns the type of a reference by its name.
func refType(name string) string {
	for _, known := range [][2]string{{"refs/heads/", "branch"}, {"refs/remotes/", "remote"}, {"refs/tags/", "tag"}} {
		if strings.HasPrefix(name, known[0]) {
			return known[1]
		}
	}
	return "other"
}

// peel sets the peeled ids of the annotated tags among refs that are not known, with
// one git process, and removes those that are notTag.
func (g *gitReader) peel(ctx context.Context, repo *repository, refs []refEntry) error {
	var names []string
	var unknown []int
	for n, ref := range refs {
		switch {
		case ref.PeeledOID == nil:
			names, unknown = append(names, ref.OID, ref.OID+"^{}"), append(unknown, n)
		case *ref.PeeledOID == notTag:
			refs[n].PeeledOID = nil
		}
	}
	if len(names) == 0 {
		return nil
	}
	v, err := repo.gitView(objectsView)
	if err != nil {
		return err
	}
	defer v.remove()
	objects, err := g.lookUp(ctx, v, names)
	if err != nil {
		return err
	}
	for i, n := range unknown {
		if objects[2*i].kind == "tag" {
			refs[n].PeeledOID = optionalString(objects[2*i+1].oid)
		}
	}
	return nil
}
