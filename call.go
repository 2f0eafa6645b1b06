package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// This file is the command-line client. Standard output gets the result as JSON
// and nothing else, so that it can be piped. Progress, notes and errors go to
// standard error, one line each, in lower case.

const callName = schedulerName + " call"

const callIntro = `Usage: c4a-daemon-scheduler call [flags] LIB_ID METHOD [KEY=VALUE… | JSON]

Calls a method of a library's daemon through a running scheduler. If no scheduler
is running, and --url, --host and --port are not set, call starts one for the
duration of this call.

  c4a-daemon-scheduler call demo vcs/clone url=https://example.com/r.git
  c4a-daemon-scheduler call demo fs/readFile path=repos/r/README.md
  c4a-daemon-scheduler call demo fs/stat '{"paths":["a","b"]}'

Each VALUE is converted to the type of the method's parameter: string, number,
true or false. Repeat the KEY of a list to add to it. Exit status: 0 success,
1 the call failed, 2 usage error, 130 ended by SIGINT, 143 by SIGTERM, 129 by
SIGHUP.
`

// probeTimeout bounds the request that checks whether a scheduler is running.
const probeTimeout = 3 * time.Second

// callConfig is the parsed command line of a call.
type callConfig struct {
	scheduler *schedulerConfig
	url       string
	byURL     bool     // --url was given
	named     bool     // --url, --host or --port was given
	local     []string // flags given that only apply to a scheduler started for this call
	libID     string
	method    string
	params    json.RawMessage
}

// address returns the address of the scheduler for messages.
func (c *callConfig) address() string {
	if !c.byURL && strings.HasPrefix(c.scheduler.host, unixPrefix) {
		return c.scheduler.host
	}
	return c.url
}

// call runs the subcommand call.
func (p *program) call(args []string) error {
	c, err := p.callConfig(args)
	if err != nil {
		return err
	}
	defer surviveBrokenPipe()()
	signals := p.watchSignals(signalPlan{name: callName, limit: c.scheduler.stopLimit(), kill: p.started.kill, isCall: true})
	defer signals.close()
	ctx := signals.stopping
	client := &callClient{base: c.url, token: c.scheduler.apiToken, http: &http.Client{}}
	if !c.byURL {
		client.http = c.scheduler.localClient()
	}
	defer client.http.CloseIdleConnections()
	switch found, err := client.probe(ctx); {
	case err != nil:
		return err
	case found && len(c.local) > 0:
		return usage("a scheduler already listens at %s: leave out --%s, which only applies when call starts one, or choose another address with --port", c.address(), c.local[0])
	case found:
		return p.runCall(ctx, client, c)
	case c.named:
		return fmt.Errorf("no scheduler listens at %s: start one, or leave out --url, --host and --port to start one for this call", c.address())
	}
	if c.scheduler.server != nil {
		return usage("--server: a scheduler with another server does not accept calls: leave it out")
	}
	fmt.Fprintf(p.console, "no scheduler listens at %s: starting one for this call\n", c.address())
	return p.callAlone(signals, c)
}

// callAlone runs a scheduler in this process, on a free port, for the duration
// of one call.
func (p *program) callAlone(signals *signalWatch, c *callConfig) (err error) {
	cfg := c.scheduler
	cfg.host, cfg.port = "127.0.0.1", 0
	if !cfg.workspaceGiven {
		workspace, err := (&tempDirs{}).make(callTemp)
		if err != nil {
			return fmt.Errorf("creating a workspace: %w, or --workspace to one", err)
		}
		defer workspace.remove()
		cfg.workspace = workspace.path
	}
	s, err := startScheduler(cfg, p)
	if err != nil {
		return err
	}
	defer s.stop(signals.force)
	client := &callClient{base: s.url(), token: cfg.apiToken, http: cfg.localClient()}
	defer client.http.CloseIdleConnections()
	return p.runCall(signals.stopping, client, c)
}

