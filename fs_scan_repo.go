package main

import (
	"path/filepath"
	"strings"
)

// repoFacts is what fs/repoScan tells of a repository.
type repoFacts struct {
	Path         string  `json:"path" doc:"absolute, links resolved"`
	PathBase64   string  `json:"path_base64,omitempty" doc:"the path in base64, where it is not UTF-8"`
	Name         string  `json:"name" doc:"the path's last part"`
	RemoteURL    *string `json:"remote_url" doc:"of origin, else of the first remote; without credentials"`
	Branch       *string `json:"branch" doc:"short name, null when HEAD is detached"`
	Head         *string `json:"head" doc:"commit id, null without commits"`
	IsBare       bool    `json:"is_bare" doc:"it has no work tree"`
	IsShallow    bool    `json:"is_shallow" doc:"it has a part of its history"`
	LastCommitAt *string `json:"last_commit_at" doc:"RFC 3339, UTC; null without commits"`
}

// foundRepo is a repository that a scan has come upon.
type foundRepo struct {
	facts   repoFacts
	objects []string // its object directory and those that it borrows; none when one is out of reach
}

// repositoryIn is the repository at the directory dir, which has a .git or
// looks like a bare one; nil for none, for one that git would not take, and for
// one that leads outside the allowed directories.
func (f *files) repositoryIn(dir string, bare bool) *repository {
	at, err := f.access.within(dir)
	if err != nil {
		return nil
	}
	open := workTreeAt
	if bare {
		open = bareAt
	}
	r, err := open(f.access, at)
	if err != nil || r == nil {
		return nil
	}
	if known, err := r.readHead(); err != nil || !known {
		return nil
	}
	return r
}

// describe reads the facts of a repository whose HEAD was read. It starts no
// program. What cannot be read stays null.
func (f *files) describe(r *repository) foundRepo {
	path := r.top.abs
	repo := foundRepo{facts: repoFacts{Path: showName(path), PathBase64: nameBase64(path), IsBare: r.bare}}
	repo.facts.Name = showName(filepath.Base(path))
	if r.bare {
		repo.facts.Name = strings.TrimSuffix(repo.facts.Name, ".git")
	}
	if err := r.readConfig(); err != nil {
		f.log.Debug("a repository's configuration", "path", path, "error", err)
	}
	repo.facts.RemoteURL = optionalString(r.remoteURL())
	if _, said := r.config.get("core", "", "bare"); said && r.common.abs == r.gitDir.abs {
		repo.facts.IsBare = r.config.isTrue("core", "bare") // a linked work tree of a bare one is none
	}
	if at, err := f.access.within(filepath.Join(r.common.abs, "shallow")); err == nil {
		info, err := f.access.stat(at)
		repo.facts.IsShallow = err == nil && info.Size() > 0
	}
	if branch := r.branch(); branch != "" {
		repo.facts.Branch = new(showName(branch))
	}
	oid := r.head
	if r.headRef != "" {
		oid = r.readRef(r.headRef)
	}
	if oid != "" {
		repo.facts.Head = &oid
		repo.objects = readableStores(r)
	}
	return repo
}

// readableStores are the object directories of a repository as lines of an
// alternates file; none when git could not read one from there.
func readableStores(r *repository) []string {
	stores, err := r.objectStores()
	if err != nil {
		return nil
	}
	var lines []string
	for _, store := range stores {
		if strings.ContainsAny(store.abs, "\n\"#") {
			return nil
		}
		lines = append(lines, store.abs)
	}
	return lines
}
