package main

import (
	"go/ast"
	"go/token"
	"slices"
)

// fileGraph records which file of a package declares which name. It only knows
// the types that are written in declarations. Where it cannot determine a type,
// it omits the use.
type fileGraph struct {
	files   map[string][]string          // by name, or Type.method: the files that declare it
	methods map[string][]string          // by method name: the types that have it
	fields  map[string]map[string]string // by struct type and field: the field's type
	results map[string]string            // by function, or Type.method: the type of the first result
	others  map[string]bool              // names of fields and of interfaces' methods
}

// usesOf returns the names that one file uses of each other file.
func usesOf(files map[string]*ast.File, user string) map[string]map[string]bool {
	g := newFileGraph(files)
	uses := map[string]map[string]bool{}
	use := func(name string) {
		declaring := g.files[name]
		if slices.Contains(declaring, user) {
			return
		}
		for _, file := range declaring {
			if uses[file] == nil {
				uses[file] = map[string]bool{}
			}
			uses[file][name] = true
		}
	}
	f := files[user]
	for _, id := range f.Unresolved {
		use(id.Name)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			use(g.methodOf(sel))
		}
		return true
	})
	return uses
}

func newFileGraph(files map[string]*ast.File) *fileGraph {
	g := &fileGraph{
		files: map[string][]string{}, methods: map[string][]string{},
		fields: map[string]map[string]string{}, results: map[string]string{}, others: map[string]bool{},
	}
	for name, f := range files {
		for _, d := range f.Decls {
			g.declare(name, d)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			var list *ast.FieldList
			switch n := n.(type) {
			case *ast.StructType:
				list = n.Fields
			case *ast.InterfaceType:
				list = n.Methods
			default:
				return true
			}
			for _, field := range list.List {
				for _, id := range field.Names {
					g.others[id.Name] = true
				}
			}
			return true
		})
	}
	return g
}

func (g *fileGraph) declare(file string, d ast.Decl) {
	add := func(name string) { g.files[name] = append(g.files[name], file) }
	switch d := d.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil {
			receiver := typeName(d.Recv.List[0].Type)
			if !slices.Contains(g.methods[name], receiver) {
				g.methods[name] = append(g.methods[name], receiver)
			}
			name = receiver + "." + name
		}
		add(name)
		if d.Type.Results != nil {
			g.results[name] = typeName(d.Type.Results.List[0].Type)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, id := range spec.Names {
					add(id.Name)
				}
			case *ast.TypeSpec:
				add(spec.Name.Name)
				if s, ok := spec.Type.(*ast.StructType); ok {
					fields := map[string]string{}
					for _, field := range s.Fields.List {
						for _, id := range field.Names {
							fields[id.Name] = typeName(field.Type)
						}
						if len(field.Names) == 0 { // embedded
							fields[typeName(field.Type)] = typeName(field.Type)
						}
					}
					g.fields[spec.Name.Name] = fields
				}
			}
		}
	}
}

// methodOf returns the method that x.sel refers to as Type.method, or "" if it
// is not a method of the package or cannot be determined. If the type of x is
// unknown, a name counts as a method when only one type has such a method and
// no field or interface has that name.
func (g *fileGraph) methodOf(sel *ast.SelectorExpr) string {
	name := sel.Sel.Name
	types := g.methods[name]
	if of := g.typeOf(sel.X); of != "" && slices.Contains(types, of) {
		return of + "." + name
	}
	if len(types) == 1 && !g.others[name] && !ast.IsExported(name) {
		return types[0] + "." + name
	}
	return ""
}

// typeOf returns the name of the type of an expression if the package declares
// it, otherwise "".
func (g *fileGraph) typeOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return g.typeOf(e.X)
	case *ast.StarExpr:
		return g.typeOf(e.X)
	case *ast.UnaryExpr:
		if e.Op == token.AND {
			return g.typeOf(e.X)
		}
	case *ast.CompositeLit:
		return typeName(e.Type)
	case *ast.CallExpr:
		switch fun := e.Fun.(type) {
		case *ast.Ident:
			return g.results[fun.Name]
		case *ast.SelectorExpr:
			return g.results[g.methodOf(fun)]
		}
	case *ast.SelectorExpr:
		return g.fields[g.typeOf(e.X)][e.Sel.Name]
	case *ast.Ident:
		if e.Obj == nil {
			return ""
		}
		switch d := e.Obj.Decl.(type) {
		case *ast.Field: // a parameter, a receiver or a result
			return typeName(d.Type)
		case *ast.ValueSpec:
			return typeName(d.Type)
		case *ast.AssignStmt:
			for i, left := range d.Lhs {
				id, ok := left.(*ast.Ident)
				if !ok || id.Name != e.Name {
					continue
				}
				if i < len(d.Rhs) && (i == 0 || len(d.Lhs) == len(d.Rhs)) {
					return g.typeOf(d.Rhs[i])
				}
			}
		}
	}
	return ""
}

// typeName returns the name in T or *T, and "" for any other type.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr: // a generic type
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
