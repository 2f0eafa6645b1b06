//go:build linux || darwin

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const referenceIntro = `# Reference

<!-- Written by: go test -run TestReference -update . Edit the Go code, not this file. -->

The protocol, the HTTP API and the flags of ` + "`c4a-daemon`" + ` and ` + "`c4a-daemon-scheduler`" + `, version ` + developmentVersion + `.
The tables are generated from the types and flags of the programs, and the examples by running them. A test fails
when this file is out of date.

`

// TestReference fails when REFERENCE.md differs from what it generates from the
// tables, types and flags of the programs. It runs every example.
func TestReference(t *testing.T) {
	t.Parallel()
	var r reference
	r.WriteString(referenceIntro)
	b := newExampleBench(t)
	r.session(t, b)
	r.methods(t, b)
	r.errors(t)
	r.http(t)
	r.programs(t)
	const file = "REFERENCE.md"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, r.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(have, r.Bytes()) {
		return
	}
	was, is := strings.Split(string(have), "\n"), strings.Split(r.String(), "\n")
	for i := range min(len(was), len(is)) {
		if was[i] != is[i] {
			t.Errorf("%s:%d: got\n%s\nwant\n%s", file, i+1, was[i], is[i])
			break
		}
	}
	t.Errorf("%s is out of date: update it with\n\tgo test -run TestReference -update .", file)
}

// reference is the text of REFERENCE.md while it is being written.
type reference struct{ bytes.Buffer }

func (r *reference) say(format string, args ...any) { fmt.Fprintf(r, format, args...) }

