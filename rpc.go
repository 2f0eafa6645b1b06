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
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// maxUnsentCalls bounds the calls that wait to be written; further calls
	// block. Without this bound calls could fill the queue of the link, and a
	// full queue pauses reading (link.overloaded), so the responses to those
	// calls would not be read either. If both sides did this, neither would
	// make progress.
	maxUnsentCalls = 32
	// manyCalls is how many of our calls must wait for a response before the next is
	// sent together with others: with fewer, to wait for others takes longer than a
	// write of its own.
	manyCalls = 4
	// cancelMethod is the notification that cancels a request, as in the
	// Language Server Protocol.
	cancelMethod = "$/cancelRequest"
)

// errLinkLost cancels the requests of a link that was lost. Clones and tasks,
// which belong to the daemon, go on when they are cancelled with this cause.
var errLinkLost = errors.New("the link was lost")

// transport sends and receives complete JSON-RPC messages.
type transport interface {
	// read returns the next message. An error is final and means that the link
	// is lost.
	read() ([]byte, error)
	// send queues a message and returns without blocking. sent, unless nil, is
	// called exactly once: with nil after the message was written, or with an
	// error when it cannot be written.
	send(message []byte, sent func(error))
	// sendSoon is send for one of many messages: it may wait for those that other
	// goroutines are ready to send.
	sendSoon(message []byte, sent func(error))
	// reply is send for the goroutine that reads. The message may wait until the
	// next call of read.
	reply(message []byte, sent func(error))
	// trusted reports whether the handshake was accepted. Until then a message
	// must cost little, so a batch is refused.
	trusted() bool
}

// handler handles the requests and notifications of the other side. Both
// methods run in the reading goroutine and must not block.
type handler interface {
	// request must cause exactly one call of r.answer, now or later.
	request(r *incoming)
	notify(method string, params json.RawMessage)
}

// peer is one end of a link. It speaks JSON-RPC 2.0 in both directions
// (https://www.jsonrpc.org/specification).
type peer struct {
	transport  transport
	handler    handler
	maxMessage int // size limit of a message in bytes, the same on both sides
	log        *slog.Logger
	buffers    *bufferPool           // nil lends none
	onResult   func(json.RawMessage) // called with each result before the next message is read; nil for none
	unasked    func(bytes int)       // called in the reading goroutine for each message that answers no call; nil for none
	received   int                   // bytes of the message, if unasked was not told; used by the reading goroutine
	quick      quickHandler          // nil if the handler has no quick methods
	endQuick   func(error)           // of quick, made once
	relief     *time.Timer           // calls relieve; nil without quick methods
	quickBytes atomic.Int64          // of long quick answers that wait to be written
	watched    atomic.Bool           // relief is running
	seen       int64                 // state of the reading goroutine at the last check; used by relieve
	reading    atomic.Pointer[reader]
	ended      chan error    // why the last reading goroutine has ended
	writing    chan struct{} // semaphore: one token for each call that waits to be written

	mu       sync.Mutex // guards the fields below
	lastID   int64
	calls    map[string]chan<- response // our calls that wait for a response, by id
	inFlight map[string]*incoming       // the other side's unanswered requests, by id as sent
	lost     error                      // why the link was lost; nil while it is open
}

// response is the other side's response to one of our calls.
type response struct {
	result  json.RawMessage
	message []byte // that the result is a part of; nil in a batch
	err     error  // an *rpcError, or why there is no response
}

func newPeer(t transport, h handler, maxMessage int, log *slog.Logger) *peer {
	p := &peer{
		transport: t, handler: h, maxMessage: maxMessage, log: log, writing: make(chan struct{}, maxUnsentCalls),
		calls: map[string]chan<- response{}, inFlight: map[string]*incoming{}, ended: make(chan error, 1),
	}
	p.quick, _ = h.(quickHandler)
	if p.quick != nil {
		p.endQuick = p.quick.endQuick
		p.reading.Store(&reader{})
		p.buffers = p.quick.lender()
		p.relief = time.AfterFunc(reliefTime, p.relieve)
		p.relief.Stop()
	}
	return p
}