// callConfig parses and validates the command line and the environment.
func (p *program) callConfig(args []string) (*callConfig, error) {
	c := &callConfig{}
	f := p.newFlagSet(callName, callIntro)
	f.StringVar(&c.url, "url", "", "`URL` of the scheduler (default: the address that --host and --port give, http://127.0.0.1:5110)")
	build := p.schedulerFlags(f)
	if err := f.parse(args); err != nil {
		return nil, err
	}
	f.Visit(func(fl *flag.Flag) {
		switch fl.Name {
		case "url", "host", "port":
			c.named = true
		case "api-token-file", "log-level", "log-format": // apply to a running scheduler too
		default:
			c.local = append(c.local, fl.Name)
		}
	})
	if p.setting("C4A_URL") != "" || p.setting("C4A_PORT") != "" || p.setting("C4A_HOST") != "" {
		c.named = true
	}
	var err error
	if c.scheduler, err = build(f); err != nil {
		return nil, err
	}
	if f.Lookup("log-level").Value.String() == f.Lookup("log-level").DefValue {
		// Show warnings only: the user wants the result, not the log of a scheduler.
		if c.scheduler.log, err = (&logFlags{level: "warn", format: "text"}).logger(p); err != nil {
			return nil, err
		}
	}
	if f.NArg() < 2 {
		return nil, usage("call needs a LIB_ID and a METHOD, such as: call demo vcs/clone url=https://example.com/r.git")
	}
	c.libID, c.method = f.Arg(0), f.Arg(1)
	if err := checkLibID(c.libID); err != nil {
		return nil, usage("%v", err)
	}
	if c.params, err = callParams(c.method, f.Args()[2:]); err != nil {
		return nil, err
	}
	c.byURL = c.url != ""
	if !c.byURL {
		c.url = c.scheduler.baseURL()
	}
	u, err := parseURL(c.url)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return nil, usage("invalid value for --url: must be http://host:port or https://host:port")
	}
	c.url = strings.TrimSuffix(u.String(), "/")
	return c, nil
}

// callParams builds the params of a method from KEY=VALUE arguments or from a
// single JSON object.
func callParams(name string, words []string) (json.RawMessage, error) {
	if len(words) == 1 && strings.HasPrefix(strings.TrimSpace(words[0]), "{") {
		var object json.RawMessage
		if err := decodeJSON([]byte(words[0]), &object); err != nil {
			return nil, usage("the params are not JSON: %v", err) // not the params, which may hold a token
		}
		return json.RawMessage(words[0]), nil
	}
	types := paramTypes(name)
	params := map[string]any{}
	for _, word := range words {
		key, text, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return nil, usage("%q is neither KEY=VALUE nor a JSON object", word)
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
	t, known := types[key]
	switch {
	case !known:
		return text, nil // the daemon ignores unknown parameters
	case text == "null" && t.allows("null"):
		return nil, nil
	case t.allows("string"):
		return text, nil
	case t.allows("boolean"):
		if value, err := strconv.ParseBool(text); err == nil {
			return value, nil
		}
		return nil, usage("%s must be true or false, not %q", key, text)
	case t.allows("array"):
		if !strings.HasPrefix(text, "[") {
			return []any{text}, nil
		}
		var list []any
		if decodeJSON([]byte(text), &list) == nil {
			return list, nil
		}
		return nil, usage("%s must be a string, which may be repeated, or a JSON array, not %q", key, text)
	}
	if t.allows("integer") {
		if value, err := strconv.ParseInt(text, 10, 64); err == nil {
			return value, nil
		}
		return nil, usage("%s must be an integer, not %q", key, text)
	}
	if !json.Valid([]byte(text)) {
		return nil, usage("%s must be JSON, not %q", key, text)
	}
	return json.RawMessage(text), nil
}

// callClient is a client of a scheduler's HTTP API.
type callClient struct {
	base  string
	token secret
	http  *http.Client
}

func (c *callClient) do(ctx context.Context, method, path string, body []byte, accept string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("calling the scheduler: %w", err)
	}
	r.Header.Set("Accept", accept)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+string(c.token))
	}
	return c.http.Do(r)
}

// probe reports whether a scheduler answers at the address. It returns an error
// if another program does, and false without an error if nothing listens there.
func (c *callClient) probe(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	response, err := c.do(ctx, http.MethodGet, "/health", nil, "application/json")
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) { // ErrNotExist: no such Unix socket
			return false, nil
		}
		return false, fmt.Errorf("querying the scheduler at %s: %w", c.base, causeOr(ctx, err))
	}
	defer response.Body.Close()
	var health struct {
		Status  string          `json:"status"`
		Daemons json.RawMessage `json:"daemons"`
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil || decodeJSON(data, &health) != nil || health.Status == "" || health.Daemons == nil {
		return false, fmt.Errorf("the server at %s is not a c4a-daemon-scheduler: set another address with --url", c.base)
	}
	return true, nil
}

// runCall makes the call, shows its progress and prints the result.
func (p *program) runCall(ctx context.Context, client *callClient, c *callConfig) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": c.method, "params": c.params})
	if err != nil {
		return usage("the params are not JSON: %v", err)
	}
	response, err := client.do(ctx, http.MethodPost, "/libraries/"+url.PathEscape(c.libID)+"/rpc", body, "text/event-stream")
	if err != nil {
		return fmt.Errorf("calling the scheduler: %w", causeOr(ctx, err))
	}
	defer response.Body.Close()
	if kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";"); kind != "text/event-stream" {
		return p.printProblem(ctx, response)
	}
	bar := newProgressBar(p.stderr, p.console)
	defer bar.end()
	answer, err := readEvents(response.Body, bar.show)
	if err != nil {
		return fmt.Errorf("reading the response: %w", causeOr(ctx, err))
	}
	bar.end()
	return p.printResponse(ctx, answer)
}