// code writes a code block.
func (r *reference) code(language, text string) {
	r.say("```%s\n%s\n```\n\n", language, strings.TrimRight(text, "\n"))
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// fields writes a table of the keys of a type.
func (r *reference) fields(head string, fields []jsonField, nested bool) {
	r.say("| %s | type | |\n|---|---|---|\n", head)
	r.rows("", fields, nested)
	r.say("\n")
}

// rows writes a row for each key. The keys of nested objects follow after a
// dot; [] marks a list.
func (r *reference) rows(prefix string, fields []jsonField, nested bool) {
	for _, f := range fields {
		element, suffix := f.typ, ""
		for element.Kind() == reflect.Pointer || element.Kind() == reflect.Slice && element != reflect.TypeFor[json.RawMessage]() {
			if element.Kind() == reflect.Slice {
				suffix += "[]"
			}
			element = element.Elem()
		}
		mark := ""
		if f.optional {
			mark = "?"
		}
		r.say("| `%s%s%s` | %s | %s |\n", prefix, f.name, mark, cell(typeWords(f)), cell(f.doc))
		if nested && element.Kind() == reflect.Struct && element != reflect.TypeFor[time.Time]() {
			r.rows(prefix+f.name+suffix+".", jsonFields(element), nested)
		}
	}
}

// typeWords returns the type of a key in words.
func typeWords(f jsonField) string {
	s := newSchemas().field(f)
	return schemaWords(s)
}

func schemaWords(s *schema) string {
	switch {
	case len(s.Enum) > 0:
		return "`" + strings.Join(s.Enum, "` `") + "`"
	case len(s.AnyOf) > 0:
		return schemaWords(s.AnyOf[0]) + " or null"
	case s.Items != nil:
		if words := schemaWords(s.Items); words != "object" {
			return "array of " + words + "s"
		}
		return "array of objects"
	case s.Ref != "", len(s.AllOf) > 0:
		return "object"
	}
	switch types := s.Type.(type) {
	case string:
		if s.Format == "date-time" {
			return "RFC 3339 time"
		}
		return types
	case []string:
		return strings.Join(types, " or ")
	}
	return "any"
}

// session writes the section on the handshake, heartbeats and the end of a
// link.
func (r *reference) session(t *testing.T, b *exampleBench) {
	r.say(`## Session

The daemon dials `+"`GET %s`"+` (RFC 6455), with `+"`Authorization: Bearer TOKEN`"+` if it has a token, and with
its machine id, percent-encoded, in `+"`%s`"+`. Each text message is one JSON-RPC 2.0 message or a batch of 1 to %d.
Both sides may send requests. A key marked with ? may be absent.

The first message of the daemon is this request:

`, linkPath, machineIDHeader, maxBatch)
	params := b.daemon.handshake()
	params.GitVersion = b.daemon.git.version()
	handshake, err := encodeCall(json.RawMessage("1"), "daemon/handshake", params)
	if err != nil {
		t.Fatal(err)
	}
	r.code("json", b.text(string(handshake)))
	r.fields("daemon/handshake", jsonFields(reflect.TypeFor[handshakeParams]()), false)
	answer, err := json.Marshal(handshakeResult{Accepted: true, LibID: "lib_abc123", HeartbeatIntervalMS: defaultHeartbeatInterval.Milliseconds()})
	if err != nil {
		t.Fatal(err)
	}
	r.say("The server responds within %v:\n\n", handshakeTimeout)
	r.code("json", `{"jsonrpc":"2.0","id":1,"result":`+string(answer)+`}`)
	r.fields("result", jsonFields(reflect.TypeFor[handshakeResult]()), false)
	r.say("The daemon then sends the notification `daemon/heartbeat`, at once and after each interval:\n\n")
	r.fields("daemon/heartbeat", jsonFields(reflect.TypeFor[heartbeat]()), false)
	r.say(`The notification ` + "`$/cancelRequest {\"id\":…}`" + ` cancels a request, which then fails with -32800. When a link is
lost, its requests are cancelled, except clones and requests with a ` + "`task_id`" + `.

A clone, and every request that takes longer than a second, reports progress with the notification ` + "`task/progress`" + `:

`)
	r.fields(progressMethod, jsonFields(reflect.TypeFor[taskProgress]()), false)
	r.say(`| close code | |
|---|---|
| 1001 | the other side is stopping |
| 1003 | a binary message was received |
| 1008 | the handshake is missing, late or refused |
| 1009 | a message exceeds the limit (` + "`--max-message`" + `) |
| 4001 | replaced by another process of the same cloud machine: do not reconnect |
| 4002 | no heartbeat was received in time |

`)
}

// methods writes the section on the methods: parameters, result, errors and
// examples.
func (r *reference) methods(t *testing.T, b *exampleBench) {
	examples := methodExamples()
	table := builtinMethods()
	slices.SortFunc(table, func(x, y *method) int { return strings.Compare(x.name, y.name) })
	r.say("## Methods\n\nParameters are passed by name. A path is absolute or relative to the work dir. After its symbolic links are resolved, it\nmust be inside an allowed directory. Every method also accepts these parameters:\n\n")
	r.fields("parameter", jsonFields(reflect.TypeFor[commonParams]()), false)
	r.say("The default time limit is %d ms; for `%s` it is %d ms.\n\n", defaultMethodTimeout.Milliseconds(), cloneMethod, cloneMethodTimeout.Milliseconds())
	everyone := (&method{}).errorCodes()
	r.say("Every method may fail with -32602, -32603, %s.\n\n", codeList(everyone))
	for _, m := range table {
		r.say("### %s\n\n%s\n\n", m.name, m.summary)
		if fields := jsonFields(m.params); len(fields) > 0 {
			r.fields("parameter", fields, true)
		}
		if m.name == "rpc.discover" {
			r.say("The result is an [OpenRPC](https://spec.open-rpc.org) %s document of all methods of this daemon, including those added with `--handler`.\n\n", openrpcVersion)
		} else {
			r.fields("result", jsonFields(m.result), true)
		}
		own := slices.DeleteFunc(m.errorCodes(), func(c errorCode) bool { return slices.Contains(everyone, c) })
		if len(own) > 0 {
			r.say("Errors: %s.\n\n", codeList(own))
		}
		of := slices.DeleteFunc(slices.Clone(examples), func(e methodExample) bool { return e.method != m.name })
		if len(of) == 0 {
			t.Errorf("%s has no example: add one to methodExamples", m.name)
		}
		for _, e := range of {
			request, answer := b.run(e)
			if e.hidden {
				answer = ""
			}
			r.code("json", request+"\n"+answer)
		}
	}
}

func codeList(codes []errorCode) string {
	var names []string
	for _, c := range codes {
		names = append(names, "`"+string(c)+"`")
	}
	return strings.Join(names, ", ")
}

// errors writes the section on the error codes of the link.
func (r *reference) errors(t *testing.T) {
	r.say("## Error codes\n\n| code | `data.code` | when |\n|---|---|---|\n")
	own := ownMeanings()
	for _, code := range []int{codeParseError, codeInvalidRequest, codeMethodNotFound, codeInvalidParams, codeInternal} {
		r.say("| %d | | %s |\n", code, own[code])
	}
	for _, meaning := range errorMeanings() {
		r.say("| %d | `%s` | %s |\n", meaning.code.number(), meaning.code, meaning.when)
	}
	var reasons []string
	for _, name := range constantsOf(t, "git_error.go", "gitReason") {
		reasons = append(reasons, "`"+name+"`")
	}
	r.say("\n`data.reason` of `GIT_FAILED` is one of %s.\n\n", strings.Join(reasons, " "))
}

// constantsOf returns the values of the constants of a string type in a file.
func constantsOf(t *testing.T, name, of string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == of {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Error(err)
			}
			values = append(values, text)
		}
		return true
	})
	if len(values) == 0 {
		t.Errorf("%s has no constants of the type %s, want some: name the file that declares them", name, of)
	}
	return values
}

