package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkScan compares the scanner with encoding/json and with decodeEnvelope.
func checkScan(t *testing.T, data []byte) (scanned bool) {
	t.Helper()
	before := bytes.Clone(data)
	m, ok := scanEnvelope(data)
	valid := utf8.Valid(data) && json.Valid(data)
	if ok && !valid {
		t.Fatalf("%q: the scanner accepts what is no JSON, want it refused", data)
	}
	if got := isValidJSON(data); got != json.Valid(data) {
		t.Fatalf("%q: isValidJSON returned %v, want %v", data, got, !got)
	}
	for _, value := range []json.RawMessage{m.Method, m.ID} {
		var want string
		if text, ok := plainString(value); ok && (json.Unmarshal(value, &want) != nil || text != want) {
			t.Fatalf("%s: the plain string is %q, want %q", value, text, want)
		}
	}
	if !bytes.Equal(data, before) {
		t.Fatalf("%q: the scanner changed the message to %q", before, data)
	}
	want, err := decodeEnvelope(data)
	if ok && (err != nil || !reflect.DeepEqual(m, want)) {
		t.Fatalf("%q: the scanner returns %s, want %s, %v as decodeEnvelope", data, m, want, err)
	}
	return ok
}

// scanSamples are messages with what a scanner gets wrong; plain reports whether
// it must read the message itself and not leave it to encoding/json.
func scanSamples() map[string]bool {
	samples := map[string]bool{
		``: false, ` `: false, `{`: false, `{}`: true, " {\t\r\n} \n": true, `[]`: false, `{}{}`: false, `{},`: false, `null`: false,
		`{"jsonrpc":"2.0","id":1,"result":{"a":[1,2,{"b":null}],"c":true,"d":false}}`: true,
		`{"jsonrpc":"2.0","id":1,"result":1,"result":2}`:                              true,
		`{"jsonrpc":"2.0","id":1,"error":null,"result":null}`:                         true,
		`{"Result":1,"RESULT":2,"result":3}`:                                          true,
		`{"res\u0075lt":1}`:                                                           false,
		`{"id":1,}`:                                                                   false,
		`{"id":1 "result":2}`:                                                         false,
		`{"id" 1}`:                                                                    false,
		`{id:1}`:                                                                      false,
		`{"id":[1,]}`:                                                                 false,
		`{"id":[1 2]}`:                                                                false,
		`{"id":[1,2`:                                                                  false,
		`{"id":"`:                                                                     false,
		`{"id":"\`:                                                                    false,
		`{"id":"\"`:                                                                   false,
		`{"result":"` + strings.Repeat("x", 100) + `"}`:                        true,
		`{"result":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`: true,
		`{"result":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`: false,
	}
	for value, valid := range map[string]bool{
		"0": true, "-0": true, "01": false, "-": false, "+1": false, "1.": false, ".5": false, "1.5": true, "1e5": true, "1E+5": true, "1e-05": true, "1e": false, "1e+": false, "-1.25e300": true, "0e1": true, "00": false, "1_0": false, "0x1": false, "NaN": false, "Infinity": false,
		"tru": false, "true": true, "truee": false, "nul": false, "false": true, "True": false,
		`"\b\f\n\r\t\"\\\/\u12aF"`: true, `"\x"`: false, `"\u12g4"`: false, `"\u12"`: false, `"\ud800"`: true, "\"\t\"": false, "\"\x00\"": false, "\"\x1f\"": false, "\"\x7f\"": true,
		`"ä€😀"`: true, "\"\xff\"": false, "\"\xc3\"": false, "\"\xed\xa0\x80\"": false, "\"\xf4\x90\x80\x80\"": false, "\"\xc0\x80\"": false, `'x'`: false, "\u00a01": false, "/**/1": false,
	} {
		for pad := range 9 { // each place within eight bytes
			samples[`{"`+strings.Repeat("n", pad)+`":`+value+`}`] = valid
			samples[`{"`+strings.Repeat("n", pad)+`":["`+strings.Repeat("s", pad)+`",`+value+`],"id":1}`] = valid
		}
	}
	return samples
}

// TestScanEnvelope: every message is read as encoding/json reads it, and the
// common ones by the scanner itself.
func TestScanEnvelope(t *testing.T) {
	t.Parallel()
	for text, want := range scanSamples() {
		if got := checkScan(t, []byte(text)); got != want {
			t.Errorf("%q: the scanner read it: %v, want %v", text, got, want)
		}
		for end := range len(text) { // no prefix of an object is one
			checkScan(t, []byte(text[:end]))
		}
	}
}

func FuzzScanEnvelope(f *testing.F) {
	for text := range scanSamples() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkScan(t, data)
		// As a value too: most random bytes are no object.
		checkScan(t, append(append([]byte(`{"jsonrpc":"2.0","id":1,"result":`), data...), '}'))
		if text, err := json.Marshal(string(data)); err == nil && !checkScan(t, append(append([]byte(`{"result":`), text...), '}')) {
			t.Fatalf("%q: the scanner leaves a plain string to encoding/json, want it read", text)
		}
	})
}

func BenchmarkScanEnvelope(b *testing.B) {
	line := "\tif err := s.store.Put(ctx, \"key/000001\", value); err != nil { return }\n"
	text, err := json.Marshal(strings.Repeat(line, 1<<20/len(line)))
	if err != nil {
		b.Fatal(err)
	}
	message := []byte(`{"jsonrpc":"2.0","id":1,"result":{"path":"/a","content":` + string(text) + `,"eof":true}}`)
	for _, way := range []struct {
		name string
		read func() bool
	}{
		{"scan", func() bool { _, ok := scanEnvelope(message); return ok }},
		{"check and decode", func() bool { _, err := decodeEnvelope(message); return utf8.Valid(message) && err == nil }},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				if !way.read() {
					b.Fatal("the message was refused, want it read")
				}
			}
		})
	}
}

// Each member of a message goes to its own field, by the scanner and by the decoder.
func TestEnvelopeMembers(t *testing.T) {
	t.Parallel()
	const text = `{"jsonrpc":"2.0","id":1,"method":"a/b","params":{"c":2},"result":3,"error":{"d":4},"other":5}`
	scanned, ok := scanEnvelope([]byte(text))
	decoded, err := decodeEnvelope([]byte(text))
	if !ok || err != nil {
		t.Fatalf("got %v and %v, want the message", ok, err)
	}
	for how, m := range map[string]envelope{"scanned": scanned, "decoded": decoded} {
		for _, test := range []struct{ name, got, want string }{
			{"jsonrpc", string(m.Version), `"2.0"`}, {"id", string(m.ID), "1"}, {"method", string(m.Method), `"a/b"`},
			{"params", string(m.Params), `{"c":2}`}, {"result", string(m.Result), "3"}, {"error", string(m.Error), `{"d":4}`},
		} {
			if test.got != test.want {
				t.Errorf("%s: %s is %q, want %q", how, test.name, test.got, test.want)
			}
		}
	}
}
