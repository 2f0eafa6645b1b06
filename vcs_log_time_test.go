package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// commitDated adds an empty commit with a date as it stands in the object, which
// need not be one that git would write.
func (r *testRepo) commitDated(message, date string) {
	r.t.Helper()
	parent := ""
	if head, err := r.tryGit("", "rev-parse", "-q", "--verify", "HEAD"); err == nil {
		parent = "parent " + head
	}
	tree := strings.TrimSpace(r.output("", "mktree"))
	text := fmt.Sprintf("tree %s\n%sauthor A <a@b> %s\ncommitter C <c@d> %s\n\n%s\n", tree, parent, date, date, message)
	r.git("update-ref", "HEAD", strings.TrimSpace(r.output(text, "hash-object", "-t", "commit", "-w", "--literally", "--stdin")))
}

// Each commit is held against since and until by itself, in any year.
func TestLogSinceAndUntilOfAnyYear(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, nil)
	// The clock is wrong in the middle: five years too early, then far too late.
	for _, c := range [][2]string{
		{"a", "0 +0000"},            // 1970-01-01
		{"b", "86399 +0000"},        // the same day
		{"c", "1577880000 +0000"},   // 2020-01-01T12:00:00Z
		{"d", "1420113600 +0000"},   // 2015-01-01T12:00:00Z
		{"e", "4102444799 +0000"},   // 2099-12-31T23:59:59Z
		{"f", "5680324800 +0000"},   // 2150-01-01T12:00:00Z
		{"g", "1609502400 +0000"},   // 2021-01-01T12:00:00Z
		{"h", "316517347200 +0000"}, // 12000
		{"i", "no date at all"},     // 1970 for git
		{"j", "1641038400.5 +0000"}, // not a date
		{"k", "1640995199 +0100"},   // 2021-12-31T23:59:59Z
		{"l", "1641038400 +0000"},   // 2022-01-01T12:00:00Z
	} {
		r.commitDated(c[0], c[1])
	}
	g := newTestGitReader(t, dir)
	for _, c := range []struct{ since, until, want string }{
		{"", "", "lkjihgfedcba"},
		{"1960-01-01T00:00:00Z", "", "lkjihgfedcba"},
		{"1970-01-01T00:00:00Z", "", "lkjihgfedcba"},
		{"1970-01-01T00:00:01Z", "", "lkhgfedcb"},
		{"2020-01-01T12:00:00Z", "", "lkhgfec"},
		{"2020-01-01T12:00:00.5Z", "", "lkhgfe"},
		{"2020-01-01T13:00:01+01:00", "", "lkhgfe"},
		{"2149-06-01T00:00:00Z", "", "hf"},
		{"9999-12-31T23:59:59Z", "", "h"},
		{"", "2150-01-01T00:00:00Z", "lkjigedcba"},
		{"", "2150-01-01T12:00:00Z", "lkjigfedcba"},
		{"", "9999-12-31T23:59:59Z", "lkjigfedcba"},
		{"", "1970-01-01T23:59:59Z", "jiba"},
		{"", "1969-12-31T23:59:59Z", ""},
		{"", "0000-01-01T00:00:00Z", ""},
		{"2015-01-01T00:00:00Z", "2021-12-31T23:59:59Z", "kgdc"},
		{"2023-01-01T00:00:00Z", "2022-01-01T00:00:00Z", ""},
	} {
		for _, limit := range []int{1, 5, 100} {
			p := logParams{pathParam: at(dir), Limit: &limit}
			if c.since != "" {
				p.Since = &c.since
			}
			if c.until != "" {
				p.Until = &c.until
			}
			var got strings.Builder
			for _, commit := range allCommits(t, g, p) {
				got.WriteString(commit.Subject)
			}
			if got.String() != c.want {
				t.Errorf("since %q until %q, pages of %d: got %q, want %q", c.since, c.until, limit, got.String(), c.want)
			}
		}
	}
}

// vcs/info, vcs/log and fs/repoScan show the same time of a commit.
func TestOddCommitTimesAgreeInAllMethods(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	for n, c := range [][2]string{
		{"1714979289 +0200", "2024-05-06T07:08:09Z"},
		{"0 +0000", "1970-01-01T00:00:00Z"},
		{"253402300799 +0000", "9999-12-31T23:59:59Z"},
		{"253402300800 +0000", "9999-12-31T23:59:59Z"},
		{"316517347200 +0000", "9999-12-31T23:59:59Z"},
		{"9223372036854775807 +0000", "9999-12-31T23:59:59Z"},
		{"99999999999999999999999 +0000", "9999-12-31T23:59:59Z"},
		{"-315619200 +0000", "1970-01-01T00:00:00Z"},
		{"-1 +0000", "1970-01-01T00:00:00Z"},
		{"1714979289", "1970-01-01T00:00:00Z"},
		{"", "1970-01-01T00:00:00Z"},
		{"yesterday +0000", "1970-01-01T00:00:00Z"},
		{"  1714979289   -0000", "2024-05-06T07:08:09Z"},
	} {
		date, want := c[0], c[1]
		r := newTestRepoAt(t, filepath.Join(dir, fmt.Sprint(n)), nil)
		r.commitDated("odd", date)
		g := newTestGitReader(t, dir)
		info, err := g.info(t.Context(), infoParams{at(r.dir)})
		if err != nil {
			t.Fatal(err)
		}
		log, err := g.history(t.Context(), logParams{pathParam: at(r.dir)})
		if err != nil {
			t.Fatal(err)
		}
		scan, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{Paths: []string{r.dir}})
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(info.LastCommit.Committer.At, " ", info.LastCommit.Author.At, " ", log.Commits[0].Committer.At, " ", valueOr(scan.Repos[0].LastCommitAt, "null"))
		if all := fmt.Sprint(want, " ", want, " ", want, " ", want); got != all {
			t.Errorf("date %q: got %s, want %s", date, got, all)
		}
	}
}
