package main

import (
	"context"
	"runtime"
	"slices"
	"time"

	"github.com/coder/websocket"
)

// This file is the writing side of a link.

// outMessage is a message that waits to be written.
type outMessage struct {
	data []byte
	sent func(error)
}

// send queues a message, and writes it if the link is idle and the kernel takes it
// at once: to start the writer would take longer. A short message overtakes the long
// ones in the queue, but not the one that is being written.
func (l *link) send(message []byte, sent func(error)) {
	l.enqueue(message, sent)
	l.writeShort()
}

// sendSoon is send for one of many messages. It lets the goroutines that are ready
// to run queue theirs first, so that many messages leave in one system call.
func (l *link) sendSoon(message []byte, sent func(error)) {
	l.enqueue(message, sent)
	l.mu.Lock()
	if l.yielding {
		l.mu.Unlock()
		return
	}
	l.yielding = true
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
	l.yielding = false
	l.mu.Unlock()
	l.writeShort()
}

// startWriter starts the writer if messages wait that no goroutine writes. After
// the link has failed it reports their loss.
func (l *link) startWriter() {
	l.mu.Lock()
	waiting := len(l.short) + len(l.long) + len(l.unflushed)
	if waiting == 0 || l.writing || l.replying {
		l.mu.Unlock()
		return
	}
	if l.err == nil {
		l.writing = true
		l.wg.Go(l.write)
		l.mu.Unlock()
		return
	}
	lost, err := slices.Concat(l.unflushed, l.short, l.long), l.err
	l.unflushed, l.short, l.long = nil, nil, nil
	l.mu.Unlock()
	l.report(lost, err)
}

// reply is send for the goroutine that reads. It writes its messages itself when
// it has to wait for the next one: to wake up the writer would take longer than
// most of the requests that are answered so.
func (l *link) reply(message []byte, sent func(error)) {
	l.enqueue(message, sent)
	l.replied.Store(true)
}

// queued returns the number of bytes that wait to be written.
func (l *link) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending
}

// writeShort writes the short messages that wait, or a long one alone of up to
// maxDirect bytes, if the kernel takes them at once. It leaves the rest to the writer.
func (l *link) writeShort() {
	l.replied.Store(false)
	l.mu.Lock()
	n, size := 0, l.gather.waiting()
	for n < len(l.short) && size+len(l.short[n].data)+maxFrameHeader <= maxGathered {
		size += len(l.short[n].data) + maxFrameHeader
		n++
	}
	const more = 4 * (maxFrameHeader + maxControlPayload) // its headers, and control frames that come meanwhile
	alone := len(l.short) == 0 && len(l.long) == 1 && size+len(l.long[0].data)+more <= maxDirect && !l.compresses
	if l.err != nil || l.writing || l.replying || n == 0 && !alone || l.compresses && !l.trusted() || !l.gather.tryHold() {
		l.mu.Unlock()
		l.startWriter()
		return
	}
	messages := l.short[:n:n]
	if l.short = l.short[n:]; alone {
		messages, l.long = l.long, nil
	}
	l.replying = true
	l.mu.Unlock()
	failed := false
	for _, m := range messages {
		if alone {
			failed = l.writeFrames(m.data, maxDirect) != nil
		} else {
			failed = failed || l.writeMessage(m.data) != nil
		}
	}
	flushed := l.gather.tryFlush() && !failed
	if flushed {
		l.lastSent.Store(int64(time.Since(l.began)))
		l.report(messages, nil)
		clear(messages) // allows them to be freed
	}
	l.mu.Lock()
	l.replying = false
	if !flushed {
		l.unflushed = messages
	}
	l.mu.Unlock()
	l.startWriter()
}

func (l *link) enqueue(message []byte, sent func(error)) {
	l.mu.Lock()
	if l.err != nil {
		err := l.err
		l.mu.Unlock()
		if sent != nil {
			sent(err)
		}
		return
	}
	m := outMessage{data: message, sent: sent}
	if len(message) <= maxFrame {
		l.short = append(l.short, m)
	} else {
		l.long = append(l.long, m)
	}
	l.unsent++
	l.pending += len(message)
	l.mu.Unlock()
}

