package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

const (
	// provenAfter is how long an accepted session must live before the count of
	// failed attempts starts anew: a server that accepts and hangs up is no server.
	provenAfter = 10 * time.Second
	// minHeartbeat and maxHeartbeat bound what a server may ask for.
	minHeartbeat = 100 * time.Millisecond
	maxHeartbeat = time.Hour
	// answerTime is for what is cancelled after that: git clears away, the answers
	// go out.
	answerTime = gitStopGrace + 500*time.Millisecond
)

var (
	errRefused  = errors.New("the server refuses this daemon")
	errGaveUp   = errors.New("no connection to the server")
	errNoServer = errors.New("the handshake was refused")
)

// connector keeps a daemon connected to its server: one session after the
// other.
type connector struct {
	server     *url.URL
	client     *http.Client
	token      secret
	compress   bool
	maxMessage int
	attempts   int // failed in a row before it gives up, 0 for ever
	heartbeat  time.Duration
	times      linkTimes
	hello      handshakeParams
	service    *service
	onState    func(state string) // told in words what the link does
	onAccepted func(handshakeResult)
	began      time.Time
	log        *slog.Logger
}

// newLinkClient makes the HTTP client that dials the server: through the
// environment's proxies, trusting caFile beside the system's authorities.
func newLinkClient(caFile string) (*http.Client, error) {
	dialer := &net.Dialer{Timeout: handshakeTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		limitUnsent(c)
		return nil
	}}
	transport := &http.Transport{
		Proxy:               environmentProxy,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: handshakeTimeout,
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return &http.Client{
		Transport: transport,
		// A redirect could carry the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// environmentProxy is http.ProxyFromEnvironment whose error does not show the
// proxy's address: it may hold a password.
func environmentProxy(r *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy's address in HTTP_PROXY or HTTPS_PROXY is not a URL")
	}
	return proxy, nil
}

// run connects, and connects again, until ctx ends: nil, or until it makes no
// sense any more: errRefused, errReplaced or errGaveUp. When stopping ends it
// does not connect again, but keeps the session it has.
func (c *connector) run(ctx, stopping context.Context) error {
	defer c.client.CloseIdleConnections()
	failed, attempt := 0, 0
	for {
		proven, err := c.session(ctx)
		switch {
		case ctx.Err() != nil || stopping.Err() != nil:
			return nil
		case errors.Is(err, errRefused), errors.Is(err, errReplaced):
			return err
		}
		failed++
		attempt++
		if proven {
			failed, attempt = 0, 1
		}
		if c.attempts > 0 && failed >= c.attempts {
			return fmt.Errorf("%w after %d attempts; the last one: %w", errGaveUp, failed, err)
		}
		delay := reconnectDelay(attempt)
		c.log.Warn("not connected, trying again", "server", c.server.Host, "in", delay.Round(time.Millisecond), "failed", failed, "err", err)
		c.onState(fmt.Sprintf("reconnecting to %s (%d failed)", c.server.Host, failed))
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-stopping.Done():
			timer.Stop()
			return nil
		}
	}
}

// session is one connection from dial to end; proven tells that it was
// accepted and lived.
func (c *connector) session(ctx context.Context) (proven bool, err error) {
	l, err := c.dial(ctx)
	if err != nil {
		return false, err
	}
	d := c.service.newDispatcher()
	p := newPeer(l, d, c.maxMessage, c.log)
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- p.run() }) // ends with the link
	defer wg.Wait()
	defer func() {
		if ctx.Err() != nil {
			p.cancelAll(failure(codeCancelled, "the request was cancelled: the daemon stops"))
			c.service.activity.awaitIdle(context.Background(), answerTime)
			l.close(websocket.StatusGoingAway, "the daemon stops")
			return
		}
		l.close(websocket.StatusNormalClosure, "")
	}()

	answer, err := c.handshake(ctx, p)
	if err != nil {
		if errors.Is(err, errLinkLost) {
			err = sessionError(err) // the server's reason says more
		}
		return false, err
	}
	accepted := time.Now()
	c.log.Info("connected", "server", c.server.Host, "machine_id", c.hello.MachineID, "lib_id", answer.LibID)
	c.onState("connected to " + c.server.Host)
	c.onAccepted(answer)

	interval := c.heartbeat
	if ms := answer.HeartbeatIntervalMS; ms > 0 {
		interval = min(max(time.Duration(ms)*time.Millisecond, minHeartbeat), maxHeartbeat)
	}
	beat := time.NewTicker(interval)
	defer beat.Stop()
	for seq := int64(1); ; seq++ {
		active, _, _ := c.service.activity.state()
		p.notify(heartbeatMethod, heartbeat{
			MachineID: c.hello.MachineID, InstanceID: c.hello.InstanceID, Seq: seq,
			UptimeSeconds: int64(time.Since(c.began).Seconds()), ActiveRequests: active,
		}, nil)
		select {
		case <-beat.C:
		case err := <-ended:
			return time.Since(accepted) >= provenAfter, sessionError(err)
		case <-ctx.Done():
			return true, nil
		}
	}
}

// dial opens the connection. 401 and 403 are errRefused.
func (c *connector) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	header := http.Header{}
	header.Set("User-Agent", "c4a-daemon/"+c.hello.Version)
	header.Set(machineIDHeader, url.PathEscape(c.hello.MachineID))
	if c.token != "" {
		header.Set("Authorization", "Bearer "+string(c.token))
	}
	hooks := &linkHooks{}
	options := &websocket.DialOptions{HTTPClient: hooks.dialling(c.client), HTTPHeader: header, OnPingReceived: hooks.ping, OnPongReceived: hooks.pong}
	if c.compress {
		options.CompressionMode = websocket.CompressionNoContextTakeover
	}
	conn, response, err := websocket.Dial(ctx, c.server.String(), options)
	if err == nil {
		return newLink(conn, hooks, c.maxMessage, c.times, c.log), nil
	}
	if response == nil {
		return nil, fmt.Errorf("dialling %s: %w", c.server.Host, err)
	}
	// The library leaves the first KiB of a refusal's body to read.
	said, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	detail := response.Status
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(said, &problem) == nil && problem.Detail != "" {
		detail += ": " + cleanText(problem.Detail)
	}
	switch response.StatusCode {
	case http.StatusUnauthorized:
		return nil, fmt.Errorf("%w (%s): check --token-file or C4A_TOKEN", errRefused, detail)
	case http.StatusForbidden:
		return nil, fmt.Errorf("%w (%s)", errRefused, detail)
	}
	return nil, fmt.Errorf("dialling %s: the server answered %s in place of a WebSocket", c.server.Host, detail)
}

// handshake introduces the daemon and waits to be accepted.
func (c *connector) handshake(ctx context.Context, p *peer) (handshakeResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, fmt.Errorf("the server did not answer the handshake within %v", handshakeTimeout))
	defer cancel()
	var answer handshakeResult
	raw, err := p.call(ctx, handshakeMethod, c.hello)
	if err != nil {
		return answer, fmt.Errorf("handshake: %w", err)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, errors.New("handshake: the server's answer is not what the protocol says")
	}
	if !answer.Accepted {
		return answer, fmt.Errorf("%w: %s", errNoServer, cleanText(answer.Reason))
	}
	return answer, nil
}

// try opens the link and closes it: the server is there and takes the token.
// It makes no handshake, which could take the place of a running daemon.
func (c *connector) try() error {
	defer c.client.CloseIdleConnections()
	l, err := c.dial(context.Background())
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = l.read() }) // for the server's goodbye; ends with the link
	l.close(websocket.StatusNormalClosure, "")
	return nil
}
