package main

import "unicode/utf8"

// jsonAppender is implemented by the few results that hold tens of thousands of
// objects: for those, encoding by reflection would take as long as the work
// itself. appendJSON appends exactly the bytes that encoding/json would write
// without HTML escapes.
type jsonAppender interface {
	appendJSON(to []byte) []byte
	// jsonSize estimates the number of bytes that appendJSON appends. A buffer
	// that grows step by step would copy its content each time.
	jsonSize() int
}

// appendJSONString appends s as a JSON string.
func appendJSONString(to []byte, s string) []byte {
	const hex = "0123456789abcdef"
	to = append(to, '"')
	begin := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			to = append(to, s[begin:i]...)
			switch c {
			case '"', '\\':
				to = append(to, '\\', c)
			case '\n':
				to = append(to, '\\', 'n')
			case '\r':
				to = append(to, '\\', 'r')
			case '\t':
				to = append(to, '\\', 't')
			case '\b':
				to = append(to, '\\', 'b')
			case '\f':
				to = append(to, '\\', 'f')
			default:
				to = append(to, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			begin = i
			continue
		}
		r, width := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && width == 1:
			to = append(append(to, s[begin:i]...), `\ufffd`...)
		case r == '\u2028' || r == '\u2029': // not allowed in JavaScript strings before ES2019
			to = append(append(to, s[begin:i]...), '\\', 'u', '2', '0', '2', hex[r&15])
		default:
			i += width
			continue
		}
		i += width
		begin = i
	}
	return append(append(to, s[begin:]...), '"')
}

func appendOptionalString(to []byte, s *string) []byte {
	if s == nil {
		return append(to, "null"...)
	}
	return appendJSONString(to, *s)
}
