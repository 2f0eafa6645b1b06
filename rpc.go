package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
)

const (
	// maxUnsentCalls bounds the calls of ours that wait to be written; the others
	// wait for them. So they never fill the link's queue, which would pause the
	// reading of their own answers: with the other side in the same state neither
	// would go on.
	maxUnsentCalls = 32
	// cancelMethod is the Language Server Protocol's notification.
	cancelMethod = "$/cancelRequest"
)

// errLinkLost is the cause of a request's end when its link died. Work that
// belongs to the daemon goes on without its asker.
var errLinkLost = errors.New("the link was lost")

// transport carries whole JSON-RPC messages both ways.
type transport interface {
	// read returns the next message. Its error is final: the link is lost.
	read() ([]byte, error)
	// send queues a message and returns at once. sent, unless nil, is called
	// exactly once, when the message was written or cannot be any more.
	send(message []byte, sent func(error))
}

// handler is what one side does with the other's words. Both methods run in
// the reading goroutine and must not block.
type handler interface {
	// request must lead to exactly one answer, by r.answer.
	request(r *incoming)
	notify(method string, params json.RawMessage)
}

// peer is one end of a link: JSON-RPC 2.0 in both directions.
// https://www.jsonrpc.org/specification
type peer struct {
	transport  transport
	handler    handler
	maxMessage int // bytes of one message, the other side's limit
	log        *slog.Logger
	writing    chan struct{} // holds one for each call that waits to be written

	mu       sync.Mutex // guards the fields below
	lastID   int64
	calls    map[string]chan<- response // ours, by id, waiting for an answer
	inFlight map[string]*incoming       // theirs, by id as written, not yet answered
	lost     error                      // why the link ended
}

// response is the other side's answer to a call of ours.
type response struct {
	result json.RawMessage
	err    error // an *rpcError, or the reason why there is no answer
}

func newPeer(t transport, h handler, maxMessage int, log *slog.Logger) *peer {
	return &peer{
		transport: t, handler: h, maxMessage: maxMessage, log: log, writing: make(chan struct{}, maxUnsentCalls),
		calls: map[string]chan<- response{}, inFlight: map[string]*incoming{},
	}
}

// run reads until the link is lost and returns the reason. All that the link
// asked for is then told so (errLinkLost), and all calls end.
func (p *peer) run() error {
	for {
		data, err := p.transport.read()
		if err != nil {
			p.lose(err)
			return err
		}
		p.receive(data)
	}
}

func (p *peer) lose(err error) {
	p.mu.Lock()
	p.lost = err
	calls, inFlight := p.calls, p.inFlight
	p.calls, p.inFlight = nil, nil
	p.mu.Unlock()
	for _, c := range calls {
		c <- response{err: fmt.Errorf("%w: %w", errLinkLost, err)}
	}
	for _, r := range inFlight {
		r.cancel(errLinkLost)
	}
}

// gone tells that the link was lost; what it asked for is cancelled or about to
// be.
func (p *peer) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost != nil
}

// envelope is any message. Everything is kept raw: params and result are
// decoded once, by whom they concern, and the id is echoed byte for byte.
type envelope struct {
	Version json.RawMessage `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  json.RawMessage `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   json.RawMessage `json:"error"`
}

// receive takes one message: a request, notification or response, or a batch
// of them.
func (p *peer) receive(data []byte) {
	var err error
	data = bytes.TrimLeft(data, " \t\r\n")
	switch {
	case !utf8.Valid(data):
		// encoding/json would put U+FFFD in its place and act on another text.
		p.reject(nil, codeParseError, "parse error: the message is not UTF-8")
		return
	case len(data) > 0 && data[0] == '[':
		var batch []json.RawMessage
		if err = json.Unmarshal(data, &batch); err == nil {
			p.receiveBatch(batch)
			return
		}
	case len(data) > 0 && data[0] == '{':
		var m envelope
		if err = json.Unmarshal(data, &m); err == nil {
			p.dispatch(m, nil)
			return
		}
	case json.Valid(data):
		p.reject(nil, codeInvalidRequest, "invalid request: a message is an object or an array")
		return
	default:
		err = errors.New("not JSON")
	}
	p.reject(nil, codeParseError, "parse error: "+err.Error())
}

