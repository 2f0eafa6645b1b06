package main

import (
	"bytes"
	"fmt"
	"strconv"
)

// maxGrepField bounds a path and a number in git's output.
const maxGrepField = 64 << 10

// grepHit is one line that git grep found.
type grepHit struct {
	path         string
	line, column int
	text         string // the start of the line, at most maxSearchText bytes
}

// grepParser reads the output of `git grep -z -n --column`, piece by piece:
// for each matching line its path, number and column, each ended by a NUL, and
// the line itself, ended by a newline. A path may hold a newline, a line of a
// text may hold a NUL far behind its start.
type grepParser struct {
	each func(grepHit) error // its error ends the reading

	hit   grepHit
	field int    // 0 path, 1 line, 2 column, 3 text
	part  []byte // of the field, as far as it came
	err   error
}

func (g *grepParser) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && g.err == nil {
		end := byte(0)
		if g.field == 3 {
			end = '\n'
		}
		i := bytes.IndexByte(p, end)
		piece, rest := p, []byte(nil)
		if i >= 0 {
			piece, rest = p[:i], p[i+1:]
		}
		switch {
		case g.field == 3:
			g.part = append(g.part, piece[:min(len(piece), maxSearchText-len(g.part))]...)
		case len(g.part)+len(piece) > maxGrepField:
			g.err = fmt.Errorf("reading git grep: a name of over %d bytes", maxGrepField)
			return 0, g.err
		default:
			g.part = append(g.part, piece...)
		}
		if i >= 0 {
			g.err = g.end(string(g.part))
			g.part = g.part[:0]
		}
		p = rest
	}
	if g.err != nil {
		return 0, g.err
	}
	return n, nil
}

// end takes a whole field.
func (g *grepParser) end(field string) error {
	switch g.field {
	case 0:
		g.hit = grepHit{path: field}
	case 1, 2:
		number, err := strconv.Atoi(field)
		if err != nil || number < 1 {
			return fmt.Errorf("reading git grep: %.40q is no line or column", field)
		}
		if g.field == 1 {
			g.hit.line = number
		} else {
			g.hit.column = number
		}
	case 3:
		g.hit.text = field
		g.field = 0
		return g.each(g.hit)
	}
	g.field++
	return nil
}
