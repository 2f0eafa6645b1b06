package main

import "strings"

// checkPattern rejects what other dialects of regular expressions have and
// POSIX extended ones do not: git would search for something else, and silently
// find nothing. It returns an error that says what to write instead.
func checkPattern(pattern string) error {
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '[':
			end := bracketEnd(pattern, i)
			if err := checkBracket(pattern[i:end]); err != nil {
				return err
			}
			// [/\] is a slash or a backslash, but a further ] was meant to be inside.
			further, _, _ := strings.Cut(pattern[end:], "[")
			if strings.HasSuffix(pattern[i:end], `\]`) && !strings.HasSuffix(pattern[i:end], `\\]`) && strings.Contains(further, "]") {
				return invalidParam("pattern", `\] ends […] in POSIX extended regular expressions: write ] as the first character there, such as []x]`)
			}
			i = end - 1
		case c == '\\' && i+1 < len(pattern):
			i++
			if err := checkEscape(pattern[i]); err != nil {
				return err
			}
		case strings.HasPrefix(pattern[i:], "(?"):
			return invalidParam("pattern", "(? is not part of POSIX extended regular expressions: write (…) for a group and case_sensitive: false for (?i); there is no lookahead or lookbehind")
		}
	}
	return nil
}

// checkEscape checks the character behind a backslash outside brackets. The GNU
// extensions and back references work with git.
func checkEscape(c byte) error {
	if instead := perlClass(c); instead != "" && !strings.ContainsRune("sSwW", rune(c)) {
		return noEscape(c, "["+instead+"]")
	}
	switch c {
	case 'b', 'B', 'w', 'W', 's', 'S', '<', '>':
		return nil
	case 'A':
		return noEscape(c, "^")
	case 'z', 'Z':
		return noEscape(c, "$")
	case 't':
		return noEscape(c, "the tab itself")
	case 'n', 'r', 'R':
		return noEscape(c, "[[:space:]]$ for a carriage return at the end of a line; a pattern matches within one line")
	case 'p', 'P':
		return noEscape(c, "a class such as [[:alpha:]] or [^[:alpha:]]")
	case 'Q', 'E':
		return noEscape(c, "regexp: false for a fixed string")
	}
	if isASCIILetter(c) || c == '0' {
		return noEscape(c, "the character itself")
	}
	return nil
}

// checkBracket checks a bracket expression, in which a backslash is an ordinary
// character.
func checkBracket(text string) error {
	for i := 1; i+1 < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		i++
		if instead := perlClass(text[i]); instead != "" {
			if strings.HasPrefix(instead, "^") {
				return invalidParam("pattern", `\%c has no meaning inside […] in POSIX extended regular expressions: write the characters themselves`, text[i])
			}
			return invalidParam("pattern", `\%c has no meaning inside […] in POSIX extended regular expressions: write %s there`, text[i], instead)
		}
		if strings.IndexByte("tnrfvxup", text[i]) >= 0 {
			return invalidParam("pattern", `\%c has no meaning inside […] in POSIX extended regular expressions: write the character itself`, text[i])
		}
	}
	return nil
}

// perlClass returns the inside of the bracket expression that has the meaning of
// a Perl class, or "".
func perlClass(c byte) string {
	switch c {
	case 'd':
		return "0-9"
	case 'D':
		return "^0-9"
	case 'w':
		return "[:alnum:]_"
	case 'W':
		return "^[:alnum:]_"
	case 's':
		return "[:space:]"
	case 'S':
		return "^[:space:]"
	case 'h':
		return "[:blank:]"
	}
	return ""
}

func noEscape(c byte, instead string) error {
	return invalidParam("pattern", `\%c is not part of POSIX extended regular expressions: write %s`, c, instead)
}

func isASCIILetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// bracketEnd returns the position behind the bracket expression that starts at
// start, or the length of the pattern if the expression is not closed.
func bracketEnd(pattern string, start int) int {
	i := start + 1
	if i < len(pattern) && pattern[i] == '^' {
		i++
	}
	if i < len(pattern) && pattern[i] == ']' {
		i++ // the first ] is an ordinary character
	}
	for i < len(pattern) {
		if pattern[i] == ']' {
			return i + 1
		}
		if pattern[i] == '[' && i+1 < len(pattern) && strings.IndexByte(":.=", pattern[i+1]) >= 0 {
			if end := strings.Index(pattern[i+2:], pattern[i+1:i+2]+"]"); end >= 0 {
				i += 2 + end + 2
				continue
			}
		}
		i++
	}
	return len(pattern)
}
