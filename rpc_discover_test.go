package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// daemonBench is a daemon without a link: its methods are called over a
// transport in memory.
type daemonBench struct {
	*wire
	t      testing.TB
	daemon *daemon
	peer   *peer
}

func newDaemonBench(t testing.TB, cfg *daemonConfig) *daemonBench {
	t.Helper()
	cfg.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	cfg.machineID = "laptop"
	maxMessage := max(cfg.maxMessage, defaultMaxMessage)
	cfg.limitFlags = defaultLimits()
	cfg.maxMessage = maxMessage
	base, end := context.WithCancel(context.Background())
	d, err := newDaemon(base, cfg, &program{getenv: os.Getenv, environ: os.Environ, times: defaultLinkTimes()})
	if err != nil {
		t.Fatal(err)
	}
	b := &daemonBench{wire: newWire(), t: t, daemon: d}
	b.peer = newPeer(b.wire, d.service.newDispatcher(), int(cfg.maxMessage), cfg.log)
	ended := make(chan struct{})
	go func() { // ends with the wire
		defer close(ended)
		_ = b.peer.run()
	}()
	t.Cleanup(func() {
		b.close()
		<-ended
		d.close(end)
	})
	return b
}

// ask sends one request and returns the message that answers it; what comes
// before it goes to other, unless nil.
func (b *daemonBench) ask(request string, other func(message string)) string {
	b.t.Helper()
	b.in <- []byte(request)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case data := <-b.out:
			var m envelope
			if err := json.Unmarshal(data, &m); err != nil {
				b.t.Fatal(err)
			}
			if m.Method == nil {
				return string(data)
			}
			if other != nil {
				other(string(data))
			}
		case <-timer.C:
			b.t.Fatalf("no answer to %s, want one within %v", request, patience)
		}
	}
}

