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
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// This file is the command call. Standard output gets the result as JSON and
// nothing else, so that it can be piped. Progress, notes and errors go to standard
// error, one line each, in lower case.

const callName = schedulerName + " call"

const callIntro = `Examples:
  c4a-daemon-scheduler call demo vcs/clone url=https://example.com/r.git
  c4a-daemon-scheduler call demo fs/readFile path=repos/r/README.md
  c4a-daemon-scheduler call demo fs/stat '{"paths":["a","b"]}'
  c4a-daemon-scheduler call demo config/setAuth host=github.com token=@token.txt
  c4a-daemon-scheduler call demo vcs/log --timeout 5s - < params.json

Calls a method of a library's daemon through a running scheduler. If no scheduler
is running, and --url, --host and --port are not set, call starts one for the
duration of this call.

Each VALUE is converted to the type of the method's parameter: string, number,
true or false. Repeat the KEY of a list to add to it. KEY=@FILE takes the value
from a file, without the line end at its end; KEY=@@TEXT is @TEXT. A single - reads
the params as a JSON object from standard input.
`

const callOutro = `Exit status: 0 success, 1 the call failed, 2 usage error, 130 ended by SIGINT,
143 by SIGTERM, 129 by SIGHUP.
`

// callConfig is the parsed command line of a call.
type callConfig struct {
	scheduler *schedulerConfig
	client    *apiClient
	named     bool     // --url, --host or --port was given
	local     []string // flags given that only apply to a scheduler started for this call
	raw       bool     // print the whole answer
	timeout   time.Duration
	libID     string
	method    string
	params    json.RawMessage
}

// callCommand is the subcommand call.
func callCommand() command {
	return command{
		name: "call", words: "LIB_ID METHOD [KEY=VALUE… | JSON | -]", min: 2, most: -1, about: "call a method of a library's daemon",
		intro: callIntro,
		define: func(p *program, f *flagSet) func() error {
			f.outro = callOutro
			c := &callConfig{}
			var address string
			f.StringVar(&address, "url", "", "`URL` of the scheduler (default: the address that --host and --port give, http://127.0.0.1:5110)")
			f.DurationVar(&c.timeout, "timeout", 0, "`TIME` after which the call fails, at most a day (default: the time limit of the method)")
			f.BoolVar(&c.raw, "raw", false, "print the whole JSON-RPC response as it was received")
			f.group("Call")
			build := p.schedulerFlags(f)
			return func() error {
				if err := p.callConfig(c, f, build, address); err != nil {
					return err
				}
				return p.call(c)
			}
		},
		methods: func() []methodWords {
			var all []methodWords
			for _, m := range builtinMethods() {
				words := methodWords{name: m.name, about: m.summary}
				for _, f := range m.paramFields() {
					words.keys = append(words.keys, f.name)
				}
				all = append(all, words)
			}
			return all
		},
	}
}

// call runs the subcommand call.
func (p *program) call(c *callConfig) error {
	p.surviveBrokenPipe()
	signals := p.watchSignals(signalPlan{name: callName, limit: c.scheduler.stopLimit(), kill: p.started.kill, isCall: true})
	defer signals.close()
	ctx := signals.stopping
	defer c.client.close()
	switch found, err := c.client.probe(ctx); {
	case err != nil:
		return err
	case found && len(c.local) > 0:
		return usage("a scheduler already listens at %s: leave out --%s, which only applies when call starts one, or choose another address with --port", c.client.shown, c.local[0])
	case found:
		return p.runCall(ctx, c.client, c)
	case c.named:
		return fmt.Errorf("no scheduler listens at %s: start one, or leave out --url, --host and --port to start one for this call", c.client.shown)
	}
	if c.scheduler.server != nil {
		return usage("--server: a scheduler with another server does not accept calls: leave it out")
	}
	fmt.Fprintf(p.console, "no scheduler listens at %s: starting one for this call\n", c.client.shown)
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
		fmt.Fprintln(p.console, "the workspace is temporary and removed at the end: set --workspace to keep what the call writes")
	}
	s, err := startScheduler(cfg, p)
	if err != nil {
		return err
	}
	defer s.stop(signals.force)
	client := &apiClient{base: s.url(), shown: s.url(), token: cfg.apiToken, http: cfg.localClient()}
	defer client.close()
	return p.runCall(signals.stopping, client, c)
}

