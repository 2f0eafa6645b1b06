package main

import (
	"cmp"
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Time limits of a request, where it gives no timeout_ms.
const (
	defaultMethodTimeout = 60 * time.Second
	cloneMethodTimeout   = 30 * time.Minute // a big repository over a slow line
	// maxRequestTimeout bounds timeout_ms: a day, longer than any clone should take.
	maxRequestTimeout = 24 * time.Hour
)

// method is one row of a table of methods: what the dispatcher calls and what
// rpc.discover tells of it.
type method struct {
	name    string
	summary string
	timeout time.Duration // 0 means defaultMethodTimeout
	inline  bool          // never blocks: runs in the reading goroutine
	clones  bool          // counts as a clone, belongs to the daemon and not to the link
	params  reflect.Type  // a struct, its json tags are the names
	result  reflect.Type
	errors  []errorCode // beside those that any method may have
	call    func(ctx context.Context, params json.RawMessage) (any, error)
}

// timeLimit is the time limit of a request that gives none. A method that is not
// in the table has the default: to a hub, those that a handler adds.
func (m *method) timeLimit() time.Duration {
	if m == nil || m.timeout == 0 {
		return defaultMethodTimeout
	}
	return m.timeout
}

func methodsByName(table []*method) map[string]*method {
	methods := map[string]*method{}
	for _, m := range table {
		methods[m.name] = m
	}
	return methods
}

// commonParams are what every method takes.
type commonParams struct {
	TaskID    *string `json:"task_id,omitempty" doc:"a name that the caller makes up: progress carries it, and a request asked again with it joins the first; at most 256 bytes"`
	TimeoutMS *int64  `json:"timeout_ms,omitempty" doc:"time limit in milliseconds, at most a day"`
}

// newMethod makes a row from a typed function. Params are decoded by name,
// unknown ones are ignored.
func newMethod[P, R any](name, summary string, call func(context.Context, P) (R, error)) *method {
	return &method{
		name:    name,
		summary: summary,
		params:  reflect.TypeFor[P](),
		result:  reflect.TypeFor[R](),
		call: func(ctx context.Context, params json.RawMessage) (any, error) {
			var p P
			if err := decodeParams(params, &p); err != nil {
				return nil, err
			}
			return call(ctx, p)
		},
	}
}

// fails names the errors that the method may have beside everyone's.
func (m *method) fails(codes ...errorCode) *method {
	m.errors = append(m.errors, codes...)
	return m
}

// paramFields are all parameters, the common ones last.
func (m *method) paramFields() []jsonField {
	return append(jsonFields(m.params), jsonFields(reflect.TypeFor[commonParams]())...)
}

// resultType is the result without the pointer that Go functions return.
func (m *method) resultType() reflect.Type {
	if m.result.Kind() == reflect.Pointer {
		return m.result.Elem()
	}
	return m.result
}

// none is the params of a method that takes none.
type none struct{}

// jsonTypeName is how a caller that writes JSON calls the Go type.
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

// limitParam is an optional count: its default when absent, an error outside
// 1 to most.
func limitParam(name string, given *int, byDefault, most int) (int, error) {
	if given == nil {
		return byDefault, nil
	}
	if *given < 1 || *given > most {
		return 0, invalidParam(name, "must be 1 to %d, not %d", most, *given)
	}
	return *given, nil
}

// valueOr is an optional param's value.
func valueOr[T any](given *T, byDefault T) T {
	if given == nil {
		return byDefault
	}
	return *given
}

// schema is a JSON Schema (draft 7, https://json-schema.org/draft-07) as far as
// the types of the wire need it; an empty one allows anything.
type schema struct {
	Ref         string             `json:"$ref,omitempty" doc:"where the schema is, in components"`
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty" doc:"a type, or a list of those allowed"`
	Format      string             `json:"format,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Default     any                `json:"default,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	AllOf       []*schema          `json:"allOf,omitempty"`
	AnyOf       []*schema          `json:"anyOf,omitempty"`
}

// schemaPlace is where a document keeps the schemas of named types.
const schemaPlace = "#/components/schemas/"

// enumerated is a string type with known values.
type enumerated interface{ values() []string }

// jsonField is one key of an object, made from a struct's field. Beside the
// json tag these count: doc describes it in a phrase, enum lists the values of
// a plain string with commas, type names the JSON types of a json.RawMessage.
type jsonField struct {
	name     string
	typ      reflect.Type
	doc      string
	enum     []string
	types    []string
	optional bool // the key may be absent
}

// jsonFields lists the keys of a struct as encoding/json writes them: embedded
// structs count as fields of their own. A pointer to a struct is as good; any
// other type has none.
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

// schemas makes schemas of Go types. Those of named structs are collected, and
// referred to by name wherever they occur: a type may hold itself.
type schemas struct{ named map[string]*schema }

func newSchemas() *schemas { return &schemas{named: map[string]*schema{}} }

// of is the schema of what encoding/json makes of t.
func (s *schemas) of(t reflect.Type) *schema {
	switch t {
	case reflect.TypeFor[time.Time]():
		return &schema{Type: "string", Format: "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return &schema{}
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
		return s.refer(t)
	}
	return &schema{} // an interface: anything
}

// refer collects a named struct; one without a name is described in place.
func (s *schemas) refer(t reflect.Type) *schema {
	name := t.Name()
	if name == "" {
		return s.object(t)
	}
	if _, known := s.named[name]; !known {
		s.named[name] = nil // it may hold itself
		s.named[name] = s.object(t)
	}
	return &schema{Ref: schemaPlace + name}
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

// field is the schema of a key's value. A key that is left out when it has
// nothing to say is never null.
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
	if value.Ref != "" { // draft 7 ignores what stands beside a $ref
		value = &schema{AllOf: []*schema{value}}
	}
	value.Description = f.doc
	return value
}

// orNull also allows null.
func orNull(s *schema) *schema {
	if name, ok := s.Type.(string); ok && s.Enum == nil {
		s.Type = []string{name, "null"}
		return s
	}
	return &schema{AnyOf: []*schema{s, {Type: "null"}}}
}

// allows tells whether a value of the JSON type fits; a schema without types
// allows any.
func (s *schema) allows(name string) bool {
	switch types := s.Type.(type) {
	case string:
		return types == name
	case []string:
		return slices.Contains(types, name)
	}
	return true
}
