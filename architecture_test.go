package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A flat package has no import graph. The tests in this file build a graph of
// its files and compare it with the map in ARCHITECTURE.md.

// layerRules returns, for each layer, the layers that its files may use. The
// layers of the two programs never use each other.
func layerRules() map[string][]string {
	ground := []string{"0 ground"}
	protocol := append(slices.Clone(ground), "1 protocol")
	serving := append(slices.Clone(protocol), "2 daemon")
	pooling := append(slices.Clone(protocol), "3 scheduler")
	return map[string][]string{
		"0 ground":           ground,
		"1 protocol":         protocol,
		"2 daemon":           serving,
		"3 scheduler":        pooling,
		"4 wiring":           append(slices.Clone(protocol), "4 wiring"),
		"4 daemon wiring":    append(slices.Clone(serving), "4 wiring", "4 daemon wiring"),
		"4 scheduler wiring": append(slices.Clone(pooling), "4 wiring", "4 scheduler wiring"),
		"5 main":             append(slices.Clone(protocol), "4 wiring", "4 daemon wiring", "4 scheduler wiring"),
	}
}

// TestArchitectureMap fails for a file that is not in the map, for a row
// without a file, and for a file that uses a name of a layer that it may not
// use.
func TestArchitectureMap(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	files := packageFiles(t)
	for _, fault := range mapFaults(string(text), files) {
		t.Error(fault)
	}
}

// mapFaults compares the files with the tables "The map" and "Exceptions" of a
// document. A row of the map names files, or patterns such as `pool*.go`. The
// most specific row for a file counts.
func mapFaults(document string, files map[string]*ast.File) []string {
	rules := layerRules()
	var faults []string
	layers, layer := map[string]string{}, "" // by pattern
	for _, row := range tableAfter(document, "## The map") {
		if row[0] != "" {
			layer = row[0]
		}
		if rules[layer] == nil {
			faults = append(faults, fmt.Sprintf("the map has an unknown layer %q", layer))
		}
		for _, pattern := range cellList(row[1]) {
			if layers[pattern] != "" {
				faults = append(faults, pattern+" is in the map twice")
			}
			layers[pattern] = layer
		}
	}
	layerOf, used := map[string]string{}, map[string]bool{}
	for name := range files {
		if pattern := mostSpecific(slices.Sorted(maps.Keys(layers)), name); pattern != "" {
			layerOf[name], used[pattern] = layers[pattern], true
		}
	}
	for _, pattern := range slices.Sorted(maps.Keys(layers)) {
		if !used[pattern] {
			faults = append(faults, pattern+" is in the map but has no file of its own")
		}
	}
	excused := map[string]bool{} // "file name", true once it was needed
	for _, row := range tableAfter(document, "## Exceptions") {
		for _, user := range cellList(row[2]) {
			for _, name := range cellList(row[0]) {
				excused[user+" "+name] = false
			}
		}
	}
	for _, user := range slices.Sorted(maps.Keys(files)) {
		if layerOf[user] == "" {
			faults = append(faults, user+" is not in the map")
			continue
		}
		uses := usesOf(files, user)
		for _, used := range slices.Sorted(maps.Keys(uses)) {
			if layerOf[used] == "" || slices.Contains(rules[layerOf[user]], layerOf[used]) {
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(uses[used])) {
				if key := user + " " + name; excused[key] {
					continue
				} else if _, ok := excused[key]; ok {
					excused[key] = true
					continue
				}
				faults = append(faults, fmt.Sprintf("%s (%s) uses %s of %s (%s)", user, layerOf[user], name, used, layerOf[used]))
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(excused)) {
		if !excused[key] {
			faults = append(faults, "the exception is not needed: "+key)
		}
	}
	return faults
}

// mostSpecific returns the pattern that matches the name with the most literal
// characters, or "" if no pattern matches. A name without * is more specific than
// any pattern that matches it.
func mostSpecific(patterns []string, name string) string {
	best, most := "", -1
	for _, pattern := range patterns {
		if ok, err := filepath.Match(pattern, name); err != nil || !ok {
			continue
		}
		literal := len(strings.ReplaceAll(pattern, "*", ""))
		if pattern == name {
			literal++ // more specific than "name*.go"
		}
		if literal > most {
			best, most = pattern, literal
		}
	}
	return best
}

// TestArchitectureCalls fails if a restricted call is made in a file that the
// table does not name, or no longer made in a file that it names.
func TestArchitectureCalls(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	files := packageFiles(t)
	rows := tableAfter(string(text), "## Restricted calls")
	if len(rows) == 0 {
		t.Fatal("ARCHITECTURE.md has no table of restricted calls")
	}
	for _, row := range rows {
		for _, call := range cellList(row[0]) {
			want, got := cellList(row[1]), callers(files, call)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s is called in %q, want %q as in the table", call, got, want)
			}
		}
	}
}

// callers returns the files that use pkg.Name, sorted.
func callers(files map[string]*ast.File, call string) []string {
	pkg, name, _ := strings.Cut(call, ".")
	var found []string
	for file, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == name {
				if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil && id.Name == pkg && !slices.Contains(found, file) {
					found = append(found, file)
				}
			}
			return true
		})
	}
	slices.Sort(found)
	return found
}

