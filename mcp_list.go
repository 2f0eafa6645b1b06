package main

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// This file has the tools that list and search files: tree, find_files, search.

const (
	treeDefault, treeMost     = 200, 1000
	treeDepth, treeMaxDepth   = 2, 20
	findDefault, findMost     = 200, 10_000
	searchDefault, searchMost = 100, 1000
	searchContext             = 20
	// searchLine bounds a line of a match: minified files have lines of a megabyte.
	searchLine = 400
	// treePage and treePages bound the files that tree counts.
	treePage, treePages = 25_000, 4
)

type treeArgs struct {
	Path  string `json:"path" doc:"absolute path of a directory"`
	Depth *int   `json:"depth,omitempty" doc:"levels to show, up to 20; default 2"`
	Limit *int   `json:"limit,omitempty" doc:"lines to show, up to 1000; default 200"`
	All   bool   `json:"all,omitempty" doc:"list this one directory with everything in it, ignored and hidden entries too"`
}

func runTree(ctx context.Context, c *mcpCall, args treeArgs) (*mcpAnswer, error) {
	depth, err := limitArgument("depth", args.Depth, treeDepth, treeMaxDepth)
	if err != nil {
		return nil, err
	}
	limit, err := limitArgument("limit", args.Limit, treeDefault, treeMost)
	if err != nil {
		return nil, err
	}
	at := newMCPPath(args.Path)
	if args.All {
		return listDirectory(ctx, c, at, limit)
	}
	root, params := newTreeNode(), filesParams{mcpPath: at, Limit: treePage}
	var page filesPage
	for range treePages {
		page = filesPage{}
		if err := c.ask(ctx, "fs/glob", params, &page); err != nil {
			return nil, err
		}
		for _, file := range page.Files {
			shown := listedName(at, file.Path, file.PathBase64)
			if shown == file.Path {
				shown = path.Base(shown)
			}
			root.add(file.Path, shown, file.Size)
		}
		if params.Cursor = page.NextCursor; params.Cursor == nil {
			break
		}
	}
	lines := root.lines(nil, "", depth)
	shown := min(limit, len(lines), fitLines(lines, mcpTextBudget-mcpHeadRoom))
	head := fmt.Sprintf("[%s: %s in %s", at.shown(), countNoun(root.files, "file"), countNoun(root.dirs(), "directory"))
	if params.Cursor != nil {
		head += " and more"
	}
	head += ", without what git ignores"
	if shown < len(lines) {
		head += fmt.Sprintf("; the first %d of %d lines: use a subdirectory, a smaller depth, or find_files", shown, len(lines))
	}
	return textAnswer(joinText(head+skippedText(page.Skipped)+"]", lines[:shown])), nil
}

// treeNode is a directory of tree.
type treeNode struct {
	names []string // sorted, because the files come sorted
	child map[string]*treeNode
	sizes map[string]int64
	shown map[string]string // how a file is listed
	files int               // in it and below
}

func newTreeNode() *treeNode {
	return &treeNode{child: map[string]*treeNode{}, sizes: map[string]int64{}, shown: map[string]string{}}
}

// add adds a file by its path below the directory.
func (n *treeNode) add(rest, shown string, size int64) {
	n.files++
	name, below, isDir := strings.Cut(rest, "/")
	if !isDir {
		n.names = append(n.names, name)
		n.sizes[name], n.shown[name] = size, shown
		return
	}
	if n.child[name] == nil {
		n.names = append(n.names, name)
		n.child[name] = newTreeNode()
	}
	n.child[name].add(below, shown, size)
}

func (n *treeNode) dirs() int {
	count := len(n.child)
	for _, child := range n.child {
		count += child.dirs()
	}
	return count
}

// lines appends the lines of the directory to those of the directories above.
func (n *treeNode) lines(to []string, indent string, depth int) []string {
	for _, name := range n.names {
		child := n.child[name]
		switch {
		case child == nil:
			to = append(to, indent+n.shown[name]+"  "+sizeText(n.sizes[name]))
		case depth == 1:
			to = append(to, fmt.Sprintf("%s%s/ (%s)", indent, cleanText(name), countNoun(child.files, "file")))
		default:
			to = child.lines(append(to, indent+cleanText(name)+"/"), indent+"  ", depth-1)
		}
	}
	return to
}

