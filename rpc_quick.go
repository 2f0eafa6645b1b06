package main

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"
)

// Most requests take microseconds: less than waking up another goroutine for
// them. The goroutine that reads answers those itself. It must not be delayed by
// the one in a million that does block, on a network file system that does not
// answer: after reliefTime another goroutine goes on reading, and the request
// becomes a regular one, with its time limit, whose work is already running.

const (
	// reliefTime is the interval at which a reading goroutine is checked. One that
	// is in the same request at two checks is relieved.
	reliefTime = 4 * time.Millisecond
	// quickAnswer is the size of a buffer that holds most quick answers.
	quickAnswer = 256
	// maxQuickBytes bounds the long answers of quick methods that wait to be written:
	// above it requests are regular ones, of which only --max-concurrent run before
	// their answers are taken.
	maxQuickBytes = 4 << 20
)

// quickHandler is a handler that answers some requests at once.
type quickHandler interface {
	// quickMethod returns the quick version of a method, nil if there is none.
	quickMethod(method string) quickMethod
	// lender returns the pool of long answers, nil for none.
	lender() *bufferPool
	// beginQuick admits a quick request. It returns false if no request is
	// admitted any more. endQuick ends it, when its answer was written.
	beginQuick() bool
	endQuick(error)
}

// quickMethod appends the result as JSON. It returns false if the request is not
// of the kind that it answers, also for every error: the request is then
// handled as any other.
type quickMethod func(to []byte, params json.RawMessage) (result []byte, ok bool)

// try calls the method. A panic is as good as an answer that is not of its kind:
// the regular method reports it.
func (q quickMethod) try(to []byte, params json.RawMessage) (result []byte, ok bool) {
	defer func() {
		if recover() != nil {
			result, ok = to, false
		}
	}()
	return q(to, params)
}

// quickResult is the outcome of a quickMethod.
type quickResult struct {
	result []byte
	ok     bool
}

// reader is the state of one goroutine that reads messages.
type reader struct {
	state atomic.Int64 // odd while a quick method runs; relieved after relief

	// Set before the state becomes odd.
	id, params json.RawMessage
	method     string

	late chan quickResult // set by relief before the state; takes the result
}

// relieved is the state of a goroutine that reads no more.
const relieved = -1

// readMessages handles messages until the link is lost, or until another
// goroutine has taken over.
func (p *peer) readMessages(r *reader) {
	for r.state.Load() != relieved {
		if err := p.readMessage(); err != nil {
			p.ended <- err
			return
		}
	}
}

// answerQuick answers a request with the quick version of its method. It returns
// false if it did nothing.
func (p *peer) answerQuick(id json.RawMessage, method string, params json.RawMessage) bool {
	call := p.quick.quickMethod(method)
	if call == nil || p.quickBytes.Load() >= maxQuickBytes || p.isInFlight(id) || !p.quick.beginQuick() {
		return false
	}
	message := append(append(append(make([]byte, 0, quickAnswer), `{"jsonrpc":"2.0","id":`...), id...), `,"result":`...)
	mark := len(message)
	r := p.reading.Load()
	r.id, r.method, r.params = id, method, params
	turn := r.state.Add(1)
	if !p.watched.Load() {
		p.watch()
	}
	message, ok := call.try(message, params)
	if !r.state.CompareAndSwap(turn, turn+1) {
		r.late <- quickResult{message[mark:], ok}
		p.quick.endQuick(nil)
		return true
	}
	message = append(message, '}')
	if !ok || len(message) > p.maxMessage {
		p.quick.endQuick(nil)
		return false
	}
	sent := p.endQuick
	if size := len(message); size >= minLent {
		p.quickBytes.Add(int64(size))
		sent = func(err error) {
			p.quickBytes.Add(-int64(size))
			p.buffers.put(message)
			p.quick.endQuick(err)
		}
	}
	p.transport.reply(message, sent)
	return true
}

func (p *peer) isInFlight(id json.RawMessage) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inFlight[string(id)] != nil
}

// watch starts the checks of the reading goroutine. They end by themselves when
// it handles no quick requests any more, so that an idle link needs no timer.
func (p *peer) watch() {
	if !p.watched.Swap(true) {
		p.relief.Reset(reliefTime)
	}
}

// relieve is called by the timer. If the reading goroutine is in the same quick
// method as at the last check, another one goes on reading.
func (p *peer) relieve() {
	r := p.reading.Load()
	seen := r.state.Load()
	switch {
	case seen != p.seen:
	case seen%2 == 0: // idle
		p.watched.Store(false)
		if r.state.Load() != seen { // it was too late to see that
			p.watch()
		}
		return
	default:
		r.late = make(chan quickResult, 1)
		if r.state.CompareAndSwap(seen, relieved) {
			p.takeOver(r)
			seen = 0
		}
	}
	p.seen = seen
	p.relief.Reset(reliefTime)
}

// takeOver makes the blocked request of a reading goroutine a regular one, and
// reads on.
func (p *peer) takeOver(blocked *reader) {
	next := &reader{}
	p.reading.Store(next)
	r := &incoming{peer: p, id: blocked.id, method: blocked.method, params: blocked.params, late: blocked.late}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	p.mu.Lock()
	lost := p.lost
	if lost == nil {
		p.inFlight[string(r.id)] = r
	}
	p.mu.Unlock()
	if lost != nil {
		r.cancel(errLinkLost)
	}
	p.handler.request(r)
	go p.readMessages(next) // ends with the link, or when it is relieved
}
