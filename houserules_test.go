package main

import (
	"bytes"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTwoModules fails if go.mod requires other modules than the two that the
// programs use.
func TestTwoModules(t *testing.T) {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^(?:require)?\s+([a-z0-9.-]+\.[a-z]+/\S+) v`).FindAllSubmatch(data, -1) {
		got = append(got, string(m[1]))
	}
	if want := []string{"github.com/coder/websocket", "golang.org/x/sys"}; !slices.Equal(got, want) {
		t.Errorf("go.mod requires %q, want %q", got, want)
	}
	for _, directive := range []string{"replace", "exclude", "tool", "toolchain"} {
		if regexp.MustCompile(`(?m)^` + directive + `\b`).Match(data) {
			t.Errorf("go.mod has a %s directive, want none", directive)
		}
	}
}

// TestSchedulerTag fails if a file other than main.go and scheduler_main.go
// depends on the build tag: apart from the main function both programs are
// compiled from the same code.
func TestSchedulerTag(t *testing.T) {
	mains := map[string]string{"main.go": "!scheduler", "scheduler_main.go": "scheduler"}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for line := range bytes.Lines(data) {
			if bytes.HasPrefix(line, []byte("package ")) {
				break
			}
			expr, err := constraint.Parse(strings.TrimSpace(string(line)))
			if err == nil && strings.Contains(expr.String(), "scheduler") {
				got = expr.String()
			}
		}
		if got != mains[name] {
			t.Errorf("%s has the build constraint %q, want %q", name, got, mains[name])
		}
		delete(mains, name)
	}
	for name := range mains {
		t.Errorf("%s is missing", name)
	}
}

// TestNoGlobals fails for func init and for package variables, except error
// sentinels, embedded files and interface checks.
func TestNoGlobals(t *testing.T) {
	for name, f := range packageFiles(t) {
		for _, fault := range globalsIn(f) {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

func globalsIn(f *ast.File) (faults []string) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				faults = append(faults, "func init")
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if !ok || d.Tok != token.VAR || isEmbedded(d.Doc) || isEmbedded(v.Doc) {
					continue
				}
				for i, name := range v.Names {
					if name.Name != "_" && (i >= len(v.Values) || !strings.HasPrefix(name.Name, "err") || !isErrorsNew(v.Values[i])) {
						faults = append(faults, "var "+name.Name)
					}
				}
			}
		}
	}
	return faults
}

func isEmbedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

func isErrorsNew(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "errors" && sel.Sel.Name == "New"
}

func TestGlobalsAreFound(t *testing.T) {
	const source = `package p
func init() {}
func (t) init() {}
var a int
var errB = fmt.Errorf("x")
var errC = errors.New("x")
//go:embed page.html
var page []byte
var _ handler = (*peer)(nil)
var ( d, errE = 1, errors.New("x") )
const f = 1
func g() { var h int }
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", source, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"func init", "var a", "var errB", "var d"}
	if got := globalsIn(f); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
