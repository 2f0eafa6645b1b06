package main

import "slices"

// errorMeaning is when an error of that name is answered.
type errorMeaning struct {
	code errorCode
	when string
}

// errorMeanings are all named errors of the link, by number.
func errorMeanings() []errorMeaning {
	return []errorMeaning{
		{codeAccessDenied, "the path lies outside the allowed directories, whether it exists or not, or is a secret of the daemon"},
		{codeRepoNotFound, "the path is in no git repository"},
		{codeSourceNotFound, "no such file, directory or object"},
		{codeCommitNotFound, "no such branch, tag or commit"},
		{codeCommitNotAvailable, "the commit is known but beyond the depth of a shallow repository"},
		{codeGitFailed, "git said no: data has exit_code, stderr (its last 4 KiB, without secrets) and reason"},
		{codeServerBusy, "too many requests wait: ask again after data.retry_after_ms"},
		{codeTimeout, "the request took longer than its time limit"},
		{codeResultTooLarge, "the result, of data.bytes, does not fit in a message: ask for less at once"},
		{codeNotConfigured, "the method needs something that was not given at start, such as --work-dir"},
		{codeConflict, "what a cursor lists has changed, or the task_id is in use for something else"},
		{codeDaemonOffline, "from the server: the machine is not connected"},
		{codeAutoStartFailed, "from the server: the library's daemon did not start"},
		{codeCapacity, "from the server: as many daemons as allowed are busy"},
		{codeDraining, "the daemon is about to stop and has started nothing: ask for it anew"},
		{codeCancelled, "the request was cancelled"},
	}
}

// ownMeanings are the errors of JSON-RPC itself (its section 5.1).
func ownMeanings() map[int]string {
	return map[int]string{
		codeParseError:     "the message is not JSON in UTF-8",
		codeInvalidRequest: "the message is no request, its id is in use, or a batch is empty or too long",
		codeMethodNotFound: "there is no such method",
		codeInvalidParams:  "a parameter is missing or wrong: data.param names it",
		codeInternal:       "the daemon failed: its log has the cause",
	}
}

// errorCodes are the named errors that the method may answer with.
func (m *method) errorCodes() []errorCode {
	codes := []errorCode{codeResultTooLarge, codeDraining}
	if !m.inline {
		codes = append(codes, codeServerBusy, codeTimeout, codeConflict, codeCancelled)
	}
	for _, code := range m.errors {
		if !slices.Contains(codes, code) {
			codes = append(codes, code)
		}
	}
	return codes
}
