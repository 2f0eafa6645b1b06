package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file has git_log, git_diff and call_method.

const (
	logDefault, logMost = 20, 50
	// logBody bounds the message of a commit.
	logBody = 2000
	// rawBudget bounds the JSON of call_method. It cannot be cut, and more would
	// fill the context of a model.
	rawBudget = 40_000
)

type gitLogArgs struct {
	Path   string  `json:"path" doc:"absolute path of a repository"`
	Ref    string  `json:"ref,omitempty" doc:"branch, tag or commit; default HEAD"`
	File   string  `json:"file,omitempty" doc:"only commits that change this file or directory, relative to path"`
	Author string  `json:"author,omitempty" doc:"part of a name or address"`
	Since  string  `json:"since,omitempty" doc:"day or RFC 3339 time"`
	Until  string  `json:"until,omitempty" doc:"day or RFC 3339 time"`
	Full   bool    `json:"full,omitempty" doc:"show whole messages and parents"`
	Limit  *int    `json:"limit,omitempty" doc:"commits, up to 50; default 20"`
	Cursor *string `json:"cursor,omitempty" doc:"from the first line of the page before, with the same arguments"`
}

func runGitLog(ctx context.Context, c *mcpCall, args gitLogArgs) (*mcpAnswer, error) {
	limit, err := limitArgument("limit", args.Limit, logDefault, logMost)
	if err != nil {
		return nil, err
	}
	at := newMCPPath(args.Path)
	page, err := fetchPage(limit, func(limit int) (mcpPage, error) {
		params := struct {
			mcpPath
			Ref    string  `json:"ref,omitempty"`
			File   string  `json:"file,omitempty"`
			Author string  `json:"author,omitempty"`
			Since  string  `json:"since,omitempty"`
			Until  string  `json:"until,omitempty"`
			Limit  int     `json:"limit"`
			Cursor *string `json:"cursor,omitempty"`
		}{at, args.Ref, args.File, args.Author, dayTime(args.Since, "T00:00:00Z"), dayTime(args.Until, "T23:59:59Z"), limit, args.Cursor}
		var log struct {
			Commits    []mcpCommit `json:"commits"`
			NextCursor *string     `json:"next_cursor"`
		}
		err := c.ask(ctx, "vcs/log", params, &log)
		page := mcpPage{next: log.NextCursor}
		for _, commit := range log.Commits {
			line := commit.line()
			if args.Full {
				line = commit.full()
			}
			page.lines = append(page.lines, line)
		}
		return page, err
	})
	if err != nil {
		return nil, err
	}
	head := "[" + countNoun(len(page.lines), "commit") + " of " + at.shown()
	if args.File != "" {
		head += " that change " + cutText(cleanText(args.File), mcpShownPath/2)
	}
	return textAnswer(joinText(head+", newest first; "+page.continuation()+"]", page.lines)), nil
}

// dayTime makes an RFC 3339 time of a day.
func dayTime(text, clock string) string {
	if _, err := time.Parse(time.DateOnly, text); err != nil {
		return text // a time, or the daemon says what is wrong
	}
	return text + clock
}

// full returns the commit with its message.
func (c *mcpCommit) full() string {
	text := fmt.Sprintf("commit %s\nauthor %s <%s> %s\n", c.OID, cleanText(c.Author.Name), cleanText(c.Author.Email), c.Author.At)
	if len(c.Parents) > 0 {
		text += "parents " + strings.Join(c.Parents[:min(len(c.Parents), 20)], " ") + "\n"
	}
	return text + "    " + strings.ReplaceAll(cutText(strings.TrimSpace(c.Subject+"\n\n"+c.Body), logBody), "\n", "\n    ")
}

type gitDiffArgs struct {
	Path     string   `json:"path" doc:"absolute path of a repository"`
	From     string   `json:"from,omitempty" doc:"branch, tag or commit; default HEAD"`
	To       string   `json:"to,omitempty" doc:"branch, tag or commit; default: the files on disk"`
	Files    []string `json:"files,omitempty" doc:"only these files or directories, relative to path"`
	Stat     bool     `json:"stat,omitempty" doc:"counts of lines only, no patches"`
	MaxBytes *int     `json:"max_bytes,omitempty" doc:"bytes of text, 2000 to 1048576; default 16000"`
	Cursor   *string  `json:"cursor,omitempty" doc:"from the first line of the page before, with the same arguments"`
}

const (
	// diffMost bounds max_bytes, the default of vcs/diff.
	diffMost = 1 << 20
	// statFactor is how much larger a file is in the daemon's count than its line.
	statFactor = 4
)

// diffFile is a file in the result of vcs/diff.
type diffFile struct {
	Path          string  `json:"path"`
	PathBase64    string  `json:"path_base64"`
	OldPath       string  `json:"old_path"`
	OldPathBase64 string  `json:"old_path_base64"`
	Status        string  `json:"status"`
	Additions     *int    `json:"additions"`
	Deletions     *int    `json:"deletions"`
	IsBinary      bool    `json:"is_binary"`
	Patch         *string `json:"patch"`
	TooLarge      bool    `json:"too_large"`
}

