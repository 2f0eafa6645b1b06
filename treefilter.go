package main

import (
	"bytes"
	"strings"
)

// treeFilter is what include and exclude say.
type treeFilter struct {
	include, exclude globs
	prune            globs // match directories of which exclude matches all that is inside
}

func newTreeFilter(include, exclude []string) (*treeFilter, error) {
	f := &treeFilter{}
	var err error
	if f.include, err = compileGlobs("include", include); err != nil {
		return nil, err
	}
	if f.exclude, err = compileGlobs("exclude", exclude); err != nil {
		return nil, err
	}
	f.prune = pruneGlobs(f.exclude)
	return f, nil
}

// pruneGlobs makes the patterns that match a directory when all that is inside
// it is excluded: a literal one, and "x/**" without its end.
func pruneGlobs(exclude globs) globs {
	var prune globs
	for _, p := range exclude {
		if dir, ok := strings.CutSuffix(p.text, "/**"); ok {
			prune = append(prune, parsePattern(dir))
		} else if !p.wild {
			prune = append(prune, p)
		}
	}
	return prune
}

// file tells whether a path is wanted.
func (f *treeFilter) file(path string) bool {
	return (len(f.include) == 0 || f.include.match(path)) && !f.exclude.match(path)
}

// entry is file for an entry of a tree object: never a name of the daemon's own
// files, which a commit may hold by mistake. Most trees have no such names, so
// it looks for the dot first.
func (f *treeFilter) entry(path []byte) bool {
	dotted := path[0] == '.' || bytes.Contains(path, []byte("/."))
	if len(f.include) == 0 && len(f.exclude) == 0 && !dotted {
		return true
	}
	name := string(path)
	return f.file(name) && !(dotted && hasSecretName(name))
}

// dir tells whether wanted files can lie in a directory.
func (f *treeFilter) dir(path string) bool {
	if f.prune.match(path) {
		return false
	}
	path += "/"
	for _, p := range f.include {
		fixed := p.text
		if p.wild {
			fixed = p.prefix
		}
		if strings.HasPrefix(path, fixed) || strings.HasPrefix(fixed, path) {
			return true
		}
	}
	return len(f.include) == 0
}

// pathspecs are the filter in git's own words.
func (f *treeFilter) pathspecs() []string {
	var specs []string
	for _, p := range f.include {
		specs = append(specs, ":(glob)"+p.text)
	}
	for _, p := range f.exclude {
		specs = append(specs, ":(exclude,glob)"+p.text)
	}
	return append(specs, ":(exclude,glob,icase)**/"+secretPrefix+"*")
}
