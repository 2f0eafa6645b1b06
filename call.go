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
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// This file is the command-line client. The rules of its voice: the result,
// and nothing else, goes to standard output as JSON; progress, remarks and
// errors go to standard error, one line each, in lower case.

const callIntro = `Usage: c4a-daemon-scheduler call [flags] LIB_ID METHOD [KEY=VALUE… | JSON]

Calls a method of a library's daemon through a running scheduler. When none is
named by --url, --host or --port and none listens, it runs one for this call.

  c4a-daemon-scheduler call demo vcs/clone url=https://example.com/r.git
  c4a-daemon-scheduler call demo fs/readFile path=repos/r/README.md
  c4a-daemon-scheduler call demo fs/stat '{"paths":["a","b"]}'

A VALUE becomes what the method's parameter is: a text, number, true or false;
a KEY that is a list may be repeated. Exit: 0, 1 when the call failed, 2 wrong use.
`

// probeTimeout is how long the client waits to hear whether a scheduler is
// there.
const probeTimeout = 3 * time.Second

// callConfig is a call's command line.
type callConfig struct {
	scheduler *schedulerConfig
	url       string
	byURL     bool     // --url was given
	named     bool     // the user said where the scheduler is
	local     []string // flags that only a scheduler of one's own can take
	libID     string
	method    string
	params    json.RawMessage
}

// place is where the scheduler is, for people.
func (c *callConfig) place() string {
	if !c.byURL && strings.HasPrefix(c.scheduler.host, unixPrefix) {
		return c.scheduler.host
	}
	return c.url
}