// programs writes the section on the flags, as --help prints them, and the exit
// statuses.
func (r *reference) programs(t *testing.T) {
	r.say("## Programs\n\nA flag takes precedence over its variable. A token is read from the first line of a file or from a variable, never from\na flag.\n\n")
	r.flags(daemonName, func(p *program) *flagSet { f, _ := p.daemonFlagSet(); return f })
	r.say(`A handler is a program that implements a method of your own, such as ` + "`--handler lint/run='my-lint --json'`" + `. The command
is split at spaces; quotes work, but no shell is run. The program is looked up once, when the daemon starts. It reads the
params as one line of JSON from its standard input, with the task_id of the request among them if it has one, and writes the
result as one JSON value to its standard output. Lines
such as ` + "`{\"percent\":40,\"message\":\"half-way\"}`" + ` on file descriptor 3 are sent as progress (not on Windows). If the program
exits with a status other than 0, the request fails with -32603 and the last line of its standard error. ` + "`C4A_`" + ` variables
are not passed to it. It is ended with SIGTERM, then SIGKILL. The variable has one handler per line.

`)
	r.flags(schedulerName, func(p *program) *flagSet { f, _ := p.schedulerFlagSet(); return f })
	r.commands()
	r.say("| exit | `%s` | `%s` | `call` |\n|---|---|---|---|\n", daemonName, schedulerName)
	for _, e := range []struct {
		status                  int
		daemon, scheduler, call string
	}{
		{exitStopped, "stopped by a signal", "stopped by a signal", "the result was printed"},
		{exitFailure, "failed, or stopped by a second signal", "failed, or stopped by a second signal", "the call failed"},
		{exitUsage, "usage error", "usage error", "usage error"},
		{exitGaveUp, "gave up reconnecting", "", ""},
		{exitRefused, "refused by the server", "", ""},
		{exitReplaced, "replaced by another daemon with the same machine id", "", ""},
		{128 + int(syscall.SIGINT), "", "", "ended by SIGINT; 129 by SIGHUP, 143 by SIGTERM"},
	} {
		r.say("| %d | %s | %s | %s |\n", e.status, e.daemon, e.scheduler, e.call)
	}
}

// flags writes the flags of a program as a table.
func (r *reference) flags(name string, of func(*program) *flagSet) {
	r.say("### %s\n\n", name)
	r.flagTable(of(quietProgram()).rows(), true)
}

// TestReadmeFlags fails when the table of flags in README.md differs from the flags
// of the programs; -update writes it.
func TestReadmeFlags(t *testing.T) {
	const file, begin, end = "README.md", "<!-- flags: go test -run TestReadmeFlags -update . -->\n", "<!-- end of flags -->\n"
	var r reference
	p := quietProgram()
	daemon, _ := p.daemonFlagSet()
	scheduler, _ := p.schedulerFlagSet()
	for _, program := range []struct {
		name string
		rows []flagRow
	}{{daemonName, daemon.rows()}, {schedulerName, scheduler.rows()}} {
		r.say("| `%s` | |\n|---|---|\n", program.name)
		for _, row := range program.rows {
			if row.group == "Basics" {
				r.say("| `%s` | %s |\n", cell(row.flag()+" "+row.kind), cell(row.text))
			}
		}
		r.say("\n")
	}
	text := readText(t, file)
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table of flags between %q and %q, want one", file, begin, end)
	}
	want := before + begin + "\n" + r.String() + end + after
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != want {
		t.Errorf("the table of flags in %s is out of date: update it with\n\tgo test -run TestReadmeFlags -update .", file)
	}
}

