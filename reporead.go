package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
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
	Path         string  `json:"path"` // absolute, links resolved
	PathBase64   string  `json:"path_base64,omitempty"`
	Name         string  `json:"name"`
	RemoteURL    *string `json:"remote_url"` // of origin, else the first; without credentials
	Branch       *string `json:"branch"`
	Head         *string `json:"head"`
	IsBare       bool    `json:"is_bare"`
	IsShallow    bool    `json:"is_shallow"`
	LastCommitAt *string `json:"last_commit_at"` // RFC 3339, UTC
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

// lastCommits fills in when the head commits were made. One git looks up many:
// it runs in an empty repository of its own that borrows all their objects, so
// that no repository's configuration is read. Where it fails, the times stay
// null.
func (f *files) lastCommits(ctx context.Context, repos []*foundRepo) error {
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

// lastCommitsOf looks up a batch. Git gives up at the first corrupt object; the
// halves are asked for apart then, so that one broken repository costs the
// others nothing.
func (f *files) lastCommitsOf(ctx context.Context, repos []*foundRepo, idLength int) {
	err := f.lastCommitBatch(ctx, repos, idLength)
	switch half := len(repos) / 2; {
	case err == nil || ctx.Err() != nil:
	case half == 0:
		f.log.Warn("reading the date of a last commit", "path", repos[0].facts.Path, "error", err)
	default:
		f.lastCommitsOf(ctx, repos[:half], idLength)
		f.lastCommitsOf(ctx, repos[half:], idLength)
	}
}

func (f *files) lastCommitBatch(ctx context.Context, repos []*foundRepo, idLength int) error {
	dir, err := emptyGitDir(idLength)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var alternates, ids strings.Builder
	for _, r := range repos {
		for _, objects := range r.objects {
			fmt.Fprintln(&alternates, objects)
		}
		fmt.Fprintln(&ids, *r.facts.Head)
	}
	if err := os.WriteFile(filepath.Join(dir, "objects", "info", "alternates"), []byte(alternates.String()), 0o600); err != nil {
		return err
	}
	times := &commitTimes{}
	_, err = f.git.run(ctx, gitCommand{
		args: []string{"cat-file", "--batch"}, gitDir: dir, stdin: strings.NewReader(ids.String()), stdout: times,
	})
	for i, r := range repos {
		if i < len(times.found) && times.found[i] != nil {
			r.facts.LastCommitAt = new(wireTime(time.Unix(*times.found[i], 0)))
		}
	}
	return err
}

// emptyGitDir makes the least that git takes for a repository.
func emptyGitDir(idLength int) (string, error) {
	dir, err := os.MkdirTemp("", "c4a-empty-*")
	if err != nil {
		return "", err
	}
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
		_ = os.RemoveAll(dir) // the first error counts
		return "", fmt.Errorf("making an empty repository: %w", err)
	}
	return dir, nil
}

// maxCommitHead is how much of a commit is kept to look for its committer;
// the header ends before unless it has a thousand parents.
const maxCommitHead = 64 << 10

// commitTimes reads the output of `git cat-file --batch`, piece by piece: for
// each id "<oid> <type> <size>", the object and a newline, or "<oid> missing".
type commitTimes struct {
	found []*int64 // in the order asked; nil where there is no commit

	header []byte // the line being read
	head   []byte // the first part of the object being read
	left   int64  // bytes of it that are still to come, with the newline
	commit bool
}

func (c *commitTimes) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if c.left > 0 {
			part := p[:min(int64(len(p)), c.left)]
			p = p[len(part):]
			c.left -= int64(len(part))
			c.head = append(c.head, part[:min(len(part), maxCommitHead-len(c.head))]...)
			if c.left == 0 {
				c.end()
			}
			continue
		}
		i := bytes.IndexByte(p, '\n')
		length := i
		if i < 0 {
			length = len(p)
		}
		if len(c.header)+length > maxRefFile {
			return 0, fmt.Errorf("reading git cat-file: a line of over %d bytes", maxRefFile)
		}
		if i < 0 {
			c.header = append(c.header, p...)
			break
		}
		line := string(append(c.header, p[:i]...))
		p, c.header = p[i+1:], c.header[:0]
		fields := strings.Fields(line)
		if len(fields) == 2 {
			c.found = append(c.found, nil) // missing
			continue
		}
		if len(fields) != 3 {
			return 0, fmt.Errorf("reading git cat-file: unexpected line %.100q", line)
		}
		size, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil || size < 0 || size > 1<<60 {
			return 0, fmt.Errorf("reading git cat-file: unexpected size in %.100q", line)
		}
		c.left, c.commit, c.head = size+1, fields[1] == "commit", c.head[:0]
	}
	return n, nil
}

func (c *commitTimes) end() {
	var at *int64
	if seconds, ok := parseCommitTime(string(c.head)); ok && c.commit {
		at = &seconds
	}
	c.found = append(c.found, at)
}