// run reads messages until the link is lost, and returns the reason. It then
// cancels the requests of the other side with errLinkLost, and all our calls
// return.
func (p *peer) run() (err error) {
	if p.quick == nil {
		for err == nil {
			err = p.readMessage()
		}
	} else {
		go p.readMessages(p.reading.Load()) // ends with the link, or when it is relieved
		err = <-p.ended
		p.relief.Stop()
	}
	p.failAll(err)
	return err
}

// readMessage handles one message. Its error means that the link is lost.
func (p *peer) readMessage() error {
	data, err := p.transport.read()
	if err == nil {
		p.receive(data)
	}
	return err
}

// failAll ends all calls and cancels all requests of a lost link.
func (p *peer) failAll(err error) {
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

// pending returns the number of our calls that wait for a response.
func (p *peer) pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.calls)
}

// isLost reports whether the link is lost. Its requests are then cancelled or
// about to be.
func (p *peer) isLost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost != nil
}

// envelope is a JSON-RPC message of any kind. Its members stay raw: params and
// result are decoded once, by the code that knows their type, and the id must
// be echoed byte for byte.
type envelope struct {
	Version json.RawMessage `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  json.RawMessage `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   json.RawMessage `json:"error"`
	message []byte          // nil in a batch
}

// receive handles one message: a request, notification or response, or a batch
// of them.
func (p *peer) receive(data []byte) {
	if p.unasked != nil {
		p.received = len(data)
	}
	if m, ok := scanEnvelope(data); ok {
		m.message = data
		p.dispatch(m, nil)
		return
	}
	var err error
	data = bytes.TrimLeft(data, " \t\r\n")
	switch {
	case !utf8.Valid(data):
		// encoding/json would replace the invalid bytes by U+FFFD, so that the request
		// would act on a different text.
		p.reject(nil, nil, codeParseError, "parse error: the message is not UTF-8")
		return
	case len(data) > 0 && data[0] == '[' && !p.transport.trusted():
		p.reject(nil, nil, codeInvalidRequest, "invalid request: no batch before the handshake is accepted")
		return
	case len(data) > 0 && data[0] == '[':
		if json.Valid(data) {
			p.receiveBatch(data)
			return
		}
		err = decodeJSON(data, new(json.RawMessage))
	case len(data) > 0 && data[0] == '{':
		var m envelope
		if m, err = decodeEnvelope(data); err == nil {
			p.dispatch(m, nil)
			return
		}
	case json.Valid(data):
		p.reject(nil, nil, codeInvalidRequest, "invalid request: a message is an object or an array")
		return
	default:
		err = errors.New("not JSON")
	}
	p.reject(nil, nil, codeParseError, "parse error: "+err.Error())
}

// dispatch handles one message according to its kind.
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
		p.reject(b, m.ID, codeInvalidRequest, "invalid request: "+err.Error())
		return
	}
	p.noteUnasked()
	if m.ID == nil {
		if method == cancelMethod {
			p.cancelIncoming(m.Params)
			return
		}
		p.handler.notify(method, m.Params)
		return
	}
	if b == nil && p.quick != nil && p.answerQuick(m.ID, method, m.Params) {
		return
	}
	r := &incoming{peer: p, batch: b, id: m.ID, method: method, params: m.Params}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if b != nil {
		b.expect()
	}
	p.mu.Lock()
	_, inUse := p.inFlight[string(m.ID)]
	if !inUse {
		p.inFlight[string(m.ID)] = r
	}
	p.mu.Unlock()
	if inUse {
		p.reject(b, nil, codeInvalidRequest, "invalid request: the id belongs to a request that is still running")
		return
	}
	p.handler.request(r)
}

// noteUnasked notes a message, or a part of a batch, that answers no call of ours.
func (p *peer) noteUnasked() {
	if p.unasked != nil {
		p.unasked(p.received)
		p.received = 0
	}
}

// cancelIncoming handles $/cancelRequest {"id":…}. An unknown id is ignored,
// because the response may already be on its way.
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

