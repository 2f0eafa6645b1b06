package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/bits"
	"unicode/utf8"
)

// maxNesting bounds how deep a value that scanEnvelope reads may be nested. The
// results of the methods have less than ten levels.
const maxNesting = 32

// scanEnvelope decodes a message in one pass that also checks that it is JSON and
// UTF-8, which costs a tenth of checking first and decoding then. It returns false
// for everything unusual, valid or not: names with escapes, deep nesting and every
// error. decodeEnvelope reads those, and has the same result for all others.
func scanEnvelope(data []byte) (m envelope, ok bool) {
	s := jsonScanner{data}
	at := s.space(0)
	if s.byteAt(at) != '{' {
		return m, false
	}
	end := s.object(at, 0, func(name, value []byte) { m.set(name, value) })
	if end < 0 || s.space(end) != len(data) {
		return envelope{}, false
	}
	return m.normal(), true
}

// isValidJSON is json.Valid, faster for everything usual.
func isValidJSON(data []byte) bool {
	s := jsonScanner{data}
	end := s.value(s.space(0), 0)
	return end >= 0 && s.space(end) == len(data) || json.Valid(data)
}

// plainString returns the text of a JSON string of ASCII characters without
// escapes, and false for any other value. The value must be valid JSON.
func plainString(value json.RawMessage) (text string, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	inner := value[1 : len(value)-1]
	for _, c := range inner {
		if c == '\\' || c >= utf8.RuneSelf {
			return "", false
		}
	}
	return string(inner), true
}

// jsonScanner checks JSON (RFC 8259) and the UTF-8 in it. Its methods take the index
// where something begins and return where it ends, or -1 where scanEnvelope returns
// false.
type jsonScanner struct{ data []byte }

// byteAt returns the byte at an index, 0 beyond the end.
func (s jsonScanner) byteAt(at int) byte {
	if at < len(s.data) {
		return s.data[at]
	}
	return 0
}

// space returns the index of the next byte that is not white space.
func (s jsonScanner) space(at int) int {
	for ; at < len(s.data); at++ {
		if c := s.data[at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			break
		}
	}
	return at
}

// value checks one value.
func (s jsonScanner) value(at, depth int) int {
	switch c := s.byteAt(at); {
	case c == '"':
		return s.str(at)
	case c == '{':
		return s.object(at, depth+1, nil)
	case c == '[':
		return s.array(at, depth+1)
	case c == '-' || c >= '0' && c <= '9':
		return s.number(at)
	case c == 't':
		return s.word(at, "true")
	case c == 'f':
		return s.word(at, "false")
	case c == 'n':
		return s.word(at, "null")
	}
	return -1
}

// object checks an object and calls each, unless nil, for its members. The name is
// without its quotes.
func (s jsonScanner) object(at, depth int, each func(name, value []byte)) int {
	if depth > maxNesting {
		return -1
	}
	at = s.space(at + 1)
	if s.byteAt(at) == '}' {
		return at + 1
	}
	for {
		if s.byteAt(at) != '"' {
			return -1
		}
		end := s.str(at)
		if end < 0 {
			return -1
		}
		name := s.data[at+1 : end-1]
		if at = s.space(end); s.byteAt(at) != ':' {
			return -1
		}
		at = s.space(at + 1)
		if end = s.value(at, depth); end < 0 {
			return -1
		}
		if each != nil {
			for _, c := range name {
				if c == '\\' {
					return -1
				}
			}
			each(name, s.data[at:end:end])
		}
		at = s.space(end)
		switch s.byteAt(at) {
		case ',':
			at = s.space(at + 1)
		case '}':
			return at + 1
		default:
			return -1
		}
	}
}

func (s jsonScanner) array(at, depth int) int {
	if depth > maxNesting {
		return -1
	}
	at = s.space(at + 1)
	if s.byteAt(at) == ']' {
		return at + 1
	}
	for {
		if at = s.value(at, depth); at < 0 {
			return -1
		}
		at = s.space(at)
		switch s.byteAt(at) {
		case ',':
			at = s.space(at + 1)
		case ']':
			return at + 1
		default:
			return -1
		}
	}
}

func (s jsonScanner) word(at int, want string) int {
	if end := at + len(want); end <= len(s.data) && string(s.data[at:end]) == want {
		return end
	}
	return -1
}

// number checks a number: RFC 8259, section 6.
func (s jsonScanner) number(at int) int {
	digits := func(at int) int {
		begin := at
		for c := s.byteAt(at); c >= '0' && c <= '9'; c = s.byteAt(at) {
			at++
		}
		if at == begin {
			return -1
		}
		return at
	}
	if s.byteAt(at) == '-' {
		at++
	}
	if s.byteAt(at) == '0' {
		at++ // no digit may follow
	} else {
		at = digits(at)
	}
	if at >= 0 && s.byteAt(at) == '.' {
		at = digits(at + 1)
	}
	if at >= 0 && s.byteAt(at)|0x20 == 'e' {
		if at++; s.byteAt(at) == '+' || s.byteAt(at) == '-' {
			at++
		}
		at = digits(at)
	}
	return at
}

// str checks a string that begins with the quote at the index. It reads eight bytes
// at a time, up to the next one that is not plain.
func (s jsonScanner) str(at int) int {
	const (
		ones = 0x0101010101010101
		high = 0x80 * ones
	)
	data := s.data
	at++
	for {
		for at+8 <= len(data) {
			w := binary.LittleEndian.Uint64(data[at:])
			// The high bit of each byte that is below a space, a quote, a backslash or
			// beyond ASCII. A subtraction may borrow from the next byte, but only above
			// such a byte, and only the first one counts.
			special := ((w - ' '*ones) | ((w ^ '"'*ones) - ones) | ((w ^ '\\'*ones) - ones) | w) & high
			if special != 0 {
				at += bits.TrailingZeros64(special) / 8
				break
			}
			at += 8
		}
		switch c := s.byteAt(at); {
		case c == '"':
			return at + 1
		case c == '\\':
			if at = s.escape(at); at < 0 {
				return -1
			}
		case c < ' ': // the end of the data, too
			return -1
		case c < utf8.RuneSelf:
			at++ // among the last eight bytes
		default:
			r, size := utf8.DecodeRune(data[at:])
			if r == utf8.RuneError && size == 1 {
				return -1
			}
			at += size
		}
	}
}

func (s jsonScanner) escape(at int) int {
	switch s.byteAt(at + 1) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return at + 2
	case 'u':
		for i := at + 2; i < at+6; i++ {
			if c := s.byteAt(i); (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return -1
			}
		}
		return at + 6
	}
	return -1
}

// request returns the method of a request or notification, or an error if the
// message is invalid.
func (m envelope) request() (method string, err error) {
	switch {
	case string(m.Version) != `"2.0"`:
		return "", errors.New(`"jsonrpc" must be "2.0"`)
	case m.Method == nil || m.Method[0] != '"':
		return "", errors.New(`"method" must be a string`)
	case m.ID != nil && !validID(m.ID):
		return "", errors.New(`"id" must be a string, a number or null`)
	}
	if text, ok := plainString(m.Method); ok {
		return text, nil
	}
	if decodeJSON(m.Method, &method) != nil {
		return "", errors.New(`"method" must be a string`)
	}
	return method, nil
}

// validID reports whether the id is of a kind that JSON-RPC allows. It must
// already be valid JSON.
func validID(id json.RawMessage) bool {
	return id[0] == '"' || id[0] == '-' || (id[0] >= '0' && id[0] <= '9') || string(id) == "null"
}
