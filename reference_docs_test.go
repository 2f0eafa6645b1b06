package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestSecurityNamesTests checks that the tests which SECURITY.md names exist, and
// that none of its rows is without one.
func TestSecurityNamesTests(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	for _, name := range globFiles(t, "*_test.go") {
		sources.WriteString(readText(t, name))
	}
	page := readText(t, "SECURITY.md")
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(page, -1)
	if len(names) < 50 {
		t.Errorf("SECURITY.md names %d tests, want over 50: the pattern does not find them", len(names))
	}
	for _, name := range names {
		if !strings.Contains(sources.String(), "func "+name[1]+"(") {
			t.Errorf("SECURITY.md names %s, want a test that exists", name[1])
		}
	}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| |") && !strings.Contains(line, "`Test") {
			t.Errorf("no test proves this row of SECURITY.md: %s", line)
		}
	}
}

// TestTroubleshootingQuotesMessages checks that the messages and codes in the first
// column of docs/troubleshooting.md are those of the programs.
func TestTroubleshootingQuotesMessages(t *testing.T) {
	t.Parallel()
	var texts strings.Builder
	for _, name := range globFiles(t, "*.go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					texts.WriteString(text + "\n")
				}
			}
			return true
		})
	}
	quoted := 0
	for line := range strings.Lines(readText(t, "docs/troubleshooting.md")) {
		row := regexp.MustCompile("^\\| `([^`]+)` \\|").FindStringSubmatch(line)
		if row == nil || row[1] == "reason" {
			continue
		}
		quoted++
		for part := range strings.SplitSeq(row[1], "…") {
			if part = strings.TrimSpace(part); part != "" && !strings.Contains(texts.String(), part) {
				t.Errorf("docs/troubleshooting.md quotes %q, which no program prints", part)
			}
		}
	}
	if quoted < 25 {
		t.Errorf("%d messages found, want over 25: the pattern does not find them", quoted)
	}
}