// quietProgram is a program without environment, of which only tables are asked.
func quietProgram() *program {
	return &program{getenv: func(string) string { return "" }, environ: func() []string { return nil }}
}

// flagTable writes rows as a table; grouped adds a line for each group.
func (r *reference) flagTable(rows []flagRow, grouped bool) {
	r.say("| flag | variable | |\n|---|---|---|\n")
	group := ""
	for _, row := range rows {
		if grouped && row.group != group {
			r.say("| **%s** | | |\n", row.group)
		}
		group = row.group
		variable := ""
		if row.variable != "" {
			variable = "`" + row.variable + "`"
		}
		r.say("| `%s` | %s | %s |\n", cell(strings.TrimRight(row.flag()+" "+row.kind, " ")), variable, cell(row.text))
	}
	r.say("\n")
}

// commands writes the commands of the scheduler as a table, with the flags that
// they have of their own.
func (r *reference) commands() {
	r.say("Commands come before all flags. `help COMMAND` explains one, `completion` prints a script for the shell; `%s` has both too, and\n`version`. A command that asks a running scheduler finds it with `--url`, `--host` or `--port`; `call` accepts all flags of the scheduler besides.\n\n", daemonName)
	r.say("| command | flags of its own | |\n|---|---|---|\n")
	p := quietProgram()
	for _, c := range schedulerCommands() {
		f, _ := p.commandFlags(schedulerName, c)
		var own []string
		for _, row := range f.rows() {
			if row.group == "Output" || row.group == "Call" {
				own = append(own, "`"+strings.TrimRight(row.flag()+" "+row.kind, " ")+"`")
			}
		}
		r.say("| `%s` | %s | %s |\n", cell(strings.TrimRight(c.name+" "+c.words, " ")), strings.Join(own, " "), c.about)
	}
	r.say("\n")
}

// pretty breaks JSON into lines if it does not fit on one.
func pretty(text string) string {
	var compact bytes.Buffer
	if json.Compact(&compact, []byte(text)) != nil {
		return text
	}
	return prettyValue(compact.Bytes(), "")
}

func prettyValue(raw []byte, indent string) string {
	const width = 110
	if len(indent)+len(raw) <= width || (raw[0] != '{' && raw[0] != '[') {
		return string(raw)
	}
	if raw[0] == '[' && !bytes.ContainsAny(raw[1:], "{[") {
		return string(raw) // a list of words
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	open, _ := decoder.Token() // cannot fail: json.Compact accepted it
	var parts []string
	for decoder.More() {
		key := ""
		if open == json.Delim('{') {
			name, _ := decoder.Token()
			quoted, _ := json.Marshal(name)
			key = string(quoted) + ": "
		}
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			return string(raw)
		}
		parts = append(parts, indent+"  "+key+prettyValue(value, indent+"  "))
	}
	return fmt.Sprintf("%c\n%s\n%s%c", raw[0], strings.Join(parts, ",\n"), indent, raw[len(raw)-1])
}

// httpText formats a response as it is sent: status line, important headers and
// body.
func httpText(response *http.Response, body string) string {
	var text strings.Builder
	text.WriteString("HTTP/1.1 " + response.Status + "\n")
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if value := response.Header.Get(name); value != "" {
			text.WriteString(name + ": " + value + "\n")
		}
	}
	return text.String() + "\n" + body
}

// readSome reads to the end, or until enough returns true.
func readSome(r io.Reader, enough func(string) bool) (string, error) {
	var text strings.Builder
	part := make([]byte, 4096)
	for {
		n, err := r.Read(part)
		text.Write(part[:n])
		if err == io.EOF || enough != nil && enough(text.String()) {
			return text.String(), nil
		}
		if err != nil {
			return "", err
		}
	}
}