// dispatch sorts one message by its kind.
func (p *peer) dispatch(m envelope, b *batch) {
	if m.Method == nil && (m.Result != nil || m.Error != nil) {
		p.deliver(m)
		return
	}
	method, err := m.request()
	if err != nil {
		if b != nil {
			b.expect()
		}
		p.reject(b, codeInvalidRequest, "invalid request: "+err.Error())
		return
	}
	if m.ID == nil {
		if method == cancelMethod {
			p.cancelIncoming(m.Params)
			return
		}
		p.handler.notify(method, m.Params)
		return
	}
	r := &incoming{peer: p, batch: b, id: m.ID, method: method, params: m.Params}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if b != nil {
		b.expect()
	}
	p.mu.Lock()
	_, twice := p.inFlight[string(m.ID)]
	if !twice {
		p.inFlight[string(m.ID)] = r
	}
	p.mu.Unlock()
	if twice {
		p.reject(b, codeInvalidRequest, "invalid request: the id is in use by a request that is not answered yet")
		return
	}
	p.handler.request(r)
}

// request is the method of a request or notification, or what is wrong with
// it.
func (m envelope) request() (method string, err error) {
	switch {
	case string(m.Version) != `"2.0"`:
		return "", errors.New(`"jsonrpc" must be "2.0"`)
	case m.Method == nil || m.Method[0] != '"' || json.Unmarshal(m.Method, &method) != nil:
		return "", errors.New(`"method" must be a string`)
	case m.ID != nil && !validID(m.ID):
		return "", errors.New(`"id" must be a string, a number or null`)
	}
	return method, nil
}

// validID tells the kinds that JSON-RPC allows; the JSON itself was checked.
func validID(id json.RawMessage) bool {
	return id[0] == '"' || id[0] == '-' || (id[0] >= '0' && id[0] <= '9') || string(id) == "null"
}

// cancelIncoming is $/cancelRequest {"id":…}. Nothing to cancel is no error: the answer
// may be on its way.
func (p *peer) cancelIncoming(params json.RawMessage) {
	var c struct {
		ID json.RawMessage `json:"id"`
	}
	if decodeParams(params, &c) != nil || c.ID == nil {
		return
	}
	p.mu.Lock()
	r := p.inFlight[string(c.ID)]
	p.mu.Unlock()
	if r != nil {
		r.cancel(failure(codeCancelled, "the request was cancelled"))
	}
}

// reject answers what is no request: the id is null.
func (p *peer) reject(b *batch, code int, message string) {
	var buf bytes.Buffer
	writeAnswer(&buf, json.RawMessage("null"), nil, &rpcError{Code: code, Message: message})
	if b != nil {
		b.add(buf.Bytes(), nil)
		return
	}
	p.transport.send(buf.Bytes(), nil)
}

// deliver hands a response to the call that waits for it.
func (p *peer) deliver(m envelope) {
	p.mu.Lock()
	c := p.calls[string(m.ID)]
	delete(p.calls, string(m.ID))
	p.mu.Unlock()
	if c == nil {
		// The caller gave up before, or the other side could not read the id.
		p.log.Debug("an answer that nobody waits for", "id", showName(string(m.ID)))
		return
	}
	if m.Error == nil {
		c <- response{result: m.Result}
		return
	}
	var e rpcError
	if err := json.Unmarshal(m.Error, &e); err != nil {
		e = rpcError{Code: codeInternal, Message: "the answer holds an error that cannot be read"}
	}
	c <- response{err: &e}
}

