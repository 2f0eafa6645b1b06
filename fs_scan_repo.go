package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// repoFacts describes a repository in the result of fs/repoScan.
type repoFacts struct {
	Path         string  `json:"path" doc:"absolute path, symlinks resolved"`
	PathBase64   string  `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Name         string  `json:"name" doc:"last element of the path"`
	RemoteURL    *string `json:"remote_url" doc:"URL of origin, or else of the first remote, without credentials"`
	Branch       *string `json:"branch" doc:"short name; null if HEAD is detached"`
	Head         *string `json:"head" doc:"commit id; null if there are no commits"`
	IsBare       bool    `json:"is_bare" doc:"true if the repository has no work tree, as git rev-parse --is-bare-repository reports it"`
	IsShallow    bool    `json:"is_shallow" doc:"true if the history is truncated"`
	LastCommitAt *string `json:"last_commit_at" doc:"RFC 3339 in UTC; null if there are no commits"`
}

// foundRepo is a repository that a scan found.
type foundRepo struct {
	facts   repoFacts
	repo    *repository
	objects []string // its object directories, borrowed ones included; nil if one is out of reach
}

// repositoryIn returns the repository in dir, which has a .git or looks like a
// git directory. It returns nil if git would not accept it as a repository,
// or if a part of it lies outside the allowed directories.
func (f *fsService) repositoryIn(dir string, isGitDir bool) *repository {
	at, err := f.access.within(dir)
	if err != nil {
		return nil
	}
	if isGitDir {
		return f.repositoryAt(at, gitDirAt)
	}
	return f.repositoryAt(at, workTreeAt)
}

// repositoryAt is repositoryIn for a directory that was looked up, of the kind that
// open opens.
func (f *fsService) repositoryAt(at resolvedPath, open func(*access, resolvedPath) (*repository, error)) *repository {
	r, err := open(f.access, at)
	if err != nil || r == nil {
		return nil
	}
	if recognized, err := r.readHead(); err != nil || !recognized {
		return nil
	}
	return r
}

// describeWhole calls describe, and again if vcs/clone has replaced the repository
// since mark.
func (f *fsService) describeWhole(r *repository, mark int) foundRepo {
	repo := f.describe(r)
	for range maxReadTries {
		replaced, known := f.access.replaced.since(mark)
		if known && !f.access.overlaps(r.top.abs, replaced) {
			break
		}
		mark = f.access.replaced.mark()
		if again := f.repositoryIn(r.top.abs, !r.dotGit); again != nil {
			repo = f.describe(again)
		}
	}
	return repo
}

// describe returns the facts of a repository whose HEAD was read. It starts no
// process; facts that cannot be read stay null.
func (f *fsService) describe(r *repository) foundRepo {
	path := r.top.abs
	repo := foundRepo{repo: r, facts: repoFacts{Path: showName(path), PathBase64: nameBase64(path)}}
	repo.facts.Name = showName(filepath.Base(path))
	if !r.dotGit {
		repo.facts.Name = strings.TrimSuffix(repo.facts.Name, ".git")
	}
	if err := r.readConfig(); err != nil {
		f.log.Debug("reading a repository's configuration failed", "path", path, "error", err)
	}
	repo.facts.RemoteURL = optionalString(r.remoteURL())
	repo.facts.IsBare = r.bare
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

// readableStores returns the object directories of a repository as lines of an
// alternates file, or nil if one has a name that git cannot read from such a
// file.
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

const (
	// commitBatch is the number of repositories that one git process looks up.
	commitBatch = 100
	// maxCommitHead bounds how much of a commit is read to find the committer;
	// its header is longer only with about a thousand parents.
	maxCommitHead = 64 << 10
)

// lastCommits sets the times of the head commits. One git process looks up many
// repositories at once: it runs in a temporary empty repository that borrows
// all their objects, so no configuration of theirs is read. Where a lookup
// fails, the time stays null.
func (f *fsService) lastCommits(ctx context.Context, repos []*foundRepo) error {
	for _, idLength := range []int{40, 64} { // SHA-1, SHA-256
		var batch []*foundRepo
		for _, r := range repos {
			if len(r.objects) > 0 && len(*r.facts.Head) == idLength {
				batch = append(batch, r)
			}
		}
		for len(batch) > 0 {
			n := min(len(batch), commitBatch)
			f.lastCommitsOf(ctx, batch[:n], idLength)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			batch = batch[n:]
		}
	}
	return nil
}

// lastCommitsOf looks up one batch. Git stops at the first corrupt object; then
// each half is looked up by itself, so that one broken repository does not hide
// the dates of the others.
func (f *fsService) lastCommitsOf(ctx context.Context, repos []*foundRepo, idLength int) {
	err := f.lastCommitBatch(ctx, repos, idLength)
	switch half := len(repos) / 2; {
	case err == nil || ctx.Err() != nil:
	case half == 0:
		f.log.Warn("reading the date of the last commit failed", "path", repos[0].facts.Path, "error", err)
	default:
		f.lastCommitsOf(ctx, repos[:half], idLength)
		f.lastCommitsOf(ctx, repos[half:], idLength)
	}
}

func (f *fsService) lastCommitBatch(ctx context.Context, repos []*foundRepo, idLength int) error {
	temp, err := f.access.temp.emptyGitDir(idLength)
	if err != nil {
		return err
	}
	defer temp.remove()
	dir := temp.path
	var alternates strings.Builder
	var heads []string
	for _, r := range repos {
		for _, objects := range r.objects {
			fmt.Fprintln(&alternates, objects)
		}
		heads = append(heads, *r.facts.Head)
	}
	if err := borrowObjects(dir, alternates.String()); err != nil {
		return err
	}
	command := gitCommand{gitDir: dir, check: func(ctx context.Context) error { return checkAllObjects(ctx, repos) }}
	times := map[string]string{} // by commit id: clones of one repository share it
	err = f.git.readObjects(ctx, command, heads, maxCommitHead, func(o objectInfo, content string) error {
		if o.kind == "commit" {
			times[o.oid] = wireTime(commitTime(committerSeconds(content)))
		}
		return nil
	})
	for _, r := range repos {
		r.facts.LastCommitAt = optionalString(times[*r.facts.Head])
	}
	return err
}

// checkAllObjects returns an error if git would wait for a named pipe among the
// objects of the repositories. It is for a lookup that takes long: most are over
// before every directory of objects could be listed.
func checkAllObjects(ctx context.Context, repos []*foundRepo) error {
	for _, r := range repos {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.repo.checkObjects(); err != nil {
			return err
		}
	}
	return nil
}

// emptyGitDir creates the smallest directory that git accepts as a repository.
func (t *tempDirs) emptyGitDir(idLength int) (*tempDir, error) {
	temp, err := t.make(emptyTemp)
	if err != nil {
		return nil, err
	}
	dir := temp.path
	config := "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"
	if idLength == 64 {
		config = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n[extensions]\n\tobjectformat = sha256\n"
	}
	err = errors.Join(
		os.MkdirAll(filepath.Join(dir, "objects", "info"), 0o700),
		os.Mkdir(filepath.Join(dir, "refs"), 0o700),
		os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600),
	)
	if err != nil {
		temp.remove()
		return nil, fmt.Errorf("creating an empty repository: %w", err)
	}
	return temp, nil
}

// borrowObjects makes the repository at dir read the object directories in
// lines, one per line (gitrepository-layout(5), objects/info/alternates).
func borrowObjects(dir, lines string) error {
	return os.WriteFile(filepath.Join(dir, "objects", "info", "alternates"), []byte(lines), 0o600)
}

// committerSeconds returns the committer's time, in seconds since 1970, from the
// text of a commit, or "" where git log prints none for it (git-log(1), %ct):
// an address in angle brackets,
// a number and a time zone are required.
func committerSeconds(commit string) string {
	for line := range strings.Lines(commit) {
		if line == "\n" {
			break // the message follows
		}
		rest, found := strings.CutPrefix(line, "committer ")
		if !found {
			continue
		}
		mail, end := strings.IndexByte(rest, '<'), strings.LastIndexByte(rest, '>')
		if mail < 0 || end < mail {
			return ""
		}
		rest = strings.TrimLeft(rest[end+1:], gitSpace)
		zone := strings.TrimLeft(rest, "0123456789")
		digits := rest[:len(rest)-len(zone)]
		zone = strings.TrimLeft(zone, gitSpace)
		if len(zone) < 2 || zone[0] != '+' && zone[0] != '-' || zone[1] < '0' || zone[1] > '9' {
			return ""
		}
		return digits
	}
	return ""
}

// gitSpace is the white space between the parts of a commit's header.
const gitSpace = " \t\r\n"
