package main

// newMCPTools returns the tools. Names have only letters, digits and underscores,
// and descriptions are short: some clients drop all tools of a server for one that
// breaks their rules, and others cut what is long.
func newMCPTools() []*mcpTool {
	reads := mcpReads{ReadOnly: true}
	return []*mcpTool{
		newMCPTool("overview", "Start here: the allowed directories and the git repositories in them. With the path of a repository: its branch, changes, remotes, last commit, branches and tags.",
			reads, []string{"config/get"}, runOverview),
		newMCPTool("tree", "Show the files below a directory as a tree with sizes. Deeper directories are one line with their number of files. Files that git ignores are left out; all lists them in one directory.",
			reads, []string{"fs/glob"}, runTree),
		newMCPTool("find_files", "Find files by git globs, such as include [\"**/*_test.go\"], on disk or in a commit. Files that git ignores are left out. Long lists continue with cursor.",
			reads, []string{"fs/glob"}, runFindFiles),
		newMCPTool("search", "Search the contents of files below a directory, like git grep. Use it to find where something is defined or used. Ignored and binary files are left out. Answers are path:line: text.",
			reads, []string{"fs/search"}, runSearch),
		newMCPTool("read_file", "Read a text file by lines, with line numbers, on disk or as it was in a commit, branch or tag. Long files continue with start_line; tail shows the end. Images are shown.",
			reads, []string{"fs/readFile"}, runReadFile),
		newMCPTool("git_log", "List commits, newest first. With file it shows who changed a file and when; full shows whole messages. For who wrote each line use call_method with vcs/blame.",
			reads, []string{"vcs/log"}, runGitLog),
		newMCPTool("git_diff", "Show what changed between two commits, or between a commit and the files on disk: a line of counts for each file, then the patches. Use stat first when there may be much.",
			reads, []string{"vcs/diff"}, runGitDiff),
		newMCPTool("clone_repo", "Clone a git repository, or update one that was cloned before, and return its path. A clone has one branch or tag: for another give ref and a new name. Depth 0 fetches all history. A long clone answers how far it is: call again with the same arguments.",
			mcpHints{Idempotent: true, OpenWorld: true}, []string{"vcs/clone"}, runCloneRepo).needs(rightClone),
		newMCPTool("call_method", "Call any method of the daemon and return its JSON: vcs/blame (path, file, start_line, lines), vcs/refs, fs/stat, or one that the machine's owner added. A wrong call answers with the method's params. Never pass a token: it would stay in this conversation.",
			mcpHints{Destructive: true, OpenWorld: true}, nil, runCallMethod).needs(rightCall),
	}
}