// cellList returns the names in a cell: `a`, `b`.
func cellList(cell string) []string {
	var names []string
	for name := range strings.SplitSeq(cell, ", ") {
		names = append(names, strings.Trim(name, "`"))
	}
	return names
}

// tableAfter returns the cells of the first Markdown table after a heading,
// without its two header lines.
func tableAfter(document, heading string) [][]string {
	_, rest, ok := strings.Cut(document, "\n"+heading+"\n")
	if !ok {
		return nil
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 || strings.HasPrefix(line, "## ") {
				break
			}
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	return rows[min(len(rows), 2):]
}

// packageFiles parses all files of the package, for all systems and both
// programs, except its tests.
func packageFiles(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("finding the package's files: %v, %v", names, err)
	}
	files, set := map[string]*ast.File{}, token.NewFileSet()
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	return files
}

// TestArchitectureMapFaults checks that every fault that TestArchitectureMap
// looks for is found in a small package.
func TestArchitectureMapFaults(t *testing.T) {
	const head = "\n## The map\n\n| layer | file | owns |\n|---|---|---|\n"
	const sound = head + "| 0 ground | `g.go` | a |\n| 2 daemon | `d.go`, `e.go` | b |\n| 3 scheduler | `s.go` | c |\n"
	ground := "func ground() {}; type thing struct { next *thing }; func (t *thing) grow() {}"
	for name, tc := range map[string]struct{ document, ground, daemon, scheduler, want string }{
		"sound":             {sound, ground, "func d() { ground() }", "func s() { ground(); d := 1; _ = d }", ""},
		"missing file":      {head + "| 0 ground | `g.go` |\n| 2 daemon | `d.go`, `e.go` |\n", ground, "", "", "s.go is not in the map"},
		"row without file":  {sound + "| | `x.go` | d |\n", ground, "", "", "x.go is in the map but has no file of its own"},
		"twice":             {sound + "| | `s.go` | d |\n", ground, "", "", "s.go is in the map twice"},
		"unknown layer":     {sound + "| 6 roof | | d |\n", ground, "", "", `the map has an unknown layer "6 roof"`},
		"pattern":           {head + "| 0 ground | `g*.go` |\n| 2 daemon | `d*.go`, `e.go` |\n| 3 scheduler | `s*.go` |\n", ground, "func d() { ground() }", "", ""},
		"specific row wins": {head + "| 0 ground | `g.go` |\n| 2 daemon | `*.go` |\n| 3 scheduler | `s*.go` |\n", ground, "func d() {}", "func s() { d() }", "s.go (3 scheduler) uses d of d.go (2 daemon)"},
		"idle pattern":      {sound + "| | `d*.go` |\n", ground, "", "", "d*.go is in the map but has no file of its own"},
		"function upwards":  {sound, "func g() { d() }", "func d() {}", "", "g.go (0 ground) uses d of d.go (2 daemon)"},
		"type upwards":      {sound, "type g struct{ of d }", "type d int", "", "g.go (0 ground) uses d of d.go (2 daemon)"},
		"constant across":   {sound, ground, "const limit = 1", "var _ = limit", "s.go (3 scheduler) uses limit of d.go (2 daemon)"},
		"across, backwards": {sound, ground, "func d() { s() }", "func s() {}", "d.go (2 daemon) uses s of s.go (3 scheduler)"},
		"method across":     {sound, ground, "func (t *thing) eat() {}", "func s(t *thing) { t.next.eat() }", "s.go (3 scheduler) uses thing.eat of d.go (2 daemon)"},
		"method of a value": {sound, ground + "; func newThing() *thing { return &thing{} }", "func (t *thing) eat() {}", "func s() { t := newThing(); t.eat() }", "s.go (3 scheduler) uses thing.eat of d.go (2 daemon)"},
		"excused":           {sound + "\n## Exceptions\n\n| a | b | c | d |\n|-|-|-|-|\n| `limit` | `d.go` | `s.go` | why |\n", ground, "const limit = 1", "var _ = limit", ""},
		"idle exception":    {sound + "\n## Exceptions\n\n| a | b | c | d |\n|-|-|-|-|\n| `limit` | `d.go` | `s.go` | why |\n", ground, "", "", "the exception is not needed: s.go limit"},
	} {
		t.Run(name, func(t *testing.T) {
			files, set := map[string]*ast.File{}, token.NewFileSet()
			for file, source := range map[string]string{"g.go": tc.ground, "d.go": tc.daemon, "e.go": "", "s.go": tc.scheduler} {
				f, err := parser.ParseFile(set, file, "package p; "+source, 0)
				if err != nil {
					t.Fatal(err)
				}
				files[file] = f
			}
			if got := strings.Join(mapFaults(tc.document, files), "\n"); !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
