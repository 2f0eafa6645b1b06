//go:build linux || darwin

package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestOpenAPI: the document has every route, and no reference or path parameter
// that it does not declare. .ci/openapi asks a public validator.
func TestOpenAPI(t *testing.T) {
	s := newExampleScheduler(t)
	status, text := askHTTP(t, "GET", s.url()+"/openapi.json", "")
	if path := os.Getenv("TEST_OPENAPI"); path != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var d struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Parameters  []struct{ Name, In string }
			Responses   map[string]any
			Security    *[]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil || status != 200 || d.OpenAPI != openapiVersion {
		t.Fatalf("got status %d, version %q, %v, want 200 and %s", status, d.OpenAPI, err, openapiVersion)
	}
	ids := map[string]bool{}
	for _, pattern := range s.api.patterns {
		method, path, ok := strings.Cut(strings.TrimSuffix(pattern, "{$}"), " ")
		if !ok {
			continue // of all methods: /.well-known/, which is always 404
		}
		operation, found := d.Paths[path][strings.ToLower(method)]
		if !found {
			t.Errorf("%s is not in the document, want it: add it to routeDocs", pattern)
			continue
		}
		if ids[operation.OperationID] || operation.OperationID == "" {
			t.Errorf("%s has the operationId %q, want one of its own", pattern, operation.OperationID)
		}
		ids[operation.OperationID] = true
		if s.api.open[pattern] != (operation.Security != nil) {
			t.Errorf("%s: the document says that it needs a token: %v, want %v", pattern, operation.Security == nil, !s.api.open[pattern])
		}
		var names []string
		for _, p := range operation.Parameters {
			if p.In == "path" {
				names = append(names, "{"+p.Name+"}")
			}
		}
		if want := strings.Count(path, "{"); len(names) != want || slices.ContainsFunc(names, func(n string) bool { return !strings.Contains(path, n) }) {
			t.Errorf("%s has the path parameters %q, want %d", pattern, names, want)
		}
	}
	for _, doc := range routeDocs() {
		if !slices.Contains(s.api.patterns, doc.pattern) {
			t.Errorf("%s is in routeDocs but is not a route", doc.pattern)
		}
	}
	for rest := text; ; {
		_, after, found := strings.Cut(rest, `"$ref":"#/components/schemas/`)
		if !found {
			break
		}
		name, more, _ := strings.Cut(after, `"`)
		if d.Components.Schemas[name] == nil {
			t.Errorf("a reference to the schema %s, want it in components", name)
		}
		rest = more
	}
}
