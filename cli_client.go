package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// This file is the client of a scheduler's HTTP API that the commands share.

const (
	// probeTimeout bounds a question to a scheduler whose answer needs no work.
	probeTimeout = 3 * time.Second
	// maxAnswer bounds an answer that is read whole: a page of machines is at most a
	// megabyte and one handshake more.
	maxAnswer = 16 << 20
	// maxRedirects bounds the redirects of a request: one leads from a library to its
	// machine, maxMoved after the machine, others may come from a proxy.
	maxRedirects = 8
)

// apiClient is a client of a scheduler's HTTP API.
type apiClient struct {
	base  string // URL without a slash at the end
	shown string // the address, for messages
	token secret
	http  *http.Client
}

// newAPIClient returns a client for the scheduler at a URL, or for "" for the one
// that listens where cfg says.
func newAPIClient(cfg *schedulerConfig, url string) (*apiClient, error) {
	if url == "" {
		c := &apiClient{base: cfg.baseURL(), token: cfg.apiToken, http: cfg.localClient()}
		c.http.CheckRedirect = checkRedirect
		c.shown = c.base
		if strings.HasPrefix(cfg.host, unixPrefix) {
			c.shown = cfg.host
		}
		return c, nil
	}
	u, err := parseURL(url)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return nil, usage("invalid value for --url: must be http://host:port or https://host:port")
	}
	base := strings.TrimSuffix(u.String(), "/")
	config, err := clientTLS(cfg.caFile, cfg.clientPair)
	if err != nil {
		return nil, usage("invalid value for --ca-file: %v", err)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: handshakeTimeout, TLSClientConfig: config}
	return &apiClient{base: base, shown: base, token: cfg.apiToken, http: &http.Client{Transport: transport, CheckRedirect: checkRedirect}}, nil
}

// checkRedirect refuses to send a request, which has a token, to another server. The
// client sends the body again where a status such as 307 asks for it.
func checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case next.URL.Scheme != first.Scheme || next.URL.Host != first.Host:
		return fmt.Errorf("it redirects to another server, %s: set --url to that", next.URL.Redacted())
	}
	return nil
}

func (c *apiClient) close() { c.http.CloseIdleConnections() }

func (c *apiClient) do(ctx context.Context, method, path string, body []byte, header ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("calling the scheduler: %w", err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+string(c.token))
	}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	return response, nil
}

// noSchedulerError reports that nothing listens at an address.
type noSchedulerError struct{ address string }

func (e *noSchedulerError) Error() string {
	return fmt.Sprintf("no scheduler listens at %s: start one with %s, or name another with --url, --host or --port", e.address, schedulerName)
}

// explain adds to the error of a request what to do about it.
func (c *apiClient) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case isNoListener(err):
		return &noSchedulerError{c.shown}
	case unknown:
		err = fmt.Errorf("%w: set --ca-file to the authority that signed its certificate", dialCause(err))
	case errors.Is(err, http.ErrSchemeMismatch):
		err = errors.New("the server does not speak TLS: try http:// in --url")
	default:
		err = dialCause(err)
	}
	return fmt.Errorf("calling the scheduler at %s: %w", c.shown, err)
}

// isNoListener reports whether err says that nothing listens at an address, or that
// there is no such Unix socket.
func isNoListener(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// causeOr returns the cause of ctx if ctx has ended, and err otherwise: a
// cancelled read only reports that it was cancelled.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// send makes a request and reads its JSON answer into v, unless v is nil. A
// refusal is an error.
func (c *apiClient) send(ctx context.Context, method, path string, body, v any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("calling the scheduler: %w", err)
		}
	}
	response, err := c.do(ctx, method, path, data, "Accept", "application/json")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	// A scheduler that is degraded answers /health with 503 and the usual body.
	isJSON := strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")
	if response.StatusCode >= 300 && !isJSON {
		return c.refusal(response)
	}
	if v == nil {
		return nil
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err == nil {
		err = decodeJSON(answer, v)
	}
	if err != nil {
		return fmt.Errorf("reading the answer of %s to %s: %w", c.shown, path, causeOr(ctx, err))
	}
	return nil
}

