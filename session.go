package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

const (
	// provenAfter is how long an accepted session must last before the count of
	// failed attempts is reset. Otherwise a server that accepts every daemon
	// and closes the link at once would be retried forever without backoff.
	provenAfter = 10 * time.Second
	// minHeartbeat and maxHeartbeat bound the interval that a server may request.
	minHeartbeat = 100 * time.Millisecond
	maxHeartbeat = time.Hour
	// answerTime is the time that requests cancelled at shutdown have to end:
	// git removes its temporary files and the responses are sent.
	answerTime = gitStopGrace + 500*time.Millisecond
)

var (
	errRefused          = errors.New("the server refuses this daemon")
	errGaveUp           = errors.New("no connection to the server")
	errHandshakeRefused = errors.New("the handshake was refused")
)

// connector keeps a daemon connected to its server, one session at a time.
type connector struct {
	server     *url.URL
	client     *http.Client
	token      secret
	compress   bool
	maxMessage int
	attempts   int // consecutive failures before it gives up; 0 means never
	heartbeat  time.Duration
	times      linkTimes
	handshake  handshakeParams // but for the version of git
	gitVersion func() string   // waits for it; nil for none
	service    *service
	onState    func(state string) // called with a description of the link, for people
	onAccepted func(handshakeResult)
	began      time.Time
	console    *lineQueue // the log; nil counts no dropped lines
	serverTime time.Time  // at the last dial; zero if the server did not say
	log        *slog.Logger
}

// newLinkClient returns the HTTP client that dials the server. It uses the
// proxies of the environment, trusts caFile in addition to the system's
// certificate authorities, and shows the certificate of pair.
func newLinkClient(caFile string, pair keyPair) (*http.Client, error) {
	dialer := &net.Dialer{Timeout: handshakeTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		limitUnsent(c)
		return nil
	}}
	config, err := clientTLS(caFile, pair)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: newProxyTransport(dialer, config),
		// A redirect could send the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// run connects and reconnects until ctx ends, and then returns nil. It returns
// errRefused, errReplaced or errGaveUp when reconnecting is pointless. After
// stopping ends it no longer reconnects, but keeps the current session.
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
			return fmt.Errorf("%w after %d attempts; last error: %w", errGaveUp, failed, err)
		}
		delay := reconnectDelay(attempt)
		c.log.Warn("not connected, trying again", "server", c.server.Host, "delay_ms", delay.Milliseconds(), "failed", failed, "error", err)
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

// session runs one connection from dial to close. proven reports whether the
// session was accepted and lasted for provenAfter.
func (c *connector) session(ctx context.Context) (proven bool, err error) {
	l, err := c.dial(ctx)
	if err != nil {
		return false, err
	}
	d := c.service.newDispatcher()
	p := newPeer(l, d, c.maxMessage, c.log)
	p.onResult = func(result json.RawMessage) {
		var answer handshakeResult // the handshake is the only call of a daemon
		if decodeJSON(result, &answer) == nil && answer.Accepted {
			l.trust()
		}
	}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- p.run() }) // ends with the link
	defer wg.Wait()
	defer func() {
		if ctx.Err() != nil {
			p.cancelAll(failure(codeCancelled, "the request was cancelled: the daemon is stopping"))
			c.service.activity.awaitIdle(context.Background(), answerTime)
			l.close(websocket.StatusGoingAway, "the daemon is stopping")
			return
		}
		l.close(websocket.StatusNormalClosure, "")
	}()

	answer, err := c.sendHandshake(ctx, p)
	if err != nil {
		if errors.Is(err, errLinkLost) {
			err = sessionError(err) // holds the server's close reason
		}
		return false, err
	}
	accepted := time.Now()
	log := c.log
	if !strings.HasPrefix(c.handshake.MachineID, cloudPrefix) { // the log of such a daemon has it already
		log = log.With("lib_id", shownText(answer.LibID))
	}
	log.Info("connected", "server", c.server.Host, "machine_id", c.handshake.MachineID)
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
			MachineID: c.handshake.MachineID, InstanceID: c.handshake.InstanceID, Seq: seq,
			UptimeSeconds: int64(time.Since(c.began).Seconds()), ActiveRequests: active, Stuck: c.service.stuck(),
			Waiting: int(c.service.queued.Load()), DroppedLines: c.console.droppedEver(), MemoryBytes: residentBytes(),
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

