package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
)

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
		p.take(m, b)
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