// causeOr returns the cause of ctx if ctx has ended, and err otherwise: a
// cancelled read only reports that it was cancelled.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// printProblem returns the error that the scheduler sent instead of an event
// stream.
func (p *program) printProblem(ctx context.Context, response *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("reading the response: %w", err)
	}
	var problem struct {
		Code   string          `json:"code"`
		Detail string          `json:"detail"`
		Error  json.RawMessage `json:"error"`
	}
	if decodeJSON(data, &problem) == nil && problem.Error != nil {
		return p.printResponse(ctx, data)
	}
	if problem.Code == "" {
		return fmt.Errorf("the scheduler returned %s", response.Status)
	}
	return fmt.Errorf("%s: %s", problem.Code, cleanText(problem.Detail))
}

// printResponse prints the result of a JSON-RPC response on standard output, or
// returns its error.
func (p *program) printResponse(ctx context.Context, data []byte) error {
	m, err := decodeEnvelope(data)
	if err != nil {
		return fmt.Errorf("reading the response: %w", err)
	}
	if m.Error != nil {
		var e rpcError
		if err := decodeJSON(m.Error, &e); err != nil {
			return fmt.Errorf("reading the response: %w", err)
		}
		name := strconv.Itoa(e.Code)
		if e.name() != "" {
			name += " " + string(e.name())
		}
		return fmt.Errorf("%s: %s", name, cleanText(e.Message))
	}
	var out bytes.Buffer
	if err := json.Indent(&out, m.Result, "", "  "); err != nil {
		return fmt.Errorf("reading the response: %w", err)
	}
	out.WriteByte('\n')
	return p.print(ctx, out.Bytes())
}

// print writes data to standard output. If ctx ends first, it returns the cause.
func (p *program) print(ctx context.Context, data []byte) error {
	written := make(chan error, 1)
	go func() { // nobody waits for a write that the reader of the output blocks
		_, err := p.stdout.Write(data)
		written <- err
	}()
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// readEvents reads Server-Sent Events up to the result and passes each progress
// event to show.
//
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func readEvents(r io.Reader, show func(progress)) ([]byte, error) {
	lines := bufio.NewReader(r)
	event := ""
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil, errors.New("the scheduler closed the connection before it sent the result")
		}
		line = bytes.TrimRight(line, "\r\n")
		if name, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			event = string(name)
			continue
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		switch {
		case !ok:
		case event == "result":
			return data, nil
		case event == "progress":
			var p progress
			if decodeJSON(data, &p) == nil {
				show(p)
			}
		}
	}
}

// progressBar shows the progress of a call: a line that is overwritten on a
// terminal, otherwise one line for each phase.
type progressBar struct {
	out      io.Writer
	terminal bool
	width    int    // characters on the line
	phase    string // the last phase shown
	ended    bool
}

// newProgressBar returns a bar that writes to out and looks as is right for
// stream, where out ends.
func newProgressBar(stream *os.File, out io.Writer) *progressBar {
	info, err := stream.Stat()
	return &progressBar{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (b *progressBar) show(p progress) {
	if b.ended {
		return
	}
	phase := cleanText(p.Phase)
	if phase == "" {
		phase = "working"
	}
	if !b.terminal {
		if phase != b.phase {
			fmt.Fprintf(b.out, "%3d%% %s\n", p.Percent, phase)
		}
		b.phase = phase
		return
	}
	const cells = 24
	full := max(0, min(p.Percent, 100)) * cells / 100
	line := fmt.Sprintf("[%s%s] %3d%% %s", strings.Repeat("#", full), strings.Repeat(".", cells-full), p.Percent, phase)
	if p.Bytes > 0 {
		line += " " + byteText(p.Bytes)
	}
	if p.BytesPerSecond > 0 {
		line += ", " + byteText(p.BytesPerSecond) + "/s"
	}
	fmt.Fprintf(b.out, "\r%-*s", b.width, line)
	b.width = len(line)
}

// end clears the line.
func (b *progressBar) end() {
	if b.terminal && !b.ended && b.width > 0 {
		fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", b.width))
	}
	b.ended = true
}

// byteText formats a number of bytes for people, such as "1.5 MiB".
func byteText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefixes := float64(n)/unit, "KMGTPE"
	for value >= unit && len(prefixes) > 1 {
		value /= unit
		prefixes = prefixes[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, prefixes[0])
}
