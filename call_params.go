package main

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// callParams builds the params of a method from KEY=VALUE arguments, from a single
// JSON object, or for "-" from the JSON object that stdin holds. It refuses
// parameters that a built-in method does not have, although daemons ignore them: on
// a command line they are mistakes.
func callParams(name string, words []string, stdin io.Reader) (json.RawMessage, error) {
	types := paramTypes(name)
	if types == nil {
		for _, known := range methodNames() {
			if strings.EqualFold(known, name) {
				return nil, usage("there is no method %s (did you mean %s?)", name, known)
			}
		}
	}
	if len(words) == 1 && (words[0] == "-" || strings.HasPrefix(strings.TrimSpace(words[0]), "{")) {
		text := []byte(words[0])
		if words[0] == "-" {
			var err error
			if text, err = readParams(stdin, "standard input"); err != nil {
				return nil, err
			}
		}
		var object map[string]json.RawMessage
		if err := decodeJSON(text, &object); err != nil {
			return nil, usage("the params are not a JSON object: %v", err) // not the params, which may hold a token
		} else if object == nil {
			return nil, usage("the params are not a JSON object but null")
		}
		for key := range object {
			if err := checkKey(types, name, key); err != nil {
				return nil, err
			}
		}
		return text, nil
	}
	params := map[string]any{}
	for _, word := range words {
		key, text, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return nil, usage("%q is neither KEY=VALUE nor a JSON object", shownText(word))
		}
		if err := checkKey(types, name, key); err != nil {
			return nil, err
		}
		if file, ok := strings.CutPrefix(text, "@"); ok {
			text = file // @@TEXT is @TEXT
			if !strings.HasPrefix(file, "@") {
				var err error
				if text, err = readValue(key, file); err != nil {
					return nil, err
				}
			}
		}
		value, err := callValue(types, key, text)
		if err != nil {
			return nil, err
		}
		before, twice := params[key]
		if list, ok := value.([]any); ok && twice {
			if earlier, ok := before.([]any); ok {
				params[key] = append(earlier, list...)
				continue
			}
		}
		if twice {
			return nil, usage("%s is given twice", key)
		}
		params[key] = value
	}
	return json.Marshal(params)
}

// maxParams bounds params from a file or standard input: the scheduler accepts no
// larger request.
const maxParams = maxRPCBody

func readParams(r io.Reader, source string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxParams+1))
	switch {
	case err != nil:
		return nil, usage("reading %s: %v", source, err)
	case len(data) > maxParams:
		return nil, usage("reading %s: it has more than %d MiB, which no request may have", source, maxParams>>20)
	}
	return data, nil
}

// readValue returns the text of a file as the value of a parameter, without the
// line end at its end: editors add one, and in a token it would be wrong.
func readValue(key, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", usage("reading the value of %s: %v (write %s=@@… for a value that begins with @)", key, err, key)
	}
	defer f.Close()
	data, err := readParams(f, file)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(data) {
		return "", usage("reading the value of %s: %s is not UTF-8", key, file)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// checkKey returns a usage error if the method is known and has no such parameter.
func checkKey(types map[string]*schema, method, key string) error {
	if _, known := types[key]; known || types == nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(types))
	return usage("%s has no parameter %s%s: it has %s", method, shownText(key), didYouMean(key, names), strings.Join(names, ", "))
}

// withTimeout adds timeout_ms to params.
func withTimeout(params json.RawMessage, limit time.Duration) (json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := decodeJSON(params, &object); err != nil {
		return nil, usage("the params are not a JSON object: %v", err)
	}
	if _, given := object["timeout_ms"]; given {
		return nil, usage("--timeout and the parameter timeout_ms exclude each other")
	}
	object["timeout_ms"] = json.RawMessage(strconv.FormatInt(limit.Milliseconds(), 10))
	return json.Marshal(object)
}

// methodNames returns the names of the built-in methods.
func methodNames() []string { return slices.Sorted(maps.Keys(methodsByName(builtinMethods()))) }

// paramTypes returns the schemas of the parameters of a built-in method by
// name, or nil for any other method.
func paramTypes(name string) map[string]*schema {
	methods := builtinMethods()
	i := slices.IndexFunc(methods, func(m *method) bool { return m.name == name })
	if i < 0 {
		return nil
	}
	params, types := map[string]*schema{}, newSchemas()
	for _, f := range methods[i].paramFields() {
		params[f.name] = types.field(f)
	}
	return params
}

// callValue converts one VALUE to the type of its parameter. For an unknown
// method the value is JSON if it parses, else a string.
func callValue(types map[string]*schema, key, text string) (any, error) {
	if types == nil {
		if json.Valid([]byte(text)) {
			return json.RawMessage(text), nil
		}
		return text, nil
	}
	t := types[key]
	switch {
	case text == "null" && t.allows("null"):
		return nil, nil
	case t.allows("string"):
		return text, nil
	case t.allows("boolean"):
		if value, err := strconv.ParseBool(text); err == nil {
			return value, nil
		}
		return nil, usage("%s must be true or false, not %q", key, shownText(text))
	case t.allows("array"):
		if !strings.HasPrefix(text, "[") {
			return []any{text}, nil
		}
		var list []any
		if decodeJSON([]byte(text), &list) == nil {
			return list, nil
		}
		return nil, usage("%s must be a string, which may be repeated, or a JSON array, not %q", key, shownText(text))
	}
	if t.allows("integer") {
		if value, err := strconv.ParseInt(text, 10, 64); err == nil {
			return value, nil
		}
		return nil, usage("%s must be an integer, not %q", key, shownText(text))
	}
	if !json.Valid([]byte(text)) {
		return nil, usage("%s must be JSON, not %q", key, shownText(text))
	}
	return json.RawMessage(text), nil
}