// refusal returns the error in an answer of problem+json.
func (c *apiClient) refusal(response *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("reading the response: %w", err)
	}
	var problem struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	switch _ = decodeJSON(data, &problem); {
	case bytes.Contains(data, []byte("HTTP request to an HTTPS server")):
		return fmt.Errorf("the scheduler at %s speaks TLS: try https:// in --url", c.shown)
	case problem.Code == "":
		return fmt.Errorf("the server at %s returned %s", c.shown, cleanText(response.Status))
	case problem.Code == string(codeUnauthorized):
		return fmt.Errorf("%s: %s: set --api-token-file or C4A_API_TOKEN", problem.Code, cleanText(problem.Detail))
	}
	return fmt.Errorf("%s: %s", cleanText(problem.Code), cleanText(problem.Detail))
}

// probe reports whether a scheduler answers at the address. It returns an error
// if another program does, and false without an error if nothing listens there.
func (c *apiClient) probe(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	response, err := c.do(ctx, http.MethodGet, "/health", nil, "Accept", "application/json")
	if _, none := errors.AsType[*noSchedulerError](err); none {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	var health struct {
		Status  string          `json:"status"`
		Daemons json.RawMessage `json:"daemons"`
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	switch {
	case err == nil && decodeJSON(data, &health) == nil && health.Status != "" && health.Daemons != nil:
		return true, nil
	case bytes.Contains(data, []byte("HTTP request to an HTTPS server")):
		return false, fmt.Errorf("the server at %s speaks TLS: try https:// in --url", c.shown)
	}
	return false, fmt.Errorf("the server at %s is not a c4a-daemon-scheduler: set another address with --url", c.shown)
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

// clientRun is one run of a command that asks a scheduler.
type clientRun struct {
	*apiClient
	p     *program
	ctx   context.Context // ends with the first signal
	words []string
}

func (r *clientRun) say(text string) error { return r.p.print(r.ctx, []byte(text)) }

// sayJSON prints v as indented JSON.
func (r *clientRun) sayJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	return r.p.print(r.ctx, append(data, '\n'))
}

// width returns the columns of standard output, 0 if it is not a terminal.
func (r *clientRun) width() int {
	width, _ := terminalWidth(r.p.stdout)
	return width
}

// askScheduler defines a command that asks a running scheduler. register adds its
// own flags and returns what it does.
func askScheduler(register func(f *flagSet) func(*clientRun) error) func(*program, *flagSet) func() error {
	return func(p *program, f *flagSet) func() error { return p.askScheduler(f, register) }
}

// askScheduler is a method of its own because the compiler copies what is inside the
// function above into each command.
func (p *program) askScheduler(f *flagSet, register func(f *flagSet) func(*clientRun) error) func() error {
	do := register(f)
	f.group("Output")
	url, cfg := "", &schedulerConfig{}
	var tokenFile string
	f.StringVar(&url, "url", "", "`URL` of the scheduler (default: the address that --host and --port give, http://127.0.0.1:5110)")
	f.StringVar(&cfg.host, "host", "127.0.0.1", "`ADDRESS` on which the scheduler listens, or unix:/path")
	f.IntVar(&cfg.port, "port", defaultSchedulerPort, "`PORT` on which the scheduler listens")
	f.StringVar(&tokenFile, "api-token-file", "", "`FILE` with the token of the HTTP API (or set C4A_API_TOKEN)")
	f.StringVar(&cfg.caFile, "ca-file", "", "PEM `FILE` with additional certificate authorities")
	f.StringVar(&cfg.clientPair.certFile, "client-cert", "", "PEM `FILE` with the certificate to show to the scheduler")
	f.StringVar(&cfg.clientPair.keyFile, "client-key", "", "PEM `FILE` with the private key of --client-cert")
	f.group("Scheduler")
	return func() error {
		var err error
		if cfg.apiToken, err = p.readSecret("api-token-file", tokenFile, "C4A_API_TOKEN"); err != nil {
			return err
		}
		if err := checkClientPair(cfg.clientPair); err != nil {
			return err
		}
		client, err := newAPIClient(cfg, url)
		if err != nil {
			return err
		}
		defer client.close()
		p.surviveBrokenPipe()
		signals := p.watchSignals(signalPlan{name: f.Name(), limit: probeTimeout, kill: p.started.kill, isCall: true})
		defer signals.close()
		err = do(&clientRun{apiClient: client, p: p, ctx: signals.stopping, words: f.words})
		if errors.Is(err, syscall.EPIPE) {
			return nil // the reader has enough, as head(1) does
		}
		return err
	}
}