// reject sends an error for a message that is not a valid request. It carries
// the id if the message has one that can be read, so that the caller knows which
// of its requests failed, and null otherwise (JSON-RPC 2.0, section 5).
func (p *peer) reject(b *batch, id json.RawMessage, code int, message string) {
	if id == nil || !validID(id) {
		id = json.RawMessage("null")
	}
	p.noteUnasked()
	var buf bytes.Buffer
	writeAnswer(&buf, id, nil, &rpcError{Code: code, Message: message})
	if b != nil {
		b.add(buf.Bytes(), nil)
		return
	}
	p.transport.send(buf.Bytes(), nil)
}

// deliver passes a response to the call that waits for it.
func (p *peer) deliver(m envelope) {
	p.mu.Lock()
	c := p.calls[string(m.ID)]
	delete(p.calls, string(m.ID))
	p.mu.Unlock()
	if c == nil {
		p.noteUnasked()
		// The caller has given up, or the other side could not read the id.
		p.log.Debug("ignoring a response to an unknown call", "id", shownText(string(m.ID)))
		return
	}
	if m.Error == nil {
		if p.onResult != nil {
			p.onResult(m.Result)
		}
		c <- response{result: m.Result, message: m.message}
		return
	}
	var e rpcError
	if err := decodeJSON(m.Error, &e); err != nil {
		e = rpcError{Code: codeInternal, Message: "the response contains an invalid error"}
	}
	c <- response{err: &e}
}

// call sends a request and waits for its response: the raw result or an
// *rpcError. If ctx ends first, call cancels the request on the other side and
// returns the cause. The error wraps errLinkLost if the link is lost.
func (p *peer) call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	r := p.exchange(ctx, method, params, nil)
	return r.result, r.err
}

// exchange is call with the whole response. It calls sending, unless nil, with the
// id of the request before the request is sent: progress without a task_id names
// it.
func (p *peer) exchange(ctx context.Context, method string, params any, sending func(id string)) response {
	done := make(chan response, 1) // buffered: deliver must not block
	p.mu.Lock()
	if p.lost != nil {
		p.mu.Unlock()
		return response{err: fmt.Errorf("%w: %w", errLinkLost, p.lost)}
	}
	p.lastID++
	id := strconv.FormatInt(p.lastID, 10)
	p.calls[id] = done
	many := len(p.calls) > manyCalls
	p.mu.Unlock()
	if sending != nil {
		sending(id)
	}
	message, err := encodeCall(json.RawMessage(id), method, params)
	if err == nil && len(message) > p.maxMessage {
		err = failure(codeResultTooLarge, "the request has %d bytes; a message holds at most %d", len(message), p.maxMessage).with("bytes", len(message))
	}
	if err != nil {
		p.forget(id)
		return response{err: err}
	}
	select {
	case p.writing <- struct{}{}:
	case r := <-done: // the link was lost
		return r
	case <-ctx.Done():
		p.forget(id)
		return response{err: context.Cause(ctx)}
	}
	sent := func(error) { <-p.writing } // if sending fails the link is lost, and run ends this call
	if many {
		p.transport.sendSoon(message, sent)
	} else {
		p.transport.send(message, sent)
	}
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
		p.forget(id)
		p.notify(cancelMethod, map[string]any{"id": json.RawMessage(id)}, nil)
		return response{err: context.Cause(ctx)}
	}
}

func (p *peer) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, id)
}

// notify sends a notification. sent, unless nil, is called when it was written
// or lost.
func (p *peer) notify(method string, params any, sent func(error)) {
	message, err := encodeCall(nil, method, params)
	if err != nil {
		// Cannot be caused by the other side: params are types of this program.
		p.log.Error("encoding a notification failed", "method", method, "error", err)
		if sent != nil {
			sent(err)
		}
		return
	}
	p.transport.send(message, sent)
}

