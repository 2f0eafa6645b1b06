package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxExponent bounds the exponent of an integer such as 5e3: no integer of the
// protocol has more digits, and a larger one would cost memory to compute.
const maxExponent = 20

// decodeJSON decodes JSON like json.Unmarshal, with two differences. Names of
// members are compared exactly: json.Unmarshal also accepts "PATH" for "path",
// and a proxy that checks one spelling could be bypassed with another. And an
// integer may be written as 5.0 or 5e3. Unknown members are ignored; of members
// with the same name the last one counts.
//
// A json.RawMessage in v shares the memory of data. The Field of an
// *json.UnmarshalTypeError is the path of names that the JSON has.
func decodeJSON(data []byte, v any) error {
	if !isValidJSON(data) {
		return json.Unmarshal(data, new(json.RawMessage)) // says where and why
	}
	return decodeValid(data, v)
}

// decodeValid is decodeJSON for data that is known to be valid JSON, such as the
// result in an answer of a daemon.
func decodeValid(data []byte, v any) error {
	return decodeValue(bytes.TrimSpace(data), reflect.ValueOf(v).Elem(), "")
}

// decodeValue decodes valid JSON without spaces around it.
func decodeValue(data []byte, v reflect.Value, path string) error {
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		v.SetBytes(data)
		return nil
	}
	if custom, ok := v.Addr().Interface().(json.Unmarshaler); ok && v.Kind() != reflect.Pointer {
		return custom.UnmarshalJSON(data)
	}
	null := data[0] == 'n'
	switch v.Kind() {
	case reflect.Pointer:
		if null {
			v.SetZero()
			return nil
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return decodeValue(data, v.Elem(), path)
	case reflect.Struct:
		if null {
			return nil
		}
		if data[0] != '{' {
			return typeError(data, v.Type(), path)
		}
		return eachMember(data, func(name string, value json.RawMessage) error {
			field := memberField(v, name)
			if !field.IsValid() {
				return nil
			}
			return decodeValue(value, field, strings.TrimPrefix(path+"."+name, "."))
		})
	case reflect.Map:
		return decodeMap(data, v, path)
	case reflect.Slice:
		if kind := v.Type().Elem().Kind(); !null && data[0] == '[' && kind != reflect.String && kind != reflect.Uint8 {
			return decodeSlice(data, v, path)
		}
	case reflect.String:
		if data[0] == '"' {
			v.SetString(unquoteJSON(data))
			return nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n, err := strconv.ParseInt(string(data), 10, 64); err == nil && !v.OverflowInt(n) {
			v.SetInt(n)
			return nil
		}
		if n, ok := parseInteger(data); ok && n.IsInt64() && !v.OverflowInt(n.Int64()) {
			v.SetInt(n.Int64())
			return nil
		}
		if !null {
			return typeError(data, v.Type(), path)
		}
	}
	// What is left has no names of ours in it.
	err := json.Unmarshal(data, v.Addr().Interface())
	if e, ok := err.(*json.UnmarshalTypeError); ok {
		e.Field = strings.Trim(path+"."+e.Field, ".")
	}
	return err
}

// unquoteJSON returns the value of a JSON string, as encoding/json decodes it: half
// of a surrogate pair, and bytes that are not UTF-8, become U+FFFD.
func unquoteJSON(data []byte) string {
	inner := data[1 : len(data)-1]
	escape := bytes.IndexByte(inner, '\\')
	if escape < 0 {
		return validText(inner)
	}
	text := make([]byte, 0, len(inner))
	for ; escape >= 0; escape = bytes.IndexByte(inner, '\\') {
		text = append(text, inner[:escape]...)
		c := inner[escape+1]
		inner = inner[escape+2:]
		switch c {
		case 'b':
			text = append(text, '\b')
		case 'f':
			text = append(text, '\f')
		case 'n':
			text = append(text, '\n')
		case 'r':
			text = append(text, '\r')
		case 't':
			text = append(text, '\t')
		case 'u':
			r := hexRune(inner)
			inner = inner[4:]
			if utf16.IsSurrogate(r) {
				second := rune(-1)
				if len(inner) >= 6 && inner[0] == '\\' && inner[1] == 'u' {
					second = hexRune(inner[2:])
				}
				if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
					inner = inner[6:]
				}
			}
			text = utf8.AppendRune(text, r)
		default: // a quote, a slash or a backslash
			text = append(text, c)
		}
	}
	return validText(append(text, inner...))
}

// hexRune returns the character of the four digits that the text begins with.
func hexRune(digits []byte) rune {
	n, _ := strconv.ParseUint(string(digits[:4]), 16, 16) // valid JSON has four
	return rune(n)
}

// validText returns the text with U+FFFD for each byte that is not UTF-8.
func validText(text []byte) string {
	if utf8.Valid(text) {
		return string(text)
	}
	return string([]rune(string(text)))
}

func decodeMap(data []byte, v reflect.Value, path string) error {
	if data[0] == 'n' {
		v.SetZero()
		return nil
	}
	if data[0] != '{' {
		return typeError(data, v.Type(), path)
	}
	v.Set(reflect.MakeMap(v.Type()))
	return eachMember(data, func(name string, value json.RawMessage) error {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := decodeValue(value, item, strings.TrimPrefix(path+"."+name, ".")); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), item)
		return nil
	})
}

