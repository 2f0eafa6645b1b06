package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"unicode/utf8"
)

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

// lentResult is implemented by results that hold a lent buffer.
type lentResult interface {
	// giveBack is called once, after the result was encoded.
	giveBack()
}

// jsonText is text in memory that is lent. Its JSON is a string, as of a Go
// string, but it is encoded where it lies.
type jsonText []byte

func (t jsonText) MarshalJSON() ([]byte, error) { return appendJSONText(nil, t), nil }

func (t *jsonText) UnmarshalJSON(data []byte) error {
	var s string
	err := decodeJSON(data, &s)
	*t = jsonText(s)
	return err
}

// appendJSONString appends s as a JSON string.
func appendJSONString(to []byte, s string) []byte { return appendJSONText(to, []byte(s)) } // the compiler makes no copy

// jsonEscapes holds, for each control character, the letter behind the backslash
// in a JSON string: u where it is written as a number.
const jsonEscapes = "uuuuuuuubtnufruuuuuuuuuuuuuuuuuu"

// appendJSONText appends text as a JSON string. It looks at eight bytes at a time
// and copies them before it knows how many of them may stay as they are.
func appendJSONText(to, text []byte) []byte {
	const (
		low, high = 0x0101010101010101, 0x8080808080808080
		room      = 16 // one word, and one escape
	)
	to = append(slices.Grow(to, len(text)+2*room), '"')
	for len(text) > 0 {
		if cap(to)-len(to) < room {
			to = slices.Grow(to, len(text)+len(text)/8+2*room)
		}
		dst := to[len(to):cap(to)]
		free := len(dst)
		for len(text) >= 8 && len(dst) >= room {
			word := binary.LittleEndian.Uint64(text)
			binary.LittleEndian.PutUint64(dst, word)
			// The high bit of a byte is set where it is below the space or a quote (which
			// changes places with the space when bit 1 is flipped), equals a backslash (a
			// zero byte borrows when 1 is subtracted), or is not ASCII. A borrow can only
			// mark a byte behind the first one that counts.
			special := (word | ((word ^ 2*low) - ('"'-1)*low) | ((word ^ '\\'*low) - low)) & high
			if special == 0 {
				text, dst = text[8:], dst[8:]
				continue
			}
			plain := bits.TrailingZeros64(special) / 8 & 7 // the compiler sees that it is below 8
			c := text[plain]
			letter := c
			if c < ' ' {
				letter = jsonEscapes[c]
			}
			if c >= utf8.RuneSelf || letter == 'u' {
				text, dst = text[plain:], dst[plain:]
				break
			}
			dst[plain], dst[plain+1] = '\\', letter
			text, dst = text[plain+1:], dst[plain+2:]
		}
		for len(text) > 0 && text[0] >= utf8.RuneSelf && len(dst) >= room {
			r, width := utf8.DecodeRune(text)
			n := width
			switch {
			case r == utf8.RuneError && width == 1:
				n = copy(dst, `\ufffd`)
			case r == '\u2028': // not allowed in JavaScript strings before ES2019
				n = copy(dst, `\u2028`)
			case r == '\u2029':
				n = copy(dst, `\u2029`)
			default:
				for i := range width {
					dst[i] = text[i]
				}
			}
			text, dst = text[width:], dst[n:]
		}
		// The byte that the words stopped at, and those behind the last word.
		for first := true; len(text) > 0 && text[0] < utf8.RuneSelf && len(dst) >= room && (first || len(text) < 8); first = false {
			n := putJSONByte(dst, text[0])
			text, dst = text[1:], dst[n:]
		}
		to = to[:len(to)+free-len(dst)]
	}
	return append(to, '"')
}

// putJSONByte writes an ASCII character of a JSON string to the start of to and
// returns how many bytes that takes, at most six.
func putJSONByte(to []byte, c byte) int {
	const hex = "0123456789abcdef"
	switch {
	case c == '"' || c == '\\':
		to[0], to[1] = '\\', c
	case c >= ' ':
		to[0] = c
		return 1
	case jsonEscapes[c] == 'u':
		copy(to, `\u00`)
		to[4], to[5] = hex[c>>4], hex[c&15]
		return 6
	default:
		to[0], to[1] = '\\', jsonEscapes[c]
	}
	return 2
}

func appendOptionalString(to []byte, s *string) []byte {
	if s == nil {
		return append(to, "null"...)
	}
	return appendJSONString(to, *s)
}

// encodeCall encodes a request, or a notification if id is nil.
func encodeCall(id json.RawMessage, method string, params any) ([]byte, error) {
	var buf bytes.Buffer
	raw, isRaw := params.(json.RawMessage)
	buf.Grow(len(raw) + len(method) + 100) // one allocation is enough
	buf.WriteString(`{"jsonrpc":"2.0"`)
	if id != nil {
		buf.WriteString(`,"id":`)
		buf.Write(id)
	}
	buf.WriteString(`,"method":`)
	buf.Write(appendJSONString(buf.AvailableBuffer(), method))
	buf.WriteString(`,"params":`)
	if isRaw {
		buf.Write(raw) // encoding/json would validate and copy it again
	} else if err := encodeJSON(&buf, params); err != nil {
		return nil, err
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

// writeAnswer encodes a response. The envelope is written by hand, so that a
// large result is encoded once and not copied. A []byte result is already JSON.
func writeAnswer(buf *bytes.Buffer, id json.RawMessage, result any, err error) {
	buf.WriteString(`{"jsonrpc":"2.0","id":`)
	buf.Write(id)
	mark := buf.Len()
	if err == nil {
		buf.WriteString(`,"result":`)
		if raw, ok := result.([]byte); ok {
			buf.Write(raw)
		} else {
			err = encodeJSON(buf, result)
		}
	}
	if err != nil {
		buf.Truncate(mark)
		buf.WriteString(`,"error":`)
		if encodeJSON(buf, asRPCError(err)) != nil {
			buf.WriteString(`{"code":-32603,"message":"internal error"}`)
		}
	}
	buf.WriteByte('}')
}

// encodeJSON appends v as JSON, without HTML escapes and without a trailing
// newline.
func encodeJSON(buf *bytes.Buffer, v any) error {
	if long, ok := v.(jsonAppender); ok {
		buf.Grow(long.jsonSize())
		buf.Write(long.appendJSON(buf.AvailableBuffer())) // no copy if jsonSize was large enough
		return nil
	}
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	mark := buf.Len()
	if err := e.Encode(v); err != nil {
		buf.Truncate(mark)
		return fmt.Errorf("encoding JSON: %w", err)
	}
	buf.Truncate(buf.Len() - 1)
	return nil
}