// write writes the messages that wait, and ends when there are none or the link has
// failed. It flushes when no message waits or when enough is gathered, so that many
// short messages leave in one system call.
func (l *link) write() {
	l.mu.Lock()
	unflushed := l.unflushed
	l.unflushed = nil
	l.mu.Unlock()
	for {
		m, ok := l.next(len(unflushed) == 0)
		if !ok && len(unflushed) == 0 {
			l.startWriter() // reports a loss
			return
		}
		var err error
		if ok {
			unflushed = append(unflushed, m)
			if err = l.writeMessage(m.data); err == nil && l.gather.waiting() < maxGathered {
				continue
			}
		}
		if flushErr := l.flush(); err == nil {
			err = flushErr
		}
		l.sending.Store(false)
		if err != nil {
			err = l.failAfterRead(err)
		}
		l.report(unflushed, err)
		clear(unflushed) // allows the messages to be freed
		unflushed = unflushed[:0]
	}
}

// flush writes what is gathered.
func (l *link) flush() error {
	err := l.gather.flush()
	l.lastSent.Store(int64(time.Since(l.began)))
	return err
}

// report ends messages that were written, or lost with err.
func (l *link) report(messages []outMessage, err error) {
	l.mu.Lock()
	for _, m := range messages {
		l.unsent--
		l.pending -= len(m.data)
	}
	l.mu.Unlock()
	wake(l.written)
	for _, m := range messages {
		if m.sent != nil {
			m.sent(err)
		}
	}
}

// failAfterRead fails the link after a write error, but gives the reader time
// to fail it first: the close frame of the other side says more than a write
// error, and its code may forbid reconnecting.
func (l *link) failAfterRead(err error) error {
	l.broken.Store(true)
	wake(l.written)
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
	}
	return l.fail(err)
}

// next returns the next message to write, and false if there is none or the link has
// failed; the writer then ends if last is true.
func (l *link) next(last bool) (outMessage, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := &l.short
	if len(*queue) == 0 {
		queue = &l.long
	}
	if len(*queue) == 0 || l.err != nil {
		l.writing = !last
		return outMessage{}, false
	}
	m := (*queue)[0]
	(*queue)[0] = outMessage{} // allows the message to be freed
	if len(*queue) == 1 {
		*queue = (*queue)[:0] // the next one takes its place
	} else {
		*queue = (*queue)[1:]
	}
	return m, true
}

// writeMessage writes one message to the gatherer, a long one in several frames.
// It flushes what is gathered before a frame that does not fit beside it, so that
// each write is small enough for the watchdog of the gatherer.
func (l *link) writeMessage(data []byte) error {
	ctx := context.Background()
	early := l.compresses && !l.trusted()
	switch {
	case !l.compresses || len(data) < minCompressed && !early:
		return l.writeFrames(data, maxGathered)
	case len(data) <= maxFrame && !early:
		if err := l.makeRoom(len(data), maxGathered); err != nil {
			return err
		}
		return l.conn.Write(ctx, websocket.MessageText, data)
	}
	l.sending.Store(true) // until the flush
	l.gather.hold()
	w, err := l.conn.Writer(ctx, websocket.MessageText)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), maxFrame)
		if early {
			// The other side must not inflate anything yet. The library decides by
			// the first frame, and does not compress a message whose first frame is
			// shorter than minCompressed.
			n, early = 1, false
		}
		if err := l.makeRoom(n, maxGathered); err != nil {
			return err
		}
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return w.Close()
}

// writeFrames is writeMessage without compression and without the library. It
// flushes before more than most bytes wait.
func (l *link) writeFrames(data []byte, most int) error {
	const final = 0x80
	if len(data) > maxFrame {
		l.sending.Store(true) // until the flush
	}
	for first := byte(finalText &^ final); ; first = 0 { // continues the message
		n := min(len(data), maxFrame)
		if room := most - l.gather.waiting(); room >= minPart {
			n = min(n, room) // each write is full
		}
		if n == len(data) {
			first |= final
		}
		if err := l.makeRoom(n, most); err != nil {
			return err
		}
		if err := l.gather.addFrame(first, data[:n]); err != nil || n == len(data) {
			return err
		}
		data = data[n:]
	}
}

// makeRoom prepares the gatherer for a frame of n bytes, of which most may wait.
func (l *link) makeRoom(n, most int) error {
	if waiting := l.gather.waiting(); waiting > 0 && waiting+n > most {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.gather.hold()
	return nil
}
