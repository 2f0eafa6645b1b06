package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Time limits of a request without timeout_ms.
const (
	defaultMethodTimeout = 60 * time.Second
	cloneMethodTimeout   = 30 * time.Minute // enough for a large repository over a slow network
	// maxRequestTimeout bounds timeout_ms. No clone should take a day.
	maxRequestTimeout = 24 * time.Hour
)

// method is an entry of the table of methods. The dispatcher calls it, and
// rpc.discover describes it.
type method struct {
	name    string
	summary string
	timeout time.Duration // 0 means defaultMethodTimeout
	inline  bool          // runs in the reading goroutine, so it must not block
	walks   bool          // reads a whole tree
	// inWorkDir is set if the method reads the work dir whatever its params say.
	inWorkDir bool
	clones    bool         // is scheduled as a clone and goes on when its link is lost
	params    reflect.Type // a struct; its json tags are the names of the params
	result    reflect.Type
	errors    []errorCode // in addition to those that every method may return
	call      func(ctx context.Context, params json.RawMessage) (any, error)
	quick     quickMethod // answers the common requests in the reading goroutine; nil if there is none
}

// timeLimit returns the time limit of a request without timeout_ms. A nil method
// has the default: a hub does not know the methods that a handler adds.
func (m *method) timeLimit() time.Duration {
	if m == nil || m.timeout == 0 {
		return defaultMethodTimeout
	}
	return m.timeout
}

// methodsByName returns the methods of a table by name.
func methodsByName(table []*method) map[string]*method {
	methods := map[string]*method{}
	for _, m := range table {
		methods[m.name] = m
	}
	return methods
}

// commonParams is the params that every method accepts.
type commonParams struct {
	TaskID    *string `json:"task_id,omitempty" doc:"id chosen by the caller, at most 256 bytes; echoed in progress; a retry with the same id joins the running request"`
	TimeoutMS *int64  `json:"timeout_ms,omitempty" doc:"time limit in milliseconds, at most one day"`
}

// newMethod returns a method that calls a typed function. Params are decoded by
// name; unknown ones are ignored.
func newMethod[P, R any](name, summary string, call func(context.Context, P) (R, error)) *method {
	m := newUntypedMethod(name, summary, reflect.TypeFor[P](), reflect.TypeFor[R]())
	m.call = func(ctx context.Context, params json.RawMessage) (any, error) {
		var p P
		if err := decodeParams(params, &p); err != nil {
			return nil, err
		}
		return call(ctx, p)
	}
	return m
}

// newUntypedMethod returns a method without its function.
//
//go:noinline // newMethod is compiled for each method, and each copy counts in the size of a release
func newUntypedMethod(name, summary string, params, result reflect.Type) *method {
	return &method{name: name, summary: summary, params: params, result: result}
}

// fails adds errors that this method may return, in addition to those of every
// method.
func (m *method) fails(codes ...errorCode) *method {
	m.errors = append(m.errors, codes...)
	return m
}

// walk marks a method that reads a whole tree of directories.
func (m *method) walk() *method {
	m.walks = true
	return m
}

// quickly adds a quick version of the method.
func (m *method) quickly(call quickMethod) *method {
	m.quick = call
	return m
}

// quickWithoutParams makes the method itself its quick version, for requests
// without params.
func (m *method) quickWithoutParams() *method {
	return m.quickly(func(to []byte, params json.RawMessage) ([]byte, bool) {
		if len(params) > 0 && string(params) != "{}" {
			return to, false
		}
		result, err := m.call(context.Background(), nil)
		if err != nil {
			return to, false
		}
		buf := bytes.NewBuffer(to)
		err = encodeJSON(buf, result)
		return buf.Bytes(), err == nil
	})
}

// paramFields returns all parameters, those of every method last.
func (m *method) paramFields() []jsonField {
	return append(jsonFields(m.params), jsonFields(reflect.TypeFor[commonParams]())...)
}

// resultType returns the type of the result, without the pointer.
func (m *method) resultType() reflect.Type {
	if m.result.Kind() == reflect.Pointer {
		return m.result.Elem()
	}
	return m.result
}

// none is the params type of a method without params.
type none struct{}

// jsonTypeName returns the JSON name of a Go type for error messages, such as
// "an array".
func jsonTypeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return jsonTypeName(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		return "an integer"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a " + t.String()
}

// limitParam returns the value of an optional count, or its default if absent.
// It returns an error unless 1 ≤ value ≤ most.
func limitParam(name string, given *int, byDefault, most int) (int, error) {
	if given == nil {
		return byDefault, nil
	}
	if *given < 1 || *given > most {
		return 0, invalidParam(name, "must be 1 to %d, not %d", most, *given)
	}
	return *given, nil
}

// valueOr returns the value of an optional param, or the default if absent.
func valueOr[T any](given *T, byDefault T) T {
	if given == nil {
		return byDefault
	}
	return *given
}

