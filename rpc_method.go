package main

import (
	"context"
	"encoding/json"
	"reflect"
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