func decodeSlice(data []byte, v reflect.Value, path string) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	return eachElement(data, func(value json.RawMessage) error {
		n := v.Len()
		v.Grow(1)
		v.SetLen(n + 1)
		v.Index(n).SetZero() // Grow does not clear it
		return decodeValue(value, v.Index(n), path)
	})
}

// memberField returns the field of a struct, or of one that is embedded in it,
// whose JSON name is exactly name; the zero Value if there is none.
func memberField(v reflect.Value, name string) reflect.Value {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			if inner := memberField(v.Field(i), name); inner.IsValid() {
				return inner
			}
		case tag == name && f.IsExported():
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

// parseInteger returns the integer that a JSON number stands for.
func parseInteger(number []byte) (*big.Int, bool) {
	if c := number[0]; c != '-' && (c < '0' || c > '9') || len(number) > 2*maxExponent {
		return nil, false
	}
	if i := bytes.IndexAny(number, "eE"); i >= 0 {
		exponent, ok := new(big.Int).SetString(strings.TrimPrefix(string(number[i+1:]), "+"), 10)
		if !ok || exponent.CmpAbs(big.NewInt(maxExponent)) > 0 {
			return nil, false
		}
	}
	n, ok := new(big.Rat).SetString(string(number))
	if !ok || !n.IsInt() {
		return nil, false
	}
	return n.Num(), true
}

// typeError returns the error for a value of the wrong type.
func typeError(data []byte, want reflect.Type, path string) error {
	given := "number " + string(data[:min(len(data), 2*maxExponent)])
	switch data[0] {
	case '{':
		given = "object"
	case '[':
		given = "array"
	case '"':
		given = "string"
	case 't', 'f':
		given = "bool"
	case 'n':
		given = "null"
	}
	return &json.UnmarshalTypeError{Value: given, Type: want, Field: path}
}

// eachMember calls each for every member of a JSON object, in order, until each
// returns an error. The object must be valid JSON. The values share its memory.
func eachMember(object []byte, each func(name string, value json.RawMessage) error) error {
	for at := skipSpace(object, 1); object[at] != '}'; {
		end := valueEnd(object, at)
		name := string(object[at+1 : end-1])
		if strings.ContainsRune(name, '\\') {
			if err := json.Unmarshal(object[at:end], &name); err != nil {
				return fmt.Errorf("decoding a name: %w", err)
			}
		}
		at = skipSpace(object, skipSpace(object, end)+1) // over the colon
		end = valueEnd(object, at)
		if err := each(name, object[at:end:end]); err != nil {
			return err
		}
		at = skipComma(object, end)
	}
	return nil
}

// eachElement calls each for every element of a JSON array like eachMember.
func eachElement(array []byte, each func(value json.RawMessage) error) error {
	for at := skipSpace(array, 1); array[at] != ']'; {
		end := valueEnd(array, at)
		if err := each(array[at:end:end]); err != nil {
			return err
		}
		at = skipComma(array, end)
	}
	return nil
}

func skipSpace(data []byte, at int) int {
	for data[at] == ' ' || data[at] == '\t' || data[at] == '\n' || data[at] == '\r' {
		at++
	}
	return at
}

// skipComma returns where the next item begins, or where the closing bracket is.
func skipComma(data []byte, at int) int {
	at = skipSpace(data, at)
	if data[at] == ',' {
		at = skipSpace(data, at+1)
	}
	return at
}

// valueEnd returns the end of the value that begins at the index.
func valueEnd(data []byte, at int) int {
	for depth := 0; ; {
		switch data[at] {
		case '"':
			for at++; data[at] != '"'; at++ {
				if data[at] == '\\' {
					at++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',', ':', ' ', '\t', '\n', '\r':
			// between the values inside of this one
		default: // a number, true, false or null
			for at+1 < len(data) && bytes.IndexByte([]byte(",]} \t\n\r"), data[at+1]) < 0 {
				at++
			}
		}
		at++
		if depth == 0 {
			return at
		}
	}
}

// decodeEnvelope decodes a message. Every link does this for each message, so it
// does without reflection.
func decodeEnvelope(data []byte) (m envelope, err error) {
	if !json.Valid(data) || bytes.TrimSpace(data)[0] != '{' {
		return m, decodeJSON(data, &m) // returns the error
	}
	err = eachMember(bytes.TrimSpace(data), func(name string, value json.RawMessage) error {
		m.set([]byte(name), value)
		return nil
	})
	return m.normal(), err
}

// set sets the member that a message has under a name, and ignores other names.
func (m *envelope) set(name []byte, value json.RawMessage) {
	switch string(name) {
	case "jsonrpc":
		m.Version = value
	case "id":
		m.ID = value
	case "method":
		m.Method = value
	case "params":
		m.Params = value
	case "result":
		m.Result = value
	case "error":
		m.Error = value
	}
}

// normal returns the message without the members that say null for absent, as
// libraries write them that encode every member of a message: params of a
// request, and the method and the error of a response.
func (m envelope) normal() envelope {
	if isNull(m.Params) {
		m.Params = nil
	}
	if isNull(m.Method) && (m.Result != nil || m.Error != nil) {
		m.Method = nil
	}
	if isNull(m.Error) && m.Result != nil {
		m.Error = nil
	}
	return m
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }
