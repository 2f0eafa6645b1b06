package main

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
)

// pageText is the status page: one file that loads nothing.
//
//go:embed page.html
var pageText string

// statusPage serves the status page. It is open: it holds no data, and asks for the
// API token itself.
type statusPage struct{ policy string }

func newStatusPage() *statusPage { return &statusPage{policy: pagePolicy(pageText)} }

func (p *statusPage) register(a *api) { a.handleOpen("GET /{$}", p.serve) }

// GET /
func (p *statusPage) serve(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-cache")
	_ = send(w, []byte(pageText)) // the client may be gone
}

// pagePolicy returns the Content-Security-Policy of a page: only its own script and
// style run, known by their hashes, and it may only ask this server (Content Security
// Policy Level 3, section 2.3.1).
func pagePolicy(page string) string {
	return "default-src 'none'; script-src " + hashOf(page, "script") + "; style-src " + hashOf(page, "style") +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
}

// hashOf returns the hash of the content of the only element with a name.
func hashOf(page, name string) string {
	_, rest, _ := strings.Cut(page, "<"+name+">")
	content, _, _ := strings.Cut(rest, "</"+name+">")
	sum := sha256.Sum256([]byte(content))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