// incoming is a request of the other side.
type incoming struct {
	peer   *peer
	batch  *batch // nil if the request is not part of a batch
	id     json.RawMessage
	method string
	params json.RawMessage
	late   <-chan quickResult // takes the result of work that runs already; nil if none does

	ctx    context.Context // cancelled by $/cancelRequest, or with errLinkLost
	cancel context.CancelCauseFunc
}

// answer sends the response to the request. written, unless nil, is called when
// the response was written or can no longer be written.
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
			p.log.Error("request failed", "method", r.method, "error", err)
		}
	}
	if r.batch != nil {
		r.batch.add(r.fitToLimit(p.encodeAnswer(r.id, result, err)), sent)
		return
	}
	message := p.encodeAnswer(r.id, result, err)
	p.transport.send(r.fitToLimit(message), func(error) {
		p.buffers.put(message)
		sent(nil)
	})
}

// encodeAnswer returns a response, in a lent buffer if it is long.
func (p *peer) encodeAnswer(id json.RawMessage, result any, err error) []byte {
	size := 0
	if long, ok := result.(jsonAppender); ok && err == nil {
		size = long.jsonSize() + len(id) + 64 // the envelope
	}
	buf := bytes.NewBuffer(p.buffers.get(size))
	writeAnswer(buf, id, result, err)
	if lent, ok := result.(lentResult); ok && err == nil { // with an error the result may be a nil pointer
		lent.giveBack()
	}
	return buf.Bytes()
}

// fitToLimit returns the message, or RESULT_TOO_LARGE in its place if it is
// larger than the other side accepts.
func (r *incoming) fitToLimit(message []byte) []byte {
	if len(message) <= r.peer.maxMessage {
		return message
	}
	var buf bytes.Buffer
	writeAnswer(&buf, r.id, nil, failure(codeResultTooLarge,
		"the result has %d bytes; a message holds at most %d: request less with limit, cursor, length or max_bytes", len(message), r.peer.maxMessage).with("bytes", len(message)))
	return buf.Bytes()
}

// cancelAll cancels all requests of the other side.
func (p *peer) cancelAll(cause error) {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.inFlight))
	p.mu.Unlock()
	for _, r := range all {
		r.cancel(cause)
	}
}

// maxBatch bounds the number of messages in a batch.
const maxBatch = 100

// errBatchTooLong ends the count of the messages in a batch.
var errBatchTooLong = errors.New("the batch is too long")

// receiveBatch handles a JSON array of messages. They are counted first, so that
// millions of them cost no memory.
func (p *peer) receiveBatch(array []byte) {
	messages := make([]json.RawMessage, 0, maxBatch)
	err := eachElement(array, func(value json.RawMessage) error {
		if len(messages) == maxBatch {
			return errBatchTooLong
		}
		messages = append(messages, value)
		return nil
	})
	if err != nil || len(messages) == 0 {
		p.reject(nil, nil, codeInvalidRequest, fmt.Sprintf("invalid request: a batch holds 1 to %d requests", maxBatch))
		return
	}
	b := &batch{peer: p, waiting: 1} // this loop counts as one, so that nothing is sent before it ends
	for _, raw := range messages {
		m, err := decodeEnvelope(raw)
		if err != nil {
			b.expect()
			p.reject(b, nil, codeInvalidRequest, "invalid request: not an object")
			continue
		}
		p.dispatch(m, b)
	}
	b.add(nil, nil)
}

// batch collects the responses to a batch into one array.
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

// add adds a response, or nil for none. The last one sends them all. A batch of
// notifications gets no response (JSON-RPC 2.0, section 6).
func (b *batch) add(answer []byte, sent func(error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if answer != nil {
		// The array needs two brackets, and a comma after each response.
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

// tooLargeInBatch returns the error that replaces a response which does not fit
// in the message with the others.
func tooLargeInBatch(answer []byte) []byte {
	m, err := decodeEnvelope(answer)
	if err != nil {
		m.ID = json.RawMessage("null")
	}
	var buf bytes.Buffer
	writeAnswer(&buf, m.ID, nil, failure(codeResultTooLarge, "the results of this batch do not fit in one message: send its requests one by one").with("bytes", len(answer)))
	return buf.Bytes()
}
