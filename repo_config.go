package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxConfigFile bounds a repository's configuration file; real ones have a
	// few KiB.
	maxConfigFile = 1 << 20
	// maxConfigSettings bounds the variables read from it.
	maxConfigSettings = 20_000
)

// gitSetting is one variable of a git configuration file. A variable without
// "=" has the value "true".
type gitSetting struct {
	section    string // lower case
	subsection string // as written; "" if there is none
	name       string // lower case
	value      string
}

// gitSettings are the variables of a file in their order. The last one of a
// name takes effect.
type gitSettings []gitSetting

// get returns the value of a variable.
func (s gitSettings) get(section, subsection, name string) (string, bool) {
	for _, v := range slices.Backward(s) {
		if v.section == section && v.subsection == subsection && v.name == name {
			return v.value, true
		}
	}
	return "", false
}

// isTrue reports whether a boolean variable is set and true (git-config(1),
// VALUES): a word, or a number other than zero.
func (s gitSettings) isTrue(section, name string) bool {
	value, _ := s.get(section, "", name)
	value = strings.ToLower(value)
	if n, err := strconv.ParseInt(strings.TrimRight(value, "kmg"), 0, 64); err == nil {
		return n != 0
	}
	return slices.Contains([]string{"true", "yes", "on"}, value)
}

// parseGitConfig parses the syntax of git-config(1). The file is untrusted
// data: includes are not followed and nothing takes effect. An error names the
// line, and the variables before it are returned as well.
func parseGitConfig(text string) (gitSettings, error) {
	p := configParser{text: strings.TrimPrefix(text, "\ufeff"), line: 1}
	var settings gitSettings
	section, subsection := "", ""
	for {
		p.skipBlank()
		if p.atEnd() {
			return settings, nil
		}
		if len(settings) == maxConfigSettings {
			return settings, p.errorf("more than %d variables", maxConfigSettings)
		}
		var err error
		if p.peek() == '[' {
			if section, subsection, err = p.header(); err != nil {
				return settings, err
			}
			continue
		}
		v := gitSetting{section: section, subsection: subsection}
		if v.name, v.value, err = p.variable(); err != nil {
			return settings, err
		}
		settings = append(settings, v)
	}
}

// configParser is a position in the text of a configuration file.
type configParser struct {
	text string
	pos  int
	line int
}

func (p *configParser) atEnd() bool { return p.pos >= len(p.text) }
func (p *configParser) peek() byte  { return p.text[p.pos] }

// next consumes and returns one byte, LF for CR LF; 0 at the end.
func (p *configParser) next() byte {
	if p.atEnd() {
		return 0
	}
	c := p.text[p.pos]
	p.pos++
	if c == '\r' && !p.atEnd() && p.peek() == '\n' {
		c = '\n'
		p.pos++
	}
	if c == '\n' {
		p.line++
	}
	return c
}

func (p *configParser) errorf(format string, args ...any) error {
	return fmt.Errorf("bad config line %d: %s", p.line, fmt.Sprintf(format, args...))
}

// skipBlank skips white space and comments.
func (p *configParser) skipBlank() {
	for !p.atEnd() {
		switch c := p.peek(); {
		case c == '#' || c == ';':
			for !p.atEnd() && p.peek() != '\n' {
				p.pos++
			}
		case isConfigSpace(c):
			p.next()
		default:
			return
		}
	}
}

// header parses [section], [section "subsection"] or the deprecated
// [section.sub], whose subsection is lower case.
func (p *configParser) header() (section, subsection string, err error) {
	p.next() // [
	start := p.pos
	for !p.atEnd() && (isConfigName(p.peek()) || p.peek() == '.') {
		p.pos++
	}
	section = strings.ToLower(p.text[start:p.pos])
	if section == "" {
		return "", "", p.errorf("the section has no name")
	}
	c := p.next()
	if c == ']' {
		section, subsection, _ = strings.Cut(section, ".")
		return section, subsection, nil
	}
	for c == ' ' || c == '\t' {
		c = p.next()
	}
	if c != '"' {
		return "", "", p.errorf("the section header is not closed")
	}
	var b strings.Builder
	for {
		switch c = p.next(); c {
		case 0, '\n':
			return "", "", p.errorf("the section header is not closed")
		case '"':
			if p.next() != ']' {
				return "", "", p.errorf("the section header is not closed")
			}
			// [a.b "c"] is the section a with the subsection b.c.
			section, first, dotted := strings.Cut(section, ".")
			if dotted {
				return section, first + "." + b.String(), nil
			}
			return section, b.String(), nil
		case '\\':
			if c = p.next(); c == 0 || c == '\n' {
				return "", "", p.errorf("the section header is not closed")
			}
		}
		b.WriteByte(c)
	}
}

// variable parses "name = value" or "name".
func (p *configParser) variable() (name, value string, err error) {
	start := p.pos
	for !p.atEnd() && isConfigName(p.peek()) {
		p.pos++
	}
	name = strings.ToLower(p.text[start:p.pos])
	if name == "" || name[0] < 'a' || name[0] > 'z' {
		return "", "", p.errorf("the variable has no name")
	}
	for !p.atEnd() && (p.peek() == ' ' || p.peek() == '\t') {
		p.pos++
	}
	switch p.next() {
	case 0, '\n':
		return name, "true", nil
	case '=':
		value, err = p.value()
		return name, value, err
	}
	return "", "", p.errorf("there is no = after %s", name)
}

// value parses a value up to the end of the line, with quotes, escapes and
// continued lines. Outside quotes, comments and white space at both ends are
// dropped.
func (p *configParser) value() (string, error) {
	var b strings.Builder
	quoted, comment := false, false
	keep := 0 // length without trailing white space
	for {
		c := p.next()
		switch {
		case c == '\n' || c == 0:
			if c == 0 && !p.atEnd() {
				return "", p.errorf("the value contains a NUL byte")
			}
			if quoted {
				return "", p.errorf("a quote is not closed")
			}
			return b.String()[:keep], nil
		case comment:
		case !quoted && isConfigSpace(c):
			if b.Len() > 0 {
				b.WriteByte(c)
			}
		case !quoted && (c == '#' || c == ';'):
			comment = true
		case c == '"':
			quoted = !quoted
			keep = b.Len()
		case c == '\\':
			switch c = p.next(); c {
			case '\n':
				continue
			case 't':
				c = '\t'
			case 'b':
				c = '\b'
			case 'n':
				c = '\n'
			case '\\', '"':
			default:
				return "", p.errorf("the value has an unknown escape")
			}
			b.WriteByte(c)
			keep = b.Len()
		default:
			b.WriteByte(c)
			keep = b.Len()
		}
	}
}

func isConfigSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func isConfigName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-'
}

// quoteConfig quotes a value for a configuration file. The value must not
// contain a NUL byte, which git cannot read.
func quoteConfig(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\b", `\b`).Replace(value) + `"`
}