// result is the result of a method; an error fails the test.
func (b *daemonBench) result(method, params string, v any) {
	b.t.Helper()
	answer := b.ask(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`, nil)
	var m envelope
	if err := json.Unmarshal([]byte(answer), &m); err != nil || m.Error != nil {
		b.t.Fatalf("%s: %v %.1000s, want a result", method, err, answer)
	}
	if err := json.Unmarshal(m.Result, v); err != nil {
		b.t.Fatalf("%s: %v, want a result of the type", method, err)
	}
}

// object is any JSON object.
type object = map[string]any

func TestDiscoverIsOpenRPC(t *testing.T) {
	b := newDaemonBench(t, &daemonConfig{allow: []string{t.TempDir()}, workDir: t.TempDir()})
	var document object
	b.result("rpc.discover", "{}", &document)
	if !strings.HasPrefix(document["openrpc"].(string), "1.3.") {
		t.Errorf("openrpc is %v, want 1.3.x", document["openrpc"])
	}
	info := document["info"].(object)
	if info["title"] == "" || info["version"] != programVersion() {
		t.Errorf("info is %v, want a title and the version %s", info, programVersion())
	}
	seen := map[string]bool{}
	for _, one := range document["methods"].([]any) {
		m := one.(object)
		name := m["name"].(string)
		if seen[name] {
			t.Errorf("%s is there twice, want it once", name)
		}
		seen[name] = true
		checkOpenRPCMethod(t, name, m)
	}
	for _, name := range slices.Sorted(maps.Keys(b.daemon.service.methods)) {
		if !seen[name] {
			t.Errorf("%s is not described, want a description", name)
		}
		delete(seen, name)
	}
	for name := range seen {
		t.Errorf("%s is described and not there, want no description of what is not there", name)
	}
	if !slices.Contains(b.daemon.handshake().Methods, "rpc.discover") {
		t.Error("the handshake does not list rpc.discover, want it there")
	}
	checkSchemas(t, document, document, "")
}

// A schema must not hold itself: programs that read the document resolve its
// references in place.
func TestDiscoverHasNoRecursiveSchema(t *testing.T) {
	document := newOpenRPC(newDiscovery(builtinMethods()))
	for _, m := range document.Methods {
		if m.Name == "rpc.discover" && (m.Result.Schema.Ref != "" || m.Result.Schema.Type != "object") {
			t.Errorf("the result of rpc.discover is %s, want a plain object", asJSON(t, m.Result.Schema))
		}
	}
	var follow func(s *schema, path []string)
	follow = func(s *schema, path []string) {
		if s == nil {
			return
		}
		if name, ok := strings.CutPrefix(s.Ref, schemaRefPrefix); ok {
			if slices.Contains(path, name) {
				t.Errorf("the schema %s holds itself through %q, want no recursion", name, path)
				return
			}
			follow(document.Components.Schemas[name], append(slices.Clone(path), name))
		}
		follow(s.Items, path)
		for _, list := range [][]*schema{slices.Collect(maps.Values(s.Properties)), s.AllOf, s.AnyOf} {
			for _, one := range list {
				follow(one, path)
			}
		}
	}
	for name := range document.Components.Schemas {
		follow(&schema{Ref: schemaRefPrefix + name}, nil)
	}
}

// The official parser reads the document. .ci/openrpc installs it and sets
// OPENRPC_PARSER to the directory with its node_modules.
func TestOfficialParserReadsDiscover(t *testing.T) {
	dir := os.Getenv("OPENRPC_PARSER")
	node, err := exec.LookPath("node")
	if dir == "" || err != nil {
		t.Skip("needs node and the parser in OPENRPC_PARSER: .ci/openrpc runs this test")
	}
	document, err := json.Marshal(newOpenRPC(newDiscovery(builtinMethods())))
	if err != nil {
		t.Fatal(err)
	}
	const script = `
const { parseOpenRPCDocument, validateOpenRPCDocument } = require("@open-rpc/schema-utils-js");
(async () => {
  const document = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const valid = validateOpenRPCDocument(document);
  if (valid !== true) throw valid;
  const parsed = await parseOpenRPCDocument(document);
  console.log(parsed.methods.length);
})().catch((err) => { console.error(String(err.message || err)); process.exit(1); });`
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "--max-old-space-size=256", "-e", script)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(document)
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintln(len(builtinMethods()) + 1); err != nil || string(out) != want {
		t.Errorf("got %.2000s, %v, want %s methods", out, err, want)
	}
}

// checkOpenRPCMethod holds a Method Object against the rules of the
// specification: required keys, unique names and error codes, required
// parameters first.
func checkOpenRPCMethod(t *testing.T, name string, m object) {
	t.Helper()
	if summary, _ := m["summary"].(string); !strings.HasSuffix(summary, ".") || m["paramStructure"] != "by-name" {
		t.Errorf("%s: %v %v, want a sentence and by-name", name, m["summary"], m["paramStructure"])
	}
	names, optional := map[string]bool{}, false
	for _, one := range m["params"].([]any) {
		p := one.(object)
		param, _ := p["name"].(string)
		if param == "" || names[param] || p["schema"] == nil {
			t.Errorf("%s: bad parameter %v, want a name of its own and a schema", name, p)
		}
		if p["description"] == nil {
			t.Errorf("%s: %s has no description, want one", name, param)
		}
		names[param] = true
		if p["required"] != true {
			optional = true
		} else if optional {
			t.Errorf("%s: %s is required and comes after an optional one, want the required ones first", name, param)
		}
	}
	if !names["timeout_ms"] || !names["task_id"] {
		t.Errorf("%s lacks the common parameters, want timeout_ms and task_id", name)
	}
	if r := m["result"].(object); r["name"] == "" || r["schema"] == nil {
		t.Errorf("%s: bad result %v, want a name and a schema", name, r)
	}
	codes := map[float64]bool{}
	for _, one := range m["errors"].([]any) {
		e := one.(object)
		code := e["code"].(float64)
		if codes[code] || e["message"] == "" {
			t.Errorf("%s: bad error %v, want a code of its own and a message", name, e)
		}
		codes[code] = true
	}
}

// checkSchemas follows every $ref of a document and looks at every type.
func checkSchemas(t *testing.T, document object, v any, at string) {
	t.Helper()
	switch v := v.(type) {
	case object:
		if ref, ok := v["$ref"].(string); ok {
			name, local := strings.CutPrefix(ref, schemaRefPrefix)
			if schemas := document["components"].(object)["schemas"].(object); !local || schemas[name] == nil {
				t.Errorf("%s: %s leads nowhere, want a schema", at, ref)
			}
		}
		for key, value := range v {
			checkSchemas(t, document, value, at+"/"+key)
		}
	case []any:
		for i, value := range v {
			checkSchemas(t, document, value, at+"/"+strconv.Itoa(i))
		}
	case nil:
		t.Errorf("%s is null, want a value", at)
	}
}

func TestSchemaOfTypes(t *testing.T) {
	type inner struct {
		Self *inner `json:"self"`
	}
	type embedded struct {
		Path string `json:"path,omitempty" doc:"where"`
	}
	type sample struct {
		embedded
		Flag    bool            `json:"flag"`
		Maybe   *int            `json:"maybe"`
		Absent  *int            `json:"absent,omitempty"`
		List    []string        `json:"list"`
		At      time.Time       `json:"at,omitzero"`
		Raw     json.RawMessage `json:"raw"`
		Token   json.RawMessage `json:"token" type:"string,null"`
		Kind    string          `json:"kind" enum:"a,b"`
		Action  cloneAction     `json:"action"`
		Inner   inner           `json:"inner" doc:"it"`
		Or      *inner          `json:"or"`
		Ratio   float64         `json:"ratio"`
		Any     any             `json:"any"`
		Hidden  int             `json:"-"`
		private int
		Map     map[string]any `json:"map"`
	}
	_ = sample{}.private
	types := newSchemas()
	if got := types.of(reflect.TypeFor[sample]()); got.Ref != schemaRefPrefix+"sample" {
		t.Fatalf("the schema is %+v, want a reference to sample", got)
	}
	got, err := json.Marshal(types.named)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"inner":{"type":"object","properties":{"self":{"anyOf":[{"$ref":"#/components/schemas/inner"},{"type":"null"}]}},"required":["self"]},
"sample":{"type":"object","properties":{"absent":{"type":"integer"},"action":{"type":"string","enum":["cloned","updated","unchanged","recloned"]},
"any":{},"at":{"type":"string","format":"date-time"},"flag":{"type":"boolean"},"inner":{"description":"it","allOf":[{"$ref":"#/components/schemas/inner"}]},
"kind":{"type":"string","enum":["a","b"]},"list":{"type":"array","items":{"type":"string"}},"map":{"type":"object"},"maybe":{"type":["integer","null"]},
"or":{"anyOf":[{"$ref":"#/components/schemas/inner"},{"type":"null"}]},"path":{"description":"where","type":"string"},"ratio":{"type":"number"},"raw":{},
"token":{"type":["string","null"]}},
"required":["flag","maybe","list","raw","token","kind","action","inner","or","ratio","any","map"]}}`
	if string(got) != strings.ReplaceAll(want, "\n", "") {
		t.Errorf("got  %s\nwant %s", got, strings.ReplaceAll(want, "\n", ""))
	}
}

// TestErrorsHaveMeanings finds the named errors in the source: a new one must be
// explained.
func TestErrorsHaveMeanings(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "rpc_error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var inSource []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "errorCode" {
				text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Error(err)
				}
				inSource = append(inSource, text)
			}
		}
		return true
	})
	var explained []string
	for _, meaning := range errorMeanings() {
		explained = append(explained, string(meaning.code))
		if meaning.code.number() == codeInternal {
			t.Errorf("%s has no number, want one of its own", meaning.code)
		}
	}
	slices.Sort(inSource)
	slices.Sort(explained)
	if !slices.Equal(inSource, explained) {
		t.Errorf("in the source %v\nexplained %v, want them equal", inSource, explained)
	}
}

