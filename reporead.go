package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	// maxRefFile bounds HEAD, a loose ref, a .git file, commondir: each holds a
	// path or an object id.
	maxRefFile = 8 << 10
	// maxRepoConfig bounds a repository's config.
	maxRepoConfig = 1 << 20
	// maxRepoRefs bounds packed-refs: a million refs take about 70 MiB.
	maxRepoRefs = 128 << 20
	// maxRefHops bounds symbolic refs that name one another, as git does.
	maxRefHops = 5
	// maxAlternates bounds the object directories that one repository borrows.
	maxAlternates = 20
	// commitBatch is the number of repositories whose last commit one git
	// process looks up.
	commitBatch = 100
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

// readRepo reads the facts of the repository at path, whose git directory is
// gitDir. It starts no program. What cannot be read stays null.
func (f *files) readRepo(path, gitDir string, bare bool, clean *redactor) foundRepo {
	repo := foundRepo{facts: repoFacts{Path: showName(path), PathBase64: nameBase64(path), IsBare: bare}}
	repo.facts.Name = showName(filepath.Base(path))
	if bare {
		repo.facts.Name = strings.TrimSuffix(repo.facts.Name, ".git")
	}
	common := f.commonDir(gitDir)
	if text, err := f.readSmall(filepath.Join(common, "config"), maxRepoConfig); err == nil {
		config := parseRepoConfig(text)
		if config.remoteURL != "" {
			repo.facts.RemoteURL = new(clean.text(showName(config.remoteURL)))
		}
		if config.bare != nil && common == gitDir {
			repo.facts.IsBare = *config.bare // a linked work tree of a bare one is none
		}
	}
	if text, err := f.readSmall(filepath.Join(common, "shallow"), maxRefFile); err == nil || errors.Is(err, errTooLong) {
		repo.facts.IsShallow = strings.TrimSpace(text) != "" || err != nil
	}
	text, err := f.readSmall(filepath.Join(gitDir, "HEAD"), maxRefFile)
	if err != nil {
		return repo
	}
	oid, ref, ok := parseHead(text)
	if !ok {
		return repo
	}
	if branch, isBranch := strings.CutPrefix(ref, "refs/heads/"); isBranch && branch != ".invalid" { // what reftable puts there
		repo.facts.Branch = new(showName(branch))
	}
	for range maxRefHops {
		if ref == "" {
			break
		}
		oid, ref = f.readRef(gitDir, common, ref)
	}
	if oid != "" {
		repo.facts.Head = &oid
		repo.objects = f.objectDirs(filepath.Join(common, "objects"), nil)
	}
	return repo
}

// commonDir is where the parts are that linked work trees share
// (gitrepository-layout(5), commondir); elsewhere the git directory itself.
func (f *files) commonDir(gitDir string) string {
	text, err := f.readSmall(filepath.Join(gitDir, "commondir"), maxRefFile)
	if err != nil {
		return gitDir
	}
	common := strings.TrimRight(text, "\r\n")
	if !filepath.IsAbs(common) {
		common = filepath.Join(gitDir, common)
	}
	return common
}

// readRef reads a ref: its object id, or the ref that it names.
func (f *files) readRef(gitDir, common, ref string) (oid, next string) {
	dir := common
	if strings.HasPrefix(ref, "refs/bisect/") || strings.HasPrefix(ref, "refs/worktree/") {
		dir = gitDir // each work tree has its own
	}
	if text, err := f.readSmall(filepath.Join(dir, filepath.FromSlash(ref)), maxRefFile); err == nil {
		oid, next, _ = parseHead(text)
		return oid, next
	}
	file, err := f.openInside(filepath.Join(common, "packed-refs"))
	if err != nil {
		return "", ""
	}
	defer file.Close() // nothing is written
	oid, err = findPackedRef(io.LimitReader(file, maxRepoRefs), ref)
	if err != nil {
		return "", ""
	}
	return oid, ""
}

// objectDirs is an object directory and all that it borrows
// (objects/info/alternates); nil when one of them is not allowed: git would
// read it.
func (f *files) objectDirs(dir string, seen []string) []string {
	at, err := f.access.within(dir)
	if err != nil || strings.ContainsAny(at.abs, "\n\"#") || len(seen) >= maxAlternates {
		return nil
	}
	seen = append(seen, at.abs)
	text, err := f.readSmall(filepath.Join(at.abs, "info", "alternates"), maxRepoConfig)
	if isMissing(err) {
		return seen
	}
	if err != nil {
		return nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if !filepath.IsAbs(line) {
			line = filepath.Join(at.abs, line)
		}
		if seen = f.objectDirs(line, seen); seen == nil {
			return nil
		}
	}
	return seen
}

var errTooLong = errors.New("the file is too long")

// openInside opens an allowed regular file by its absolute path.
func (f *files) openInside(path string) (*os.File, error) {
	at, err := f.access.within(path)
	if err != nil {
		return nil, err
	}
	file, info, err := f.access.openFile(at)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		_ = file.Close() // nothing was written
		return nil, notFound(path)
	}
	return file, nil
}

// readSmall reads an allowed text file; errTooLong when it has more than most
// bytes.
func (f *files) readSmall(path string, most int64) (string, error) {
	file, err := f.openInside(path)
	if err != nil {
		return "", err
	}
	defer file.Close() // nothing is written
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return "", err
	}
	if int64(len(data)) > most {
		return "", errTooLong
	}
	return string(data), nil
}
