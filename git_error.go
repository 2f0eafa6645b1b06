package main

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// gitReason classifies why git failed. It is data.reason of the error on the
// wire.
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

// gitError is a git command that failed. Its texts are redacted.
type gitError struct {
	command string
	exit    int    // -1 if a signal ended git
	stderr  string // last lines of standard error
	reason  gitReason
	summary string // one line for people
}

func (e *gitError) Error() string { return "git " + e.command + ": " + e.summary }

// rpc returns the error as the caller receives it.
func (e *gitError) rpc() *rpcError {
	return failure(codeGitFailed, "%s", e.Error()).with("exit_code", e.exit).with("stderr", e.stderr).with("reason", e.reason)
}

// gitFailure returns the error for a git operation that failed without an exit
// status of git.
func gitFailure(reason gitReason, format string, args ...any) *rpcError {
	return failure(codeGitFailed, format, args...).with("exit_code", -1).with("stderr", "").with("reason", reason)
}

// sshFailed is git's message for a failed ssh connection. The lines before it,
// written by ssh or the host, give the reason.
const sshFailed = "fatal: Could not read from remote repository."

// classifyGit derives the reason from git's English standard error. The first
// class with a matching sign is the result. Lines from the server ("remote: …")
// are ignored, because a server can write anything there, and so is its refusal,
// unless it is that something was not found.
func classifyGit(stderr string) gitReason {
	notFound := []string{"not found", "does not appear to be a git repository", noRemoteRef, "not our ref", "unadvertised object"}
	isNotFound := func(line string) bool {
		return slices.ContainsFunc(notFound, func(sign string) bool { return strings.Contains(line, sign) })
	}
	var own strings.Builder
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "remote: ") && (!strings.HasPrefix(line, remoteRefusal) || isNotFound(line)) {
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
		{statusReason(httpStatus(text)), []string{statusSign}},
		{gitAuth, []string{"Authentication failed", "could not read Username", "could not read Password", "Permission denied (", "Too many authentication failures", hostKeyRefused}},
		{gitOther, []string{noSSHUser}},
		{gitNotFound, notFound},
		{gitTimeout, []string{"Operation too slow", "timed out", "Timeout"}},
		{gitNetwork, []string{sshFailed, "Could not resolve", "Couldn't resolve", "Failed to connect", "Couldn't connect", "Connection ", "unable to access", "early EOF", "RPC failed", "hung up", "unexpected disconnect", "the remote end"}},
		{gitCorrupt, []string{"not a git repository", "index file", "unable to read", "unable to stream", "bad object", "Could not read", "is corrupt", "fsck", "invalid index-pack output", "bad signature", "loose object", "inflate", "error: object", "broken"}},
		{gitDiskFull, []string{"error: unable to write file "}}, // git checkout does not print the cause
	} {
		for _, sign := range class.signs {
			if strings.Contains(text, sign) {
				return class.reason
			}
		}
	}
	return gitOther
}

// statusSign precedes an HTTP status in curl's message (CURLE_HTTP_RETURNED_ERROR
// of libcurl-errors(3)).
const statusSign = "The requested URL returned error: "

// httpStatus returns the HTTP status in git's standard error, or 0.
func httpStatus(stderr string) int {
	_, rest, _ := strings.Cut(stderr, statusSign)
	status, err := strconv.Atoi(rest[:min(len(rest), 3)])
	if err != nil {
		return 0
	}
	return status
}

// statusReason returns the reason for a status with which a host refuses a
// request.
func statusReason(status int) gitReason {
	switch {
	case status == http.StatusUnauthorized:
		return gitAuth
	case status == http.StatusForbidden, status == http.StatusUnavailableForLegalReasons:
		return gitForbidden
	case status == http.StatusNotFound, status == http.StatusGone:
		return gitNotFound
	case status == http.StatusMovedPermanently, status == http.StatusFound, status == http.StatusSeeOther, status == http.StatusTemporaryRedirect, status == http.StatusPermanentRedirect:
		return gitMoved
	}
	return gitOther // the host was reached, and has a fault or is busy
}

// isTransient reports whether a request that was refused with the status may
// succeed later (RFC 9110, 15.5.9 and 15.6; RFC 6585, 4; RFC 8470, 5.2).
func isTransient(status int) bool {
	return status >= 500 || status == http.StatusRequestTimeout || status == http.StatusTooEarly || status == http.StatusTooManyRequests
}

// remoteRefusal precedes the message of a server that refuses a request
// (gitprotocol-pack(5), ERR).
const remoteRefusal = "fatal: remote error: "

// noRemoteRef is git's message for a ref that is not in the remote's list.
const noRemoteRef = "couldn't find remote ref"

// noSSHUser is ssh's message when its user is not in the password database.
const noSSHUser = "No user exists for uid "

// hostKeyRefused is ssh's message for a host whose key is unknown or has
// changed.
const hostKeyRefused = "Host key verification failed"

// summarizeGit returns the first fatal or error line of stderr, at most 500
// bytes.
func summarizeGit(stderr string) string {
	summary := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		words := strings.Trim(strings.TrimPrefix(line, "remote:"), " =") // hosts put frames around their messages
		switch {
		case line == sshFailed && summary != "":
			return cutSummary(summary)
		case strings.HasPrefix(line, "fatal: "), strings.HasPrefix(line, "error: "), strings.HasPrefix(words, "ERROR: "):
			return cutSummary(line)
		case words != "":
			summary = line
		}
	}
	return cutSummary(cmp.Or(summary, "failed without a message"))
}

func cutSummary(line string) string {
	const maxSummary = 500
	return strings.ToValidUTF8(line[:min(len(line), maxSummary)], "")
}