func runGitDiff(ctx context.Context, c *mcpCall, args gitDiffArgs) (*mcpAnswer, error) {
	budget := valueOr(args.MaxBytes, mcpTextBudget)
	if budget < mcpMinBudget || budget > diffMost {
		return nil, badArgument("max_bytes must be %d to %d, not %d", mcpMinBudget, diffMost, budget)
	}
	at := newMCPPath(args.Path)
	var diff struct {
		From       *string    `json:"from"`
		To         *string    `json:"to"`
		Files      []diffFile `json:"files"`
		NextCursor *string    `json:"next_cursor"`
	}
	// The daemon counts a file with its patch and some more, and without a patch the
	// line of a file is shorter than that: ask for less until the text fits, so that
	// the cursor continues behind what is shown.
	bytes := budget - mcpHeadRoom
	if args.Stat {
		bytes *= statFactor
	}
	var counts, patches []string
	for {
		diff.Files, diff.NextCursor = nil, nil
		params := struct {
			mcpPath
			From     string   `json:"from,omitempty"`
			To       string   `json:"to,omitempty"`
			Files    []string `json:"files,omitempty"`
			Stat     bool     `json:"stat,omitempty"`
			MaxBytes int      `json:"max_bytes"`
			Cursor   *string  `json:"cursor,omitempty"`
		}{at, args.From, args.To, args.Files, args.Stat, bytes, args.Cursor}
		if err := c.ask(ctx, "vcs/diff", params, &diff); err != nil {
			return nil, err
		}
		counts, patches = diffLines(diff.Files)
		room := budget - mcpHeadRoom
		if diff.NextCursor != nil {
			room -= len(*diff.NextCursor)
		}
		all := slices.Concat(counts, patches)
		if fitLines(all, room) == len(all) {
			break
		}
		if bytes < mcpHeadRoom {
			// One file whose patch does not fit beside its own line, or very many names.
			patches = nil
			counts = counts[:fitLines(counts, room)]
			break
		}
		bytes /= 2
	}
	head := "[" + countNoun(len(diff.Files), "changed file") + " in " + at.shown() + ", " + revisionText(diff.From, "no commit") + " to " + revisionText(diff.To, "the files on disk")
	switch {
	case diff.NextCursor != nil:
		head += fmt.Sprintf("; continue with cursor %q", *diff.NextCursor)
	case len(counts) < len(diff.Files):
		head += "; not all are listed: use files"
	}
	return textAnswer(joinText(head+"]", append(counts, patches...))), nil
}

// revisionText shows a commit id, or what stands for none.
func revisionText(oid *string, none string) string {
	if oid == nil {
		return none
	}
	return shortOID(*oid)
}

// diffLines returns a line of counts for each file, and the patches.
func diffLines(files []diffFile) (counts, patches []string) {
	for _, f := range files {
		line := f.Status + " "
		if f.OldPath != "" {
			line += listedName(mcpPath{}, f.OldPath, f.OldPathBase64) + " -> "
		}
		line += listedName(mcpPath{}, f.Path, f.PathBase64)
		if f.Additions != nil && f.Deletions != nil && !f.IsBinary {
			line += fmt.Sprintf(" +%d -%d", *f.Additions, *f.Deletions)
		}
		switch {
		case f.IsBinary:
			line += " binary"
		case f.TooLarge:
			line += " (its patch alone is larger than max_bytes: raise it)"
		}
		counts = append(counts, line)
		if f.Patch != nil && *f.Patch != "" {
			patches = append(patches, strings.TrimSuffix(*f.Patch, "\n"))
		}
	}
	return counts, patches
}

type callMethodArgs struct {
	Method string          `json:"method" doc:"such as vcs/blame"`
	Params json.RawMessage `json:"params,omitempty" type:"object" doc:"params of the method by name; a wrong call answers with them"`
}

func runCallMethod(ctx context.Context, c *mcpCall, args callMethodArgs) (*mcpAnswer, error) {
	c.byMethod = true
	if len(args.Params) == 0 || isNull(args.Params) {
		args.Params = json.RawMessage("{}")
	}
	if args.Params[0] != '{' {
		return nil, badArgument("params must be an object. %s", c.methodUsage(args.Method))
	}
	if need := methodRight(args.Method); !c.target.caller.allows(need) {
		return nil, lacksRight(c.target.caller, "lacks the right "+need.String())
	}
	call, err := c.newRPC(args.Method, args.Params)
	if err != nil {
		return nil, badArgument("method: %v", err)
	}
	result, err := c.performWatched(ctx, call, c.target.find(), func(p progress) { c.report(p.Percent, cmp.Or(p.Message, p.Phase)) })
	if refusal, ok := err.(*rpcError); ok && (refusal.Code == codeInvalidParams || refusal.Code == codeMethodNotFound) {
		return nil, &rpcError{Code: refusal.Code, Message: refusal.Message + ". " + c.methodUsage(args.Method)}
	}
	if err != nil {
		return nil, err
	}
	if len(result) > rawBudget {
		return nil, failure(codeResultTooLarge, "the result has %d bytes, and at most %d are shown", len(result), rawBudget)
	}
	return textAnswer(string(result)), nil
}

// methodUsage names the parameters of a method, or the methods if there is no
// such method.
func (c *mcpCall) methodUsage(name string) string {
	if m := c.hub.methods[name]; m != nil {
		fields := dropIf(jsonFields(m.params), func(f *jsonField) bool { return strings.HasSuffix(f.name, "_base64") })
		return "Params of " + name + ": " + describeFields(fields) + "."
	}
	if slices.Contains(c.target.methods, name) {
		return shownText(name) + " was added with --handler: its params are those of its program."
	}
	names := c.target.methods
	if names == nil {
		for name := range c.hub.methods {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	return "Methods: " + cutText(strings.Join(names, ", "), mcpMaxError/2) + "."
}