// call is c4a-daemon-scheduler call.
func (p *program) call(args []string) error {
	c, err := p.callConfig(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	defer stop()
	client := &callClient{base: c.url, token: c.scheduler.apiToken, http: &http.Client{}}
	if !c.byURL {
		client.http = c.scheduler.localClient()
	}
	defer client.http.CloseIdleConnections()
	switch found, err := client.probe(ctx); {
	case err != nil:
		return err
	case found && len(c.local) > 0:
		return usage("a scheduler listens at %s: --%s is for starting one, so leave it out, or name another place with --port", c.place(), c.local[0])
	case found:
		return p.ask(ctx, client, c)
	case c.named:
		return fmt.Errorf("no scheduler listens at %s: start one, or leave out --url, --host and --port to run one for this call", c.place())
	}
	if c.scheduler.server != nil {
		return usage("--server: a scheduler that has another server cannot be called: leave it out")
	}
	fmt.Fprintf(p.stderr, "no scheduler listens at %s: running one for this call\n", c.place())
	return p.callAlone(ctx, c)
}

// callAlone runs a scheduler in this process, on a free port, for one call.
func (p *program) callAlone(ctx context.Context, c *callConfig) (err error) {
	cfg := c.scheduler
	cfg.host, cfg.port = "127.0.0.1", 0
	if !cfg.workspaceGiven {
		if cfg.workspace, err = os.MkdirTemp("", "c4a-call-"); err != nil {
			return fmt.Errorf("making a workspace: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(cfg.workspace)) }()
	}
	s, err := startScheduler(cfg, p)
	if err != nil {
		return err
	}
	defer func() {
		quick, cancel := context.WithCancel(context.Background())
		defer cancel()
		s.stop(quick)
	}()
	client := &callClient{base: s.url(), token: cfg.apiToken, http: cfg.localClient()}
	defer client.http.CloseIdleConnections()
	return p.ask(ctx, client, c)
}

// callConfig reads the command line and the environment of a call.
func (p *program) callConfig(args []string) (*callConfig, error) {
	c := &callConfig{}
	f := p.newFlagSet(schedulerName+" call", callIntro)
	f.StringVar(&c.url, "url", "", "`URL` of the scheduler (default: http://127.0.0.1:5110, or what --host and --port say)")
	build := p.schedulerFlags(f)
	if err := f.parse(args); err != nil {
		return nil, err
	}
	f.Visit(func(fl *flag.Flag) {
		switch fl.Name {
		case "url", "host", "port":
			c.named = true
		case "api-token-file", "log-level", "log-format": // mean the same to both
		default:
			c.local = append(c.local, fl.Name)
		}
	})
	if p.getenv("C4A_URL") != "" || p.getenv("C4A_PORT") != "" || p.getenv("C4A_HOST") != "" {
		c.named = true
	}
	var err error
	if c.scheduler, err = build(f); err != nil {
		return nil, err
	}
	if f.Lookup("log-level").Value.String() == f.Lookup("log-level").DefValue {
		// The caller wants an answer, not the news of a scheduler.
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
	u, err := url.Parse(c.url)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return nil, usage("invalid value for --url: must be http://host:port or https://host:port")
	}
	c.url = strings.TrimSuffix(c.url, "/")
	return c, nil
}

// callParams makes the params of a method from KEY=VALUE words, or from one
// word of JSON.
func callParams(name string, words []string) (json.RawMessage, error) {
	if len(words) == 1 && strings.HasPrefix(strings.TrimSpace(words[0]), "{") {
		if !json.Valid([]byte(words[0])) {
			return nil, usage("the params are not JSON: %s", words[0])
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

// paramTypes are the schemas of a built-in method's parameters by name; nil when
// the method is not one.
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

// callValue converts one VALUE. Of an unknown method it is JSON where it
// parses, else a text.
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
		return text, nil // the daemon ignores what it does not know
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
		if json.Unmarshal([]byte(text), &list) == nil {
			return list, nil
		}
		return nil, usage("%s must be a text, which may be repeated, or a JSON array, not %q", key, text)
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

// callClient talks to a scheduler's HTTP API.
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

// probe asks whether a scheduler answers. Nobody is no error; somebody else
// is.
func (c *callClient) probe(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	response, err := c.do(ctx, http.MethodGet, "/health", nil, "application/json")
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) { // the latter of a Unix socket
			return false, nil
		}
		return false, fmt.Errorf("asking the scheduler at %s: %w", c.base, err)
	}
	defer response.Body.Close()
	var health struct {
		Status  string          `json:"status"`
		Daemons json.RawMessage `json:"daemons"`
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil || json.Unmarshal(data, &health) != nil || health.Status == "" || health.Daemons == nil {
		return false, fmt.Errorf("what answers at %s is no c4a-daemon-scheduler: name another place with --url", c.base)
	}
	return true, nil
}

// ask makes the call, shows its progress and prints the result.
func (p *program) ask(ctx context.Context, client *callClient, c *callConfig) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": c.method, "params": c.params})
	if err != nil {
		return usage("the params are not JSON: %v", err)
	}
	response, err := client.do(ctx, http.MethodPost, "/libraries/"+url.PathEscape(c.libID)+"/rpc", body, "text/event-stream")
	if err != nil {
		return fmt.Errorf("calling the scheduler: %w", cmpCause(ctx, err))
	}
	defer response.Body.Close()
	if kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";"); kind != "text/event-stream" {
		return p.printRefusal(response)
	}
	bar := newProgressBar(p.stderr)
	defer bar.end()
	answer, err := readEvents(response.Body, bar.show)
	if err != nil {
		return fmt.Errorf("reading the answer: %w", cmpCause(ctx, err))
	}
	bar.end()
	return p.printAnswer(answer)
}

// cmpCause prefers the reason why ctx ended over what that did to a read.
func cmpCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// printRefusal tells what the scheduler said in place of a stream.
func (p *program) printRefusal(response *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	var problem struct {
		Code   string          `json:"code"`
		Detail string          `json:"detail"`
		Error  json.RawMessage `json:"error"`
	}
	if json.Unmarshal(data, &problem) == nil && problem.Error != nil {
		return p.printAnswer(data)
	}
	if problem.Code == "" {
		return fmt.Errorf("the scheduler answered %s", response.Status)
	}
	return fmt.Errorf("%s: %s", problem.Code, cleanText(problem.Detail))
}

// printAnswer prints a result on standard output, an error on standard error.
func (p *program) printAnswer(data []byte) error {
	var m envelope
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if m.Error != nil {
		var e rpcError
		if err := json.Unmarshal(m.Error, &e); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		name := strconv.Itoa(e.Code)
		if e.name() != "" {
			name += " " + string(e.name())
		}
		return fmt.Errorf("%s: %s", name, cleanText(e.Message))
	}
	var out bytes.Buffer
	if err := json.Indent(&out, m.Result, "", "  "); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	out.WriteByte('\n')
	_, err := p.stdout.Write(out.Bytes())
	return err
}

// readEvents reads a stream of Server-Sent Events up to the result.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func readEvents(r io.Reader, show func(progress)) ([]byte, error) {
	lines := bufio.NewReader(r)
	event := ""
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil, errors.New("the scheduler hung up before the result")
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
			if json.Unmarshal(data, &p) == nil {
				show(p)
			}
		}
	}
}

// progressBar shows a call's progress: one line that is written over on a
// terminal, else a line for each phase.
type progressBar struct {
	out      *os.File
	terminal bool
	width    int    // of what stands on the line
	phase    string // the last one told
	ended    bool
}

func newProgressBar(out *os.File) *progressBar {
	info, err := out.Stat()
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

// end clears the line for what comes next.
func (b *progressBar) end() {
	if b.terminal && !b.ended && b.width > 0 {
		fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", b.width))
	}
	b.ended = true
}

// byteText is a number of bytes for people.
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
