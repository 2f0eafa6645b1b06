package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
)

const overviewDefault, overviewMost = 50, 1000 // repositories or refs

type overviewArgs struct {
	Path  string `json:"path,omitempty" doc:"a repository, to see its branches, tags, changes and last commit; default: the whole machine"`
	Limit *int   `json:"limit,omitempty" doc:"repositories or refs to list, up to 1000; default 50"`
}

func runOverview(ctx context.Context, c *mcpCall, args overviewArgs) (*mcpAnswer, error) {
	limit, err := limitArgument("limit", args.Limit, overviewDefault, overviewMost)
	if err != nil {
		return nil, err
	}
	if args.Path != "" {
		return repoOverview(ctx, c, newMCPPath(args.Path), limit)
	}
	var config struct {
		Version      string   `json:"version"`
		AllowedPaths []string `json:"allowed_paths"`
		WorkDir      *string  `json:"work_dir"`
		GitVersion   string   `json:"git_version"`
	}
	if err := c.ask(ctx, "config/get", struct{}{}, &config); err != nil {
		return nil, err
	}
	lines := []string{"allowed directories:"}
	for _, dir := range config.AllowedPaths {
		lines = append(lines, "  "+cleanText(dir))
	}
	switch {
	case config.WorkDir == nil:
		lines = append(lines, "work dir: none, so nothing can be cloned there")
	default:
		lines = append(lines, "work dir: "+cleanText(*config.WorkDir)+" (clones are in "+cleanText(*config.WorkDir)+"/repos)")
	}
	if config.GitVersion == "" {
		lines = append(lines, "git is not installed there: only files can be read")
	}
	var scan struct {
		Repos []struct {
			Path         string  `json:"path"`
			PathBase64   string  `json:"path_base64"`
			RemoteURL    *string `json:"remote_url"`
			Branch       *string `json:"branch"`
			Head         *string `json:"head"`
			IsBare       bool    `json:"is_bare"`
			IsShallow    bool    `json:"is_shallow"`
			LastCommitAt *string `json:"last_commit_at"`
		} `json:"repos"`
		Truncated bool `json:"truncated"`
		Skipped   int  `json:"skipped"`
	}
	found := "repositories"
	if err := c.ask(ctx, "fs/repoScan", map[string]any{"limit": limit}, &scan); err != nil {
		text, ok := c.errorText(err)
		if !ok || ctx.Err() != nil {
			return nil, err
		}
		lines = append(lines, "the repositories could not be listed: "+text)
	} else {
		found = countNoun(len(scan.Repos), "repository")
		lines = append(lines, "repositories:")
	}
	for _, repo := range scan.Repos {
		line := "  " + listedName(mcpPath{}, repo.Path, repo.PathBase64)
		switch {
		case repo.Head == nil:
			line += "  without commits"
		case repo.Branch == nil:
			line += "  detached at " + shortOID(*repo.Head)
		default:
			line += "  " + cleanText(*repo.Branch) + " " + shortOID(*repo.Head)
		}
		if repo.LastCommitAt != nil {
			line += " " + dayOf(*repo.LastCommitAt)
		}
		if repo.IsBare {
			line += " bare"
		}
		if repo.IsShallow {
			line += " shallow"
		}
		if repo.RemoteURL != nil {
			line += " " + cleanText(*repo.RemoteURL)
		}
		lines = append(lines, line)
	}
	fit := fitLines(lines, mcpTextBudget-mcpHeadRoom)
	head := fmt.Sprintf("[%s: %s in %s", c.target.name, found, countNoun(len(config.AllowedPaths), "allowed directory"))
	if scan.Truncated || fit < len(lines) {
		head += "; there are more: raise limit, or use tree with one of the directories"
	}
	head += skippedText(scan.Skipped) + "]"
	return textAnswer(joinText(head, lines[:fit])), nil
}

// mcpCommit is a commit in the results of vcs/info and vcs/log.
type mcpCommit struct {
	OID     string    `json:"oid"`
	Parents []string  `json:"parents"`
	Author  mcpPerson `json:"author"`
	Subject string    `json:"subject"`
	Body    string    `json:"body"`
}

