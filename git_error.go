package main

import (
	"cmp"
	"strings"
)

// gitReason is why git failed (data.reason).
type gitReason string

const (
	gitAuth      gitReason = "auth"
	gitForbidden gitReason = "forbidden"
	gitNotFound  gitReason = "not_found"
	gitMoved     gitReason = "moved"
	gitNetwork   gitReason = "network"
	gitTimeout   gitReason = "timeout"
	gitDiskFull  gitReason = "disk_full"
	gitTooLarge  gitReason = "too_large"
	gitCorrupt   gitReason = "corrupt"
	gitOther     gitReason = "other"
)

// gitError is git's no. Its texts are redacted.
type gitError struct {
	command string
	exit    int    // -1 when a signal ended it
	stderr  string // the end of it
	reason  gitReason
	summary string // one line for people
}

func (e *gitError) Error() string { return "git " + e.command + ": " + e.summary }

// rpc is the error as the caller gets it.
func (e *gitError) rpc() *rpcError {
	return failure(codeGitFailed, "%s", e.Error()).with("exit_code", e.exit).with("stderr", e.stderr).with("reason", e.reason)
}

// gitFailure is a failure of a git operation that no exit status told.
func gitFailure(reason gitReason, format string, args ...any) *rpcError {
	return failure(codeGitFailed, format, args...).with("exit_code", -1).with("stderr", "").with("reason", reason)
}

// sshFailed is git's word for a connection over ssh that failed. The lines before
// it, ssh's or the host's, say why.
const sshFailed = "fatal: Could not read from remote repository."

// classifyGit reads the reason from git's English standard error. The first
// that fits counts; a server's own words ("remote: …") never do.
func classifyGit(stderr string) gitReason {
	var own strings.Builder
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "remote: ") {
			own.WriteString(line)
		}
	}
	text := own.String()
	for _, class := range []struct {
		reason gitReason
		signs  []string
	}{
		{gitDiskFull, []string{"No space left on device", "Disk quota exceeded"}},
		{gitTooLarge, []string{"File too large"}},
		{gitAuth, []string{"Authentication failed", "could not read Username", "could not read Password", "Permission denied (", "Too many authentication failures", "error: 401", hostKeyRefused}},
		{gitForbidden, []string{"error: 403"}},
		{gitMoved, []string{"error: 301", "error: 302", "error: 303", "error: 307", "error: 308"}},
		{gitNotFound, []string{"error: 404", "not found", "does not appear to be a git repository", "couldn't find remote ref", "not our ref", "unadvertised object"}},
		{gitTimeout, []string{"Operation too slow", "timed out", "Timeout"}},
		{gitNetwork, []string{sshFailed, "Could not resolve", "Couldn't resolve", "Failed to connect", "Couldn't connect", "Connection ", "unable to access", "early EOF", "RPC failed", "hung up", "unexpected disconnect", "the remote end"}},
		{gitCorrupt, []string{"not a git repository", "index file", "unable to read", "bad object", "Could not read", "is corrupt", "fsck", "invalid index-pack output", "bad signature", "loose object", "inflate", "error: object", "broken"}},
	} {
		for _, sign := range class.signs {
			if strings.Contains(text, sign) {
				return class.reason
			}
		}
	}
	return gitOther
}

// hostKeyRefused is what ssh says of a host whose key is unknown or has changed.
const hostKeyRefused = "Host key verification failed"

// summarizeGit is the first fatal or error line of stderr, at most 500 bytes.
func summarizeGit(stderr string) string {
	summary := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		words := strings.Trim(strings.TrimPrefix(line, "remote:"), " =") // hosts frame what they say
		switch {
		case line == sshFailed && summary != "":
			return cutSummary(summary)
		case strings.HasPrefix(line, "fatal: "), strings.HasPrefix(line, "error: "), strings.HasPrefix(words, "ERROR: "):
			return cutSummary(line)
		case words != "":
			summary = line
		}
	}
	return cutSummary(cmp.Or(summary, "failed without a word"))
}

func cutSummary(line string) string {
	const most = 500
	return strings.ToValidUTF8(line[:min(len(line), most)], "")
}