// call asks the other side and waits for its answer: the raw result or an
// *rpcError. When ctx ends first the request is cancelled over there and the
// cause is returned; a lost link is errLinkLost.
func (p *peer) call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	done := make(chan response, 1) // the answer never waits for us
	p.mu.Lock()
	if p.lost != nil {
		p.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errLinkLost, p.lost)
	}
	p.lastID++
	id := strconv.FormatInt(p.lastID, 10)
	p.calls[id] = done
	p.mu.Unlock()
	message, err := encodeCall(json.RawMessage(id), method, params)
	if err == nil && len(message) > p.maxMessage {
		err = failure(codeResultTooLarge, "the request has %d bytes, a message holds at most %d", len(message), p.maxMessage).with("bytes", len(message))
	}
	if err != nil {
		p.forget(id)
		return nil, err
	}
	select {
	case p.writing <- struct{}{}:
	case r := <-done: // the link was lost
		return r.result, r.err
	case <-ctx.Done():
		p.forget(id)
		return nil, context.Cause(ctx)
	}
	p.transport.send(message, func(error) { <-p.writing }) // a failed send is a lost link: run tells
	select {
	case r := <-done:
		return r.result, r.err
	case <-ctx.Done():
		p.forget(id)
		p.notify(cancelMethod, map[string]any{"id": json.RawMessage(id)}, nil)
		return nil, context.Cause(ctx)
	}
}

func (p *peer) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, id)
}

// notify tells the other side something; sent, unless nil, is called when it
// was written or lost.
func (p *peer) notify(method string, params any, sent func(error)) {
	message, err := encodeCall(nil, method, params)
	if err != nil {
		// Params are our own types; this cannot come from outside.
		p.log.Error("a notification could not be written as JSON", "method", method, "err", err)
		if sent != nil {
			sent(err)
		}
		return
	}
	p.transport.send(message, sent)
}

// encodeCall writes a request, or a notification when id is nil.
func encodeCall(id json.RawMessage, method string, params any) ([]byte, error) {
	var buf bytes.Buffer
	buf.WriteString(`{"jsonrpc":"2.0"`)
	if id != nil {
		buf.WriteString(`,"id":`)
		buf.Write(id)
	}
	buf.WriteString(`,"method":`)
	if err := encodeJSON(&buf, method); err != nil {
		return nil, err
	}
	buf.WriteString(`,"params":`)
	if raw, ok := params.(json.RawMessage); ok {
		buf.Write(raw) // a RawMessage inside a value would be checked and copied once more
	} else if err := encodeJSON(&buf, params); err != nil {
		return nil, err
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

// writeAnswer writes a response: the envelope by hand around the one encoding
// of the result. A []byte result is JSON already.
func writeAnswer(buf *bytes.Buffer, id json.RawMessage, result any, err error) {
	buf.WriteString(`{"jsonrpc":"2.0","id":`)
	buf.Write(id)
	mark := buf.Len()
	if err == nil {
		buf.WriteString(`,"result":`)
		if raw, ok := result.([]byte); ok {
			buf.Write(raw)
		} else {
			err = encodeJSON(buf, result)
		}
	}
	if err != nil {
		buf.Truncate(mark)
		buf.WriteString(`,"error":`)
		if encodeJSON(buf, asRPCError(err)) != nil {
			buf.WriteString(`{"code":-32603,"message":"internal error"}`)
		}
	}
	buf.WriteByte('}')
}

// encodeJSON appends v without HTML escapes and without a line feed.
func encodeJSON(buf *bytes.Buffer, v any) error {
	if long, ok := v.(jsonAppender); ok {
		buf.Grow(long.jsonSize())
		buf.Write(long.appendJSON(buf.AvailableBuffer())) // no copy where the size was right
		return nil
	}
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	mark := buf.Len()
	if err := e.Encode(v); err != nil {
		buf.Truncate(mark)
		return fmt.Errorf("writing JSON: %w", err)
	}
	buf.Truncate(buf.Len() - 1)
	return nil
}

// incoming is one request of the other side.
type incoming struct {
	peer   *peer
	batch  *batch // nil when it came alone
	id     json.RawMessage
	method string
	params json.RawMessage

	ctx    context.Context // ends by $/cancelRequest or with the link (errLinkLost)
	cancel context.CancelCauseFunc
}

// answer sends the one answer; written, unless nil, is called when it is out
// or cannot go out any more.
func (r *incoming) answer(result any, err error, written func()) {
	p := r.peer
	p.mu.Lock()
	delete(p.inFlight, string(r.id))
	p.mu.Unlock()
	r.cancel(nil)
	sent := func(error) {
		if written != nil {
			written()
		}
	}
	if errors.Is(err, errLinkLost) {
		sent(nil)
		return
	}
	if err != nil {
		if rpc := asRPCError(err); rpc.Code == codeInternal {
			p.log.Error("request failed", "method", r.method, "err", err)
		}
	}
	var buf bytes.Buffer
	writeAnswer(&buf, r.id, result, err)
	if r.batch != nil {
		r.batch.add(r.fit(buf.Bytes()), sent)
		return
	}
	p.transport.send(r.fit(buf.Bytes()), sent)
}

// fit replaces an answer that the other side would not accept.
func (r *incoming) fit(message []byte) []byte {
	if len(message) <= r.peer.maxMessage {
		return message
	}
	var buf bytes.Buffer
	writeAnswer(&buf, r.id, nil, failure(codeResultTooLarge,
		"the result has %d bytes, a message holds at most %d: ask for less with limit, cursor, length or max_bytes", len(message), r.peer.maxMessage).with("bytes", len(message)))
	return buf.Bytes()
}

// cancelAll ends what the other side has asked for.
func (p *peer) cancelAll(cause error) {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.inFlight))
	p.mu.Unlock()
	for _, r := range all {
		r.cancel(cause)
	}
}