// schema is the subset of JSON Schema (draft 7,
// https://json-schema.org/draft-07) that the types of the protocol need. An
// empty schema allows any value.
type schema struct {
	Ref         string             `json:"$ref,omitempty" doc:"reference to a schema in components"`
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty" doc:"allowed type, or a list of allowed types"`
	Format      string             `json:"format,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Default     any                `json:"default,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	AllOf       []*schema          `json:"allOf,omitempty"`
	AnyOf       []*schema          `json:"anyOf,omitempty"`
}

// schemaRefPrefix is the $ref prefix of the schemas of named types.
const schemaRefPrefix = "#/components/schemas/"

// enumerated is implemented by string types with a fixed set of values.
type enumerated interface{ values() []string }

// plainObject is a struct whose schema is any object, because it holds itself.
// Programs that read a document resolve its references in place, without end.
type plainObject interface{ plainObject() }

// jsonField is a key of a JSON object, derived from a struct field. In addition
// to json, three tags are used: doc is the description, enum lists the values
// of a string, separated by commas, and type lists the JSON types of a
// json.RawMessage.
type jsonField struct {
	name     string
	typ      reflect.Type
	doc      string
	enum     []string
	types    []string
	optional bool // the key may be absent
}

// jsonFields returns the keys of a struct, or of a pointer to one, as
// encoding/json writes them: the fields of an embedded struct are included. For
// any other type it returns nil.
func jsonFields(t reflect.Type) []jsonField {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var fields []jsonField
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() || f.Anonymous && name == "" {
			continue
		}
		fields = append(fields, jsonField{
			name:     cmp.Or(name, f.Name),
			typ:      f.Type,
			doc:      f.Tag.Get("doc"),
			enum:     splitTag(f.Tag.Get("enum")),
			types:    splitTag(f.Tag.Get("type")),
			optional: strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero"),
		})
	}
	return fields
}

func splitTag(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// schemas builds the schemas of Go types. The schemas of named structs are
// collected in named and used by reference, because a type may contain itself.
type schemas struct{ named map[string]*schema }

func newSchemas() *schemas { return &schemas{named: map[string]*schema{}} }

// of returns the schema of the JSON that encoding/json writes for t.
func (s *schemas) of(t reflect.Type) *schema {
	switch t {
	case reflect.TypeFor[time.Time]():
		return &schema{Type: "string", Format: "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return &schema{}
	case reflect.TypeFor[jsonText]():
		return &schema{Type: "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return orNull(s.of(t.Elem()))
	case reflect.String:
		text := &schema{Type: "string"}
		if values, ok := reflect.Zero(t).Interface().(enumerated); ok {
			text.Enum = values.values()
		}
		return text
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &schema{Type: "integer"}
	case reflect.Float32, reflect.Float64:
		return &schema{Type: "number"}
	case reflect.Slice, reflect.Array:
		return &schema{Type: "array", Items: s.of(t.Elem())}
	case reflect.Map:
		return &schema{Type: "object"}
	case reflect.Struct:
		if t.Implements(reflect.TypeFor[plainObject]()) {
			return &schema{Type: "object"}
		}
		return s.refer(t)
	}
	return &schema{} // an interface: any value
}

// refer adds a named struct to s.named and returns a reference to it. The
// schema of an unnamed struct is returned itself.
func (s *schemas) refer(t reflect.Type) *schema {
	name := t.Name()
	if name == "" {
		return s.object(t)
	}
	if _, known := s.named[name]; !known {
		s.named[name] = nil // the type may contain itself
		s.named[name] = s.object(t)
	}
	return &schema{Ref: schemaRefPrefix + name}
}

func (s *schemas) object(t reflect.Type) *schema {
	o := &schema{Type: "object", Properties: map[string]*schema{}}
	for _, f := range jsonFields(t) {
		o.Properties[f.name] = s.field(f)
		if !f.optional {
			o.Required = append(o.Required, f.name)
		}
	}
	return o
}

// field returns the schema of the value of a key. The value of an optional key
// is never null: the key is absent instead.
func (s *schemas) field(f jsonField) *schema {
	t := f.typ
	if f.optional && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	value := s.of(t)
	switch {
	case len(f.types) == 1:
		value.Type = f.types[0]
	case len(f.types) > 1:
		value.Type = f.types
	}
	if f.enum != nil {
		value.Enum = f.enum
	}
	if f.doc == "" {
		return value
	}
	if value.Ref != "" { // draft 7 ignores all keywords next to $ref
		value = &schema{AllOf: []*schema{value}}
	}
	value.Description = f.doc
	return value
}

// orNull returns a schema that allows null in addition to s.
func orNull(s *schema) *schema {
	if name, ok := s.Type.(string); ok && s.Enum == nil {
		s.Type = []string{name, "null"}
		return s
	}
	return &schema{AnyOf: []*schema{s, {Type: "null"}}}
}

// allows reports whether the schema allows values of the JSON type.
func (s *schema) allows(name string) bool {
	switch types := s.Type.(type) {
	case string:
		return types == name
	case []string:
		return slices.Contains(types, name)
	}
	return true
}
