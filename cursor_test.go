package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A cursor continues the listing that it came from and no other one: a changed
// listing is CONFLICT, and the cursor of another request is -32602. No page
// ever mixes two listings.
func TestCursorOfEveryPagedMethod(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a": "1", "b": "1", "sub/c": "1"})
	r.commit("second", map[string]string{"a": "2", "b": "2"})
	r.git("branch", "other")
	writeFiles(t, r.dir, map[string]string{"a": "edited", "b": "edited"})
	f, g := fsOn(t, dir), newTestGitReader(t, dir)
	methods := map[string]*method{}
	for _, m := range append(f.methods(), g.methods()...) {
		methods[m.name] = m
	}
	path := map[string]any{"path": r.dir}
	requests := []struct {
		method string
		params map[string]any
		other  map[string]any // the same method with other params
	}{
		{"fs/listDir", path, map[string]any{"path": dir}},
		{"fs/glob", path, map[string]any{"path": r.dir, "include": []string{"*"}}},
		{"fs/glob", map[string]any{"path": r.dir, "respect_gitignore": false}, path},
		{"index/manifest", path, map[string]any{"path": r.dir, "exclude": []string{"sub"}}},
		{"index/diff", map[string]any{"path": r.dir, "from": "HEAD~1"}, map[string]any{"path": r.dir, "from": "HEAD~1", "renames": false}},
		{"vcs/refs", path, map[string]any{"url": "file://" + r.dir}},
		{"vcs/refs", map[string]any{"url": "file://" + r.dir}, path},
		{"vcs/diff", path, map[string]any{"path": r.dir, "stat": true}},
		{"vcs/diff", map[string]any{"path": r.dir, "from": "HEAD~1", "to": "HEAD"}, map[string]any{"path": r.dir, "from": "HEAD~1"}},
		{"vcs/log", path, map[string]any{"path": r.dir, "author": "Ada"}},
	}
	ask := func(method string, params map[string]any, cursor string) (next string, err error) {
		t.Helper()
		all := map[string]any{"limit": 1, "max_bytes": 1} // each method takes one of them
		for key, value := range params {
			all[key] = value
		}
		if cursor != "" {
			all["cursor"] = cursor
		}
		data, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := methods[method].call(t.Context(), data)
		if err != nil {
			return "", err
		}
		var page struct {
			NextCursor *string `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(asJSON(t, answer)), &page); err != nil {
			t.Fatal(err)
		}
		return valueOr(page.NextCursor, ""), nil
	}
	cursors := make([]string, len(requests))
	for n, request := range requests {
		var err error
		if cursors[n], err = ask(request.method, request.params, ""); err != nil || cursors[n] == "" {
			t.Fatalf("%s: a page of one has the cursor %q, %v, want a cursor", request.method, cursors[n], err)
		}
	}
	for n, request := range requests {
		if _, err := ask(request.method, request.params, cursors[n]); err != nil {
			t.Errorf("%s with its own cursor: %v, want no error", request.method, err)
		}
		for m, foreign := range cursors {
			if m == n {
				continue
			}
			if _, err := ask(request.method, request.params, foreign); fsCode(err) != "param cursor" {
				t.Errorf("%s with the cursor of %s: %v, want invalid params for cursor", request.method, requests[m].method, err)
			}
		}
		_, err := ask(request.method, request.other, cursors[n])
		if code := fsCode(err); code != "param cursor" && (request.method != "fs/listDir" || code != string(codeConflict)) {
			t.Errorf("%s asked for something else: %v, want invalid params for cursor", request.method, err)
		}
	}
	r.commit("third", map[string]string{"a": "3", "d": "3"})
	r.git("branch", "third")
	for n, request := range requests {
		_, err := ask(request.method, request.params, cursors[n])
		if err == nil || asRPCError(err).name() != codeConflict {
			t.Errorf("%s after a change: %v, want %s", request.method, err, codeConflict)
		}
	}
	for _, m := range builtinMethods() {
		paged := slices.ContainsFunc(m.paramFields(), func(f jsonField) bool { return f.name == "cursor" })
		asked := false
		for _, request := range requests {
			asked = asked || request.method == m.name
		}
		if paged != asked {
			t.Errorf("%s: takes a cursor: %v, is in this test: %v, want both or neither", m.name, paged, asked)
		}
	}
	if next, err := ask("fs/listDir", path, strings.ToUpper(cursors[0])); err == nil {
		t.Errorf("a spoilt cursor led to %q, want an error", next)
	}
}

// A cursor of another version of the daemon is refused, for its fields may mean
// something else.
func TestCursorOfAnotherVersion(t *testing.T) {
	for version, accepted := range map[int]bool{cursorVersion - 1: false, cursorVersion: true, cursorVersion + 1: false} {
		given := pageCursor{Version: version, Request: "q", State: "s", At: 1}.text()
		_, err := readCursor(given, "q")
		if accepted && err != nil {
			t.Errorf("a cursor of version %d: %v, want no error", version, err)
		}
		if !accepted {
			wantInvalid(t, err, "cursor")
		}
	}
}

// Lists of strings differ where their parts do, whatever their text together is.
func TestFingerprintKeepsPartsApart(t *testing.T) {
	for _, lists := range [][2][]string{
		{{"ab", "c"}, {"a", "bc"}}, {{"a", ""}, {"", "a"}}, {{"a"}, {"a", ""}}, {{}, {""}},
	} {
		if got := fingerprint(lists[0]...); got == fingerprint(lists[1]...) {
			t.Errorf("fingerprint(%q) = fingerprint(%q) = %s, want two values", lists[0], lists[1], got)
		}
	}
}
