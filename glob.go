package main

// Placeholder until glob.go of the inspection lands: path.Match, without "**".

import "path"

type globs []string

func compileGlobs(name string, patterns []string) (globs, error) {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return nil, invalidParam(name, "bad glob")
		}
	}
	return patterns, nil
}

func (g globs) match(s string) bool {
	for _, p := range g {
		if ok, _ := path.Match(p, s); ok {
			return true
		}
	}
	return false
}