// listDirectory lists the entries of one directory.
func listDirectory(ctx context.Context, c *mcpCall, at mcpPath, limit int) (*mcpAnswer, error) {
	var list struct {
		Entries []struct {
			Name       string `json:"name"`
			NameBase64 string `json:"name_base64"`
			Type       string `json:"type"`
			Size       int64  `json:"size"`
			Mode       string `json:"mode"`
			Target     string `json:"target"`
		} `json:"entries"`
		NextCursor *string `json:"next_cursor"`
	}
	params := struct {
		mcpPath
		Limit int `json:"limit"`
	}{at, limit}
	if err := c.ask(ctx, "fs/listDir", params, &list); err != nil {
		return nil, err
	}
	var lines []string
	for _, entry := range list.Entries {
		line := listedName(at, entry.Name, entry.NameBase64)
		switch entry.Type {
		case "dir":
			line += "/"
		case "symlink":
			line += " -> " + cmp.Or(cleanText(entry.Target), "(outside)")
		case "file":
			line += "  " + sizeText(entry.Size)
		default:
			line += "  " + entry.Type
		}
		lines = append(lines, line)
	}
	fit := fitLines(lines, mcpTextBudget-mcpHeadRoom)
	head := fmt.Sprintf("[%s: %s, all of this directory", at.shown(), countNoun(len(lines), "entry"))
	if list.NextCursor != nil || fit < len(lines) {
		head = fmt.Sprintf("[%s: the first %s; use find_files with include for the others", at.shown(), countNoun(fit, "entry"))
	}
	return textAnswer(joinText(head+"]", lines[:fit])), nil
}

// filesParams are the params of fs/glob and index/manifest.
type filesParams struct {
	mcpPath
	Commit  string   `json:"commit,omitempty"`
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	Limit   int      `json:"limit"`
	Cursor  *string  `json:"cursor,omitempty"`
}

// filesPage is a result of fs/glob or index/manifest.
type filesPage struct {
	Commit     *string     `json:"commit"`
	Files      []fileFound `json:"files"`
	NextCursor *string     `json:"next_cursor"`
	Skipped    int         `json:"skipped"`
}

type fileFound struct {
	Path       string `json:"path"`
	PathBase64 string `json:"path_base64"`
	Size       int64  `json:"size"`
}

type findFilesArgs struct {
	Path    string   `json:"path" doc:"absolute path of a directory"`
	Include []string `json:"include,omitempty" doc:"git globs, such as **/*.go; default: all files"`
	Exclude []string `json:"exclude,omitempty" doc:"git globs to leave out"`
	Commit  string   `json:"commit,omitempty" doc:"branch, tag or commit to list instead of the files on disk"`
	Limit   *int     `json:"limit,omitempty" doc:"files, up to 10000; default 200"`
	Cursor  *string  `json:"cursor,omitempty" doc:"from the first line of the page before, with the same arguments"`
}

func runFindFiles(ctx context.Context, c *mcpCall, args findFilesArgs) (*mcpAnswer, error) {
	limit, err := limitArgument("limit", args.Limit, findDefault, findMost)
	if err != nil {
		return nil, err
	}
	at, method := newMCPPath(args.Path), "fs/glob"
	if args.Commit != "" {
		method = "index/manifest"
	}
	var found filesPage
	page, err := fetchPage(limit, func(limit int) (mcpPage, error) {
		found = filesPage{}
		err := c.ask(ctx, method, filesParams{mcpPath: at, Commit: args.Commit, Include: args.Include, Exclude: args.Exclude, Limit: limit, Cursor: args.Cursor}, &found)
		page := mcpPage{next: found.NextCursor}
		for _, file := range found.Files {
			page.lines = append(page.lines, fmt.Sprintf("%s  %d", listedName(at, file.Path, file.PathBase64), file.Size))
		}
		return page, err
	})
	if err != nil {
		return nil, err
	}
	where := at.shown()
	if found.Commit != nil {
		where += " at " + shortOID(*found.Commit)
	}
	if len(page.lines) == 0 {
		return textAnswer("[no file in " + where + " matches" + ignoredNote(args.Commit) + "]"), nil
	}
	return textAnswer(joinText(fmt.Sprintf("[%s in %s, path and bytes; %s%s]", countNoun(len(page.lines), "file"), where, page.continuation(), skippedText(found.Skipped)), page.lines)), nil
}

