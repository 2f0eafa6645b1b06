package main

import (
	"bytes"
	"errors"
	"strings"
	"sync"
)

const (
	// maxGitOutput bounds what is kept of a command's standard output; more
	// must be streamed.
	maxGitOutput = 32 << 20
	// maxGitStderr is the end of git's standard error that goes into an error
	// (REFERENCE.md).
	maxGitStderr = 4 << 10
	// maxGitLine bounds one line of standard error: a server can send one
	// without end.
	maxGitLine = 64 << 10
	// maxSecretText is more than the longest credential has in any of its forms:
	// so much of a line that was cut may be the beginning of one.
	maxSecretText = 16 << 10
)

var errGitOutput = errors.New("git's output is too long")

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// cappedBuffer keeps up to maxGitOutput bytes and refuses more.
type cappedBuffer struct {
	bytes.Buffer
	full bool
}

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxGitOutput {
		b.full = true
		return 0, errGitOutput
	}
	return b.Buffer.Write(p)
}

// lineWriter cuts standard error into lines at CR or LF, hands each on and
// keeps the end of what is no progress.
type lineWriter struct {
	each   func(string)
	redact *redactor

	mu      sync.Mutex
	partial []byte
	kept    []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range p {
		if c == '\r' || c == '\n' {
			w.line()
		} else if len(w.partial) < maxGitLine {
			w.partial = append(w.partial, c)
		}
	}
	return len(p), nil
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line()
}

func (w *lineWriter) line() {
	text := w.redact.text(string(w.partial))
	if len(w.partial) == maxGitLine {
		text = text[:max(len(text)-maxSecretText, 0)]
	}
	w.partial = w.partial[:0]
	// Again: without what cleaning takes out of it a text may be a secret. The
	// blanks at the end are cut last: one may belong to a secret.
	text = strings.TrimRight(w.redact.text(cleanText(text)), " ")
	if text == "" {
		return
	}
	if w.each != nil {
		w.each(text)
	}
	if isProgressLine(text) {
		return
	}
	w.kept = append(append(w.kept, text...), '\n')
	if extra := len(w.kept) - maxGitStderr; extra > 0 {
		w.kept = w.kept[extra:]
	}
}

func (w *lineWriter) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.ToValidUTF8(string(w.kept), "")
}

// isProgressLine tells a counter ("…: 12% (49/402)") from a message.
func isProgressLine(s string) bool {
	if strings.HasPrefix(s, "remote: Enumerating objects: ") {
		return true
	}
	_, ok := parseGitProgress(s)
	return ok
}