// dial opens the connection. It returns errRefused if the server responds with
// 401 or 403.
func (c *connector) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	header := http.Header{}
	header.Set("User-Agent", "c4a-daemon/"+c.handshake.Version)
	header.Set(machineIDHeader, url.PathEscape(c.handshake.MachineID))
	if c.token != "" {
		header.Set("Authorization", "Bearer "+string(c.token))
	}
	hooks := &linkHooks{}
	options := &websocket.DialOptions{HTTPClient: hooks.wrapClient(c.client), HTTPHeader: header, OnPingReceived: hooks.ping, OnPongReceived: hooks.pong}
	if c.compress {
		options.CompressionMode, options.CompressionThreshold = websocket.CompressionNoContextTakeover, minCompressed
	}
	conn, response, err := websocket.Dial(ctx, c.server.String(), options)
	if response != nil {
		c.serverTime, _ = http.ParseTime(response.Header.Get("Date")) // zero if it does not say
	}
	if err == nil {
		return newLink(conn, hooks, c.maxMessage, c.times, nil, c.log), nil
	}
	if response == nil {
		return nil, fmt.Errorf("dialling %s: %w", c.server.Host, dialCause(err))
	}
	// Of an error response the library keeps the first KiB of the body.
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	detail := response.Status
	var problem struct {
		Detail string `json:"detail"`
	}
	if decodeJSON(body, &problem) == nil && problem.Detail != "" {
		detail += ": " + cleanText(problem.Detail)
	}
	switch response.StatusCode {
	case http.StatusUnauthorized:
		return nil, fmt.Errorf("%w (%s): check --token-file or C4A_TOKEN", errRefused, detail)
	case http.StatusForbidden:
		return nil, fmt.Errorf("%w (%s)", errRefused, detail)
	}
	if response.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("HTTP request to an HTTPS server")) {
		return nil, fmt.Errorf("dialling %s: the server speaks TLS: use wss:// in --server", c.server.Host)
	}
	if bytes.Contains(body, []byte("SSL certificate")) { // nginx: "No required SSL certificate was sent"
		return nil, fmt.Errorf("dialling %s: the server wants another client certificate, or any (%s): set --client-cert and --client-key", c.server.Host, detail)
	}
	if isForeignPage(response) {
		return nil, fmt.Errorf("dialling %s: %s", c.server.Host, foreignPage(response))
	}
	return nil, fmt.Errorf("dialling %s: no WebSocket, the server returned %s", c.server.Host, detail)
}

// sendHandshake sends daemon/handshake and waits until the server accepts it.
func (c *connector) sendHandshake(ctx context.Context, p *peer) (handshakeResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, fmt.Errorf("the server did not answer the handshake within %v", handshakeTimeout))
	defer cancel()
	var answer handshakeResult
	params := c.handshake
	if c.gitVersion != nil {
		params.GitVersion = c.gitVersion()
	}
	raw, err := p.call(ctx, handshakeMethod, params)
	if err != nil {
		return answer, fmt.Errorf("sending the handshake: %w", err)
	}
	if err := decodeJSON(raw, &answer); err != nil {
		return answer, errors.New("sending the handshake: the server returned an invalid result")
	}
	if !answer.Accepted {
		return answer, fmt.Errorf("%w: %s", errHandshakeRefused, shownText(answer.Reason))
	}
	return answer, nil
}

// try opens the link and closes it again. An error means that the server cannot
// be reached or rejects the token. No handshake is sent, because it could
// replace a running daemon with the same machine id.
func (c *connector) try() error {
	defer c.client.CloseIdleConnections()
	l, err := c.dial(context.Background())
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = l.read() }) // reads the server's close frame; ends with the link
	l.close(websocket.StatusNormalClosure, "")
	return nil
}
