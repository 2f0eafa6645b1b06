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

// appendJSONText appends text as a JSON string. It looks at eight bytes at a time
// and copies them before it knows how many of them may stay as they are.
func appendJSONText(to, text []byte) []byte {
	const (
		low, high = 0x0101010101010101, 0x8080808080808080
		room      = 8 // one word, or one escape
	)
	to = append(slices.Grow(to, len(text)+2*room), '"')
	n := len(to)
	to = to[:cap(to)]
	for i := 0; i < len(text); {
		if len(to)-n < 2*room {
			to = slices.Grow(to[:n], len(text)-i+len(text)/8+2*room)
			to = to[:cap(to)]
		}
		if len(text)-i >= 8 && text[i] < utf8.RuneSelf {
			word := binary.LittleEndian.Uint64(text[i:])
			binary.LittleEndian.PutUint64(to[n:], word)
			// The high bit of a byte is set where it is below the space, equals a
			// quote or a backslash (a zero byte borrows when 1 is subtracted), or is
			// not ASCII. A borrow can only mark a byte behind the first one that counts.
			special := word | (word - ' '*low) | ((word ^ '"'*low) - low) | ((word ^ '\\'*low) - low)
			if special &= high; special == 0 {
				i, n = i+8, n+8
				continue
			}
			plain := bits.TrailingZeros64(special) / 8
			i, n = i+plain, n+plain
		}
		var width int
		if c := text[i]; c < utf8.RuneSelf {
			n, width = n+putJSONByte(to[n:], c), 1
		} else {
			var r rune
			r, width = utf8.DecodeRune(text[i:])
			switch {
			case r == utf8.RuneError && width == 1:
				n += copy(to[n:], `\ufffd`)
			case r == '\u2028': // not allowed in JavaScript strings before ES2019
				n += copy(to[n:], `\u2028`)
			case r == '\u2029':
				n += copy(to[n:], `\u2029`)
			default:
				for range width {
					to[n] = text[i]
					i, n = i+1, n+1
				}
				continue
			}
		}
		i += width
	}
	return append(to[:n], '"')
}

// putJSONByte writes an ASCII character of a JSON string to the start of to and
// returns how many bytes that takes, at most six.
func putJSONByte(to []byte, c byte) int {
	const hex = "0123456789abcdef"
	switch c {
	case '"', '\\':
		to[0], to[1] = '\\', c
	case '\n':
		to[0], to[1] = '\\', 'n'
	case '\r':
		to[0], to[1] = '\\', 'r'
	case '\t':
		to[0], to[1] = '\\', 't'
	case '\b':
		to[0], to[1] = '\\', 'b'
	case '\f':
		to[0], to[1] = '\\', 'f'
	default:
		if c >= ' ' {
			to[0] = c
			return 1
		}
		copy(to, `\u00`)
		to[4], to[5] = hex[c>>4], hex[c&15]
		return 6
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
