package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// decodeSample has a field of each kind that the protocol decodes.
type decodeSample struct {
	decodeInner
	Count   int               `json:"count"`
	Limit   *int64            `json:"limit"`
	Ratio   float64           `json:"ratio"`
	On      bool              `json:"on"`
	Words   []string          `json:"words"`
	Items   []decodeInner     `json:"items"`
	Numbers []int             `json:"numbers"`
	Raw     json.RawMessage   `json:"raw"`
	Map     map[string]string `json:"map"`
	Any     any               `json:"any"`
}

type decodeInner struct {
	Path string `json:"path"`
}

func TestMemberNamesAreExact(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"other case", `{"PATH":"x","Path":"x","Count":1}`, `{"path":"","count":0}`},
		{"other case beside", `{"path":"right","PATH":"wrong"}`, `{"path":"right","count":0}`},
		{"other case before", `{"PATH":"wrong","path":"right"}`, `{"path":"right","count":0}`},
		{"long s and Kelvin sign", `{"item\u017f":[{"path":"x"}],"word\u017f":["x"]}`, `{"path":"","count":0}`},
		{"escaped name", `{"p\u0061th":"right"}`, `{"path":"right","count":0}`},
		{"twice", `{"path":"first","path":"last"}`, `{"path":"last","count":0}`},
		{"in a list", `{"items":[{"PATH":"wrong"}]}`, `{"path":"","count":0,"items":[{"path":""}]}`},
		{"spaces", " { \"path\" : \"right\" ,\n\"count\"\t:\r2 } ", `{"path":"right","count":2}`},
		{"integers with a fraction", `{"count":5.0,"limit":3e2,"numbers":[1.0,-2,0.0]}`, `{"path":"","count":5,"limit":300,"numbers":[1,-2,0]}`},
		{"nulls", `{"path":null,"count":null,"limit":null,"items":null,"any":null}`, `{"path":"","count":0}`},
	} {
		var got, want decodeSample
		if err := decodeJSON([]byte(test.data), &got); err != nil {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
			continue
		}
		if err := json.Unmarshal([]byte(test.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, want)
		}
	}
}

func TestDecodeErrorsNameTheMember(t *testing.T) {
	for data, want := range map[string]string{
		`{"path":5}`:                     "path must be a string, not number",
		`{"count":"x"}`:                  "count must be an integer, not string",
		`{"count":1.5}`:                  "count must be an integer, not number 1.5",
		`{"count":1e999999999}`:          "count must be an integer, not number 1e999999999",
		`{"limit":1e19}`:                 "limit must be an integer, not number 1e19",
		`{"items":[{"path":[]}]}`:        "items.path must be a string, not array",
		`{"items":{}}`:                   "items must be an array, not object",
		`{"numbers":[1,"x"]}`:            "numbers must be an integer, not string",
		`{"words":[1]}`:                  "words must be a string, not number",
		`{"on":"yes"}`:                   "on must be true or false, not string",
		`{"map":[]}`:                     "map must be an object, not array",
		`[]`:                             " must be an object, not array",
		`{"count":99999999999999999999}`: "count must be an integer, not number 99999999999999999999",
	} {
		var v decodeSample
		err := decodeJSON([]byte(data), &v)
		e, ok := errors.AsType[*json.UnmarshalTypeError](err)
		if !ok {
			t.Errorf("%s: got %v, want a type error", data, err)
			continue
		}
		if got := e.Field + " must be " + jsonTypeName(e.Type) + ", not " + e.Value; got != want {
			t.Errorf("%s: got %q, want %q", data, got, want)
		}
	}
}

func TestParamOfAnEmbeddedStructIsNamedAlone(t *testing.T) {
	for params, want := range map[string]string{`{"path":5}`: "path", `{"items":[{"path":5}]}`: "items"} {
		err := decodeParams(json.RawMessage(params), new(decodeSample))
		if e, ok := errors.AsType[*rpcError](err); !ok || e.Data["param"] != want {
			t.Errorf("%s: got %v, want the data.param %q", params, err, want)
		}
	}
}

// FuzzDecodeJSON compares decodeJSON with json.Unmarshal, for names in lower case.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{
		`{"path":"a\"b\\","count":1,"limit":-0,"ratio":1.5e3,"on":true,"words":["x",null],"items":[{"path":"y"},null],"raw":{"a":[1]},"map":{"k":"v"},"any":[{}]}`,
		`null`, `[]`, `{}`, `{"":{"":[]}}`, `{"path":"\ud800"}`, "{\"path\":\"\xff\"}", `{"raw": [ ] , "count" : 00}`, `{"map":null,"map":{}}`, `{"items":[[]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lower := strings.ToLower(string(data)) // other spellings are decoded differently on purpose
		if strings.Contains(lower, `\u`) || strings.ContainsAny(lower, "ſ.eE\u212a") {
			return
		}
		var got, want decodeSample
		gotErr, wantErr := decodeJSON([]byte(lower), &got), json.Unmarshal([]byte(lower), &want)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("%q: got the error %v, want %v", lower, gotErr, wantErr)
		}
		if gotErr != nil || strings.Count(lower, `"items"`)+strings.Count(lower, `"map"`)+strings.Count(lower, `"any"`) > 1 {
			return // json.Unmarshal merges a second value into the first
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %+v, want %+v", lower, got, want)
		}
	})
}

// FuzzUnquoteJSON compares the decoding of strings with encoding/json.
func FuzzUnquoteJSON(f *testing.F) {
	for _, seed := range []string{`""`, `"a"`, `"\"\\\/\b\f\n\r\t"`, `"\u00e9\u20ac"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ud83d\u0041"`, `"\ude00\ud83d"`, `"\ud83dx\ude00"`, "\"\xff\xe2\x80\"", "\"\\n\xe2\x80\xff\"", "\"\U0001F600\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want string
		data = bytes.TrimSpace(data)
		if len(data) == 0 || data[0] != '"' || json.Unmarshal(data, &want) != nil {
			return
		}
		if got := unquoteJSON(data); got != want {
			t.Fatalf("%q: got %q, want %q", data, got, want)
		}
	})
}