// TestCallValues converts the words of the command line by the schemas.
func TestCallValues(t *testing.T) {
	for _, test := range []struct{ method, word, want string }{
		{"fs/stat", "path=7", `{"path":"7"}`},
		{"fs/stat", "paths=a", `{"paths":["a"]}`},
		{"fs/stat", `paths=["a","b"]`, `{"paths":["a","b"]}`},
		{"fs/search", "regexp=true", `{"regexp":true}`},
		{"fs/search", "regexp=si", ""},
		{"fs/search", "limit=3", `{"limit":3}`},
		{"fs/search", "limit=+3", `{"limit":3}`},
		{"fs/search", "limit=3.5", ""},
		{"fs/search", "timeout_ms=5", `{"timeout_ms":5}`},
		{"config/setAuth", "token=abc", `{"token":"abc"}`},
		{"config/setAuth", "token=null", `{"token":null}`},
		{"vcs/clone", "ref=null", `{"ref":"null"}`},
		{"my/own", "n=3", `{"n":3}`},
		{"my/own", "n=three", `{"n":"three"}`},
	} {
		got, err := callParams(test.method, []string{test.word}, strings.NewReader(""))
		if string(got) != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s %s: %s %v, want %q", test.method, test.word, got, err, test.want)
		}
	}
}