// callConfig validates the command line and the environment.
func (p *program) callConfig(c *callConfig, f *flagSet, build func(*flagSet) (*schedulerConfig, error), address string) error {
	f.Visit(func(fl *flag.Flag) {
		switch fl.Name {
		case "url", "host", "port":
			c.named = true
		case "timeout", "raw", "api-token-file", "ca-file", "client-cert", "client-key", "log-level", "log-format": // apply to a running scheduler too
		default:
			c.local = append(c.local, fl.Name)
		}
	})
	if p.setting("C4A_URL") != "" || p.setting("C4A_PORT") != "" || p.setting("C4A_HOST") != "" {
		c.named = true
	}
	var err error
	if c.scheduler, err = build(f); err != nil {
		return err
	}
	if f.Lookup("log-level").Value.String() == f.Lookup("log-level").DefValue {
		// Show warnings only: the user wants the result, not the log of a scheduler.
		if c.scheduler.log, err = (&logFlags{level: "warn", format: "text"}).logger(p); err != nil {
			return err
		}
	}
	c.libID, c.method = f.words[0], f.words[1]
	if err := checkLibID(c.libID); err != nil {
		return usage("%v", err)
	}
	if c.params, err = callParams(c.method, f.words[2:], p.stdin); err != nil {
		return err
	}
	if c.timeout != 0 {
		if c.timeout < time.Millisecond || c.timeout > maxRequestTimeout {
			return usage("invalid value %v for --timeout: must be 1ms to a day", c.timeout)
		}
		if c.params, err = withTimeout(c.params, c.timeout); err != nil {
			return err
		}
	}
	c.client, err = newAPIClient(c.scheduler, address)
	return err
}

// runCall makes the call, shows its progress and prints the result.
func (p *program) runCall(ctx context.Context, client *apiClient, c *callConfig) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": c.method, "params": c.params})
	if err != nil {
		return usage("the params are not JSON: %v", err)
	}
	response, err := client.do(ctx, http.MethodPost, "/libraries/"+url.PathEscape(c.libID)+"/rpc", body, "Accept", "text/event-stream")
	if err != nil {
		return cancelled(c, err)
	}
	defer response.Body.Close()
	if kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";"); kind != "text/event-stream" {
		return p.printProblem(ctx, client, response, c)
	}
	bar := newProgressBar(p.stderr, p.console)
	defer bar.end()
	answer, err := readEvents(response.Body, bar.show)
	if err != nil {
		bar.end()
		return cancelled(c, fmt.Errorf("reading the response: %w", causeOr(ctx, err)))
	}
	bar.end()
	p.console.flush(flushTime) // the bar goes before the result comes on another stream
	return p.printResponse(ctx, answer, c)
}

// cancelled says of a call that a signal ended what becomes of the work: the
// scheduler cancels it once the connection is closed.
func cancelled(c *callConfig, err error) error {
	if stopped, ok := errors.AsType[*signalError](err); ok {
		return fmt.Errorf("%s was cancelled, its daemon stops the work: %w", shownText(c.method), stopped)
	}
	return err
}

// printProblem returns the error that the scheduler sent instead of an event
// stream.
func (p *program) printProblem(ctx context.Context, client *apiClient, response *http.Response, c *callConfig) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return cancelled(c, fmt.Errorf("reading the response: %w", causeOr(ctx, err)))
	}
	var answer struct {
		Error json.RawMessage `json:"error"`
	}
	if decodeJSON(data, &answer) == nil && answer.Error != nil {
		return p.printResponse(ctx, data, c)
	}
	response.Body = io.NopCloser(bytes.NewReader(data))
	return client.refusal(response)
}

// printResponse prints the result of a JSON-RPC response on standard output, or
// returns its error.
func (p *program) printResponse(ctx context.Context, data []byte, c *callConfig) error {
	m, err := decodeEnvelope(data)
	if err != nil {
		return fmt.Errorf("reading the response: %w", err)
	}
	if c.raw {
		if err := p.print(ctx, append(bytes.Clone(data), '\n')); err != nil {
			return err
		}
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
		hint := ""
		if e.Code == codeMethodNotFound {
			hint = didYouMean(c.method, methodNames())
		}
		return fmt.Errorf("%s: %s%s", name, cleanText(e.Message), hint)
	}
	if c.raw {
		return nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, m.Result, "", "  "); err != nil {
		return fmt.Errorf("reading the response: %w", err)
	}
	out.WriteByte('\n')
	return p.print(ctx, out.Bytes())
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