type mcpPerson struct {
	Name  string `json:"name"`
	Email string `json:"email"`
	At    string `json:"at"`
}

// line returns the commit in one line.
func (c *mcpCommit) line() string {
	return fmt.Sprintf("%s %s %s: %s", shortOID(c.OID), dayOf(c.Author.At), cutText(cleanText(c.Author.Name), 100), cutText(cleanText(c.Subject), searchLine))
}

func repoOverview(ctx context.Context, c *mcpCall, at mcpPath, limit int) (*mcpAnswer, error) {
	var info struct {
		Path          string  `json:"path"`
		PathBase64    string  `json:"path_base64"`
		Head          *string `json:"head"`
		Branch        *string `json:"branch"`
		DefaultBranch *string `json:"default_branch"`
		Remotes       []struct {
			Name string `json:"name"`
			URL  string `json:"url"`
		} `json:"remotes"`
		IsBare    bool `json:"is_bare"`
		IsShallow bool `json:"is_shallow"`
		Dirty     *struct {
			Staged     int `json:"staged"`
			Unstaged   int `json:"unstaged"`
			Untracked  int `json:"untracked"`
			Conflicted int `json:"conflicted"`
		} `json:"dirty"`
		Ahead      *int       `json:"ahead"`
		Behind     *int       `json:"behind"`
		LastCommit *mcpCommit `json:"last_commit"`
	}
	if err := c.ask(ctx, "vcs/info", at, &info); err != nil {
		return nil, err
	}
	var refs struct {
		Refs []struct {
			Name      string  `json:"name"`
			OID       string  `json:"oid"`
			PeeledOID *string `json:"peeled_oid"`
		} `json:"refs"`
		NextCursor *string `json:"next_cursor"`
	}
	params := struct {
		mcpPath
		Limit int `json:"limit"`
	}{at, limit}
	if err := c.ask(ctx, "vcs/refs", params, &refs); err != nil {
		return nil, err
	}
	var lines []string
	branch := "detached"
	if info.Branch != nil {
		branch = "branch " + cleanText(*info.Branch)
	}
	if info.Head != nil {
		branch += " at " + *info.Head
	} else {
		branch += ", without commits"
	}
	if info.Ahead != nil && info.Behind != nil {
		branch += fmt.Sprintf(", %d ahead and %d behind its upstream", *info.Ahead, *info.Behind)
	}
	lines = append(lines, branch)
	if info.DefaultBranch != nil {
		lines = append(lines, "default branch of origin: "+cleanText(*info.DefaultBranch))
	}
	if d := info.Dirty; d != nil {
		lines = append(lines, fmt.Sprintf("work tree: %d staged, %d unstaged, %d untracked, %d in conflict", d.Staged, d.Unstaged, d.Untracked, d.Conflicted))
	}
	if info.IsBare {
		lines = append(lines, "bare: there is no work tree, so read files with commit")
	}
	if info.IsShallow {
		lines = append(lines, "shallow: the history is cut off")
	}
	for _, remote := range info.Remotes {
		lines = append(lines, "remote "+cleanText(remote.Name)+" "+cleanText(remote.URL))
	}
	if info.LastCommit != nil {
		lines = append(lines, "last commit: "+info.LastCommit.line())
	}
	lines = append(lines, "refs:")
	for _, ref := range refs.Refs {
		lines = append(lines, "  "+shortOID(*cmp.Or(ref.PeeledOID, &ref.OID))+" "+strings.TrimPrefix(cleanText(ref.Name), "refs/"))
	}
	fit := fitLines(lines, mcpTextBudget-mcpHeadRoom)
	head := fmt.Sprintf("[repository %s: %s", mcpPathOf(info.Path).shown(), countNoun(len(refs.Refs), "ref"))
	if refs.NextCursor != nil || fit < len(lines) {
		head += "; there are more: raise limit, or use call_method with vcs/refs"
	}
	return textAnswer(joinText(head+"]", lines[:fit])), nil
}