// ignoredNote says where else a file may be.
func ignoredNote(commit string) string {
	if commit != "" {
		return ""
	}
	return "; files that git ignores are left out, tree with all lists them"
}

type searchArgs struct {
	Path         string   `json:"path" doc:"absolute path of a directory"`
	Pattern      string   `json:"pattern" doc:"text to find in one line"`
	Regexp       bool     `json:"regexp,omitempty" doc:"pattern is a POSIX extended regular expression: [0-9] for \\d, no (?...)"`
	IgnoreCase   bool     `json:"ignore_case,omitempty"`
	Include      []string `json:"include,omitempty" doc:"git globs, such as **/*.go"`
	Exclude      []string `json:"exclude,omitempty" doc:"git globs to leave out"`
	ContextLines *int     `json:"context_lines,omitempty" doc:"lines around each match, up to 20; default 0"`
	Limit        *int     `json:"limit,omitempty" doc:"matching lines, up to 1000; default 100"`
}

func runSearch(ctx context.Context, c *mcpCall, args searchArgs) (*mcpAnswer, error) {
	limit, err := limitArgument("limit", args.Limit, searchDefault, searchMost)
	if err != nil {
		return nil, err
	}
	around := valueOr(args.ContextLines, 0)
	if around < 0 || around > searchContext {
		return nil, badArgument("context_lines must be 0 to %d, not %d", searchContext, around)
	}
	at := newMCPPath(args.Path)
	var found struct {
		Matches   []searchFound `json:"matches"`
		Truncated bool          `json:"truncated"`
		Skipped   int           `json:"skipped"`
	}
	params := struct {
		mcpPath
		Pattern       string   `json:"pattern"`
		Regexp        bool     `json:"regexp,omitempty"`
		CaseSensitive bool     `json:"case_sensitive"`
		Include       []string `json:"include,omitempty"`
		Exclude       []string `json:"exclude,omitempty"`
		ContextLines  int      `json:"context_lines"`
		Limit         int      `json:"limit"`
	}{at, args.Pattern, args.Regexp, !args.IgnoreCase, args.Include, args.Exclude, around, limit}
	if err := c.ask(ctx, "fs/search", params, &found); err != nil {
		return nil, err
	}
	if len(found.Matches) == 0 {
		kind := "text"
		if args.Regexp {
			kind = "regular expression"
		}
		return textAnswer(fmt.Sprintf("[no line in %s has this %s%s%s]", at.shown(), kind, ignoredNote(""), skippedText(found.Skipped))), nil
	}
	var lines []string
	shown, files, room := 0, 0, mcpTextBudget-mcpHeadRoom
	last := ""
	for i, match := range found.Matches {
		more := match.lines(listedName(at, match.Path, match.PathBase64))
		if i > 0 && around > 0 {
			more = append([]string{"--"}, more...)
		}
		if fitLines(more, room) < len(more) {
			if shown > 0 {
				break
			}
			more = more[:fitLines(more, room)]
		}
		for _, line := range more {
			room -= len(line) + 1
		}
		lines = append(lines, more...)
		shown++
		if match.Path != last {
			files, last = files+1, match.Path
		}
	}
	head := fmt.Sprintf("[%s in %s of %s", countNoun(shown, "match"), countNoun(files, "file"), at.shown())
	if found.Truncated || shown < len(found.Matches) {
		head += "; there are more: narrow path, include or pattern"
	}
	return textAnswer(joinText(head+skippedText(found.Skipped)+"]", lines)), nil
}

type searchFound struct {
	Path       string   `json:"path"`
	PathBase64 string   `json:"path_base64"`
	Line       int      `json:"line"`
	Text       string   `json:"text"`
	Before     []string `json:"before"`
	After      []string `json:"after"`
}

// lines returns the match as grep prints it.
func (m *searchFound) lines(name string) []string {
	var lines []string
	show := func(number int, mark, text string) {
		lines = append(lines, fmt.Sprintf("%s%s%d%s %s", name, mark, number, mark, cutText(strings.TrimRight(text, "\r\n"), searchLine)))
	}
	for i, text := range m.Before {
		show(m.Line-len(m.Before)+i, "-", text)
	}
	show(m.Line, ":", m.Text)
	for i, text := range m.After {
		show(m.Line+1+i, "-", text)
	}
	return slices.Clip(lines)
}