// maxBatch bounds the requests in one message.
const maxBatch = 100

func (p *peer) receiveBatch(messages []json.RawMessage) {
	if len(messages) == 0 || len(messages) > maxBatch {
		p.reject(nil, codeInvalidRequest, fmt.Sprintf("invalid request: a batch holds 1 to %d requests, not %d", maxBatch, len(messages)))
		return
	}
	b := &batch{peer: p, waiting: 1} // one for this loop: it must not go out before the last was taken
	for _, raw := range messages {
		var m envelope
		if raw[0] != '{' || json.Unmarshal(raw, &m) != nil {
			b.expect()
			p.reject(b, codeInvalidRequest, "invalid request: not an object")
			continue
		}
		p.dispatch(m, b)
	}
	b.add(nil, nil)
}

// batch gathers the answers to one batch into one array.
type batch struct {
	peer *peer

	mu      sync.Mutex // guards the fields below
	waiting int
	answers [][]byte
	size    int
	sent    []func(error)
}

func (b *batch) expect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting++
}

// add takes one answer, nil for none; the last one sends them all. A batch of
// notifications alone has no answer.
func (b *batch) add(answer []byte, sent func(error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if answer != nil {
		// Two brackets, and a comma each.
		if b.size+len(answer)+len(b.answers)+2 > b.peer.maxMessage {
			answer = tooLargeInBatch(answer)
		}
		b.answers = append(b.answers, answer)
		b.size += len(answer)
	}
	if sent != nil {
		b.sent = append(b.sent, sent)
	}
	b.waiting--
	if b.waiting > 0 || len(b.answers) == 0 {
		return
	}
	message := append([]byte{'['}, bytes.Join(b.answers, []byte{','})...)
	all := b.sent
	b.peer.transport.send(append(message, ']'), func(err error) {
		for _, f := range all {
			f(err)
		}
	})
}

// tooLargeInBatch is the answer in place of one that no longer fits beside the
// others.
func tooLargeInBatch(answer []byte) []byte {
	var m envelope
	if err := json.Unmarshal(answer, &m); err != nil {
		m.ID = json.RawMessage("null")
	}
	var buf bytes.Buffer
	writeAnswer(&buf, m.ID, nil, failure(codeResultTooLarge, "the results of this batch do not fit in one message: ask for them one by one").with("bytes", len(answer)))
	return buf.Bytes()
}
