package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// eventRing is how many events are kept for clients that come back with a
	// Last-Event-ID, and how far a subscriber may fall behind.
	eventRing = 1024
	// maxEvent bounds one event's params; they usually have a few hundred bytes.
	maxEvent = 64 << 10
	// maxSubscribers bounds the open streams; each costs a connection. The oldest
	// one ends for another: its client comes back and misses nothing, while a limit
	// that refuses would let 256 forgotten streams lock out everybody.
	maxSubscribers = 256
	// streamBeat is how often a stream without events gets a comment: proxies keep
	// it open, and a client that is gone is noticed.
	streamBeat = 15 * time.Second
)

// event is one Server-Sent Event.
type event struct {
	id   uint64
	name string
	data []byte // one line of JSON
}

// events sends what happens to the clients that subscribe by GET /events. A
// publisher never waits: a subscriber that falls too far behind is dropped.
type events struct {
	log   *slog.Logger
	peers *peers // nil without --peers

	mu          sync.Mutex
	ring        [eventRing]event // the event with an id is at id % eventRing
	kept        uint64           // how many are in the ring
	first       uint64           // the id of the first one of this run
	next        uint64           // the id of the next one
	subscribers map[*subscriber]struct{}
	closed      bool
}

// subscriber is one open stream.
type subscriber struct {
	next    uint64        // the id of its next event; guarded by the lock of events
	missed  bool          // events between the id that it gave and next are lost
	started time.Time     // when it subscribed
	caller  string        // as callerOfRequest names it
	wake    chan struct{} // 1-buffered; closed when events are, or when it makes room
}

// newEvents begins with an id from the clock: ids rise across restarts, so that an
// old Last-Event-ID stays meaningful. They stay below 2^53, up to which JavaScript's
// numbers are exact.
func newEvents(log *slog.Logger) *events {
	first := uint64(time.Now().UnixMilli()) * 1000
	return &events{log: log, first: first, next: first, subscribers: map[*subscriber]struct{}{}}
}

// publish sends an event to all subscribers. It does not block.
func (s *events) publish(name string, params any) {
	data, err := json.Marshal(params) // one line: JSON escapes line ends
	if err != nil || len(data) > maxEvent {
		s.log.Warn("an event could not be published", "event", name, "bytes", len(data), "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.ring[s.next%eventRing] = event{s.next, name, data}
	s.kept = min(s.kept+1, eventRing)
	s.next++
	for sub := range s.subscribers {
		wake(sub.wake)
	}
}

// close ends all streams. Later subscribers are refused.
func (s *events) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for sub := range s.subscribers {
		close(sub.wake)
	}
}

// subscribe begins after the event lastID, or with the next event if lastID is
// nil. If the event after lastID is no longer kept, or lastID is of another run of
// the scheduler, it begins with the oldest, and missed is set. It returns false
// when the scheduler stops. most bounds the streams of the caller; 0 is no limit.
func (s *events) subscribe(lastID *uint64, caller string, most int) (*subscriber, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.makeRoomLocked(caller, most)
	sub := &subscriber{next: s.next, started: time.Now(), caller: caller, wake: make(chan struct{}, 1)}
	if lastID != nil {
		oldest := s.next - s.kept
		sub.next = *lastID + 1
		if *lastID+1 < max(oldest, s.first) || *lastID >= s.next {
			sub.next, sub.missed = oldest, true
		}
	}
	wake(sub.wake) // for the events that it has missed
	s.subscribers[sub] = struct{}{}
	return sub, true
}

// makeRoomLocked ends the oldest stream of a caller that has the most it may have,
// or the oldest of all where there are maxSubscribers.
func (s *events) makeRoomLocked(caller string, most int) {
	var oldest, oldestOwn *subscriber
	own := 0
	for sub := range s.subscribers {
		if oldest == nil || sub.started.Before(oldest.started) {
			oldest = sub
		}
		if sub.caller != caller {
			continue
		}
		own++
		if oldestOwn == nil || sub.started.Before(oldestOwn.started) {
			oldestOwn = sub
		}
	}
	switch {
	case most > 0 && own >= most:
		oldest = oldestOwn
	case len(s.subscribers) < maxSubscribers:
		return
	}
	delete(s.subscribers, oldest)
	close(oldest.wake)
}

// begin returns the id before the subscriber's first event: its client resumes
// there if it is cut off before that event.
func (s *events) begin(sub *subscriber) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sub.next - 1
}

func (s *events) unsubscribe(sub *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subscribers, sub)
}

// after returns the events that are new to sub; ok is false when the oldest of them
// is no longer kept.
func (s *events) after(sub *subscriber) (news []event, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.next < s.next-s.kept {
		return nil, false
	}
	for ; sub.next < s.next; sub.next++ {
		news = append(news, s.ring[sub.next%eventRing])
	}
	return news, true
}

// GET /events
func (s *events) serve(w http.ResponseWriter, r *http.Request) {
	var lastID *uint64
	if given := r.Header.Get("Last-Event-ID"); given != "" {
		id, err := strconv.ParseUint(given, 10, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) { // a larger one is of another run
			writeProblem(w, http.StatusBadRequest, codeBadRequest, "Last-Event-ID must be a number")
			return
		}
		lastID = &id
	}
	all := s.peers.wanted(r)
	resumed := all && lastID != nil
	if all {
		lastID = nil
	}
	q, most := callerRequestOf(w), 0
	if q != nil {
		most = q.limits.streams
	}
	sub, ok := s.subscribe(lastID, q.caller(), most)
	if !ok {
		w.Header().Set("Retry-After", "10")
		writeProblem(w, http.StatusServiceUnavailable, codeCapacity, "the scheduler is stopping")
		return
	}
	defer s.unsubscribe(sub)
	token := callerOf(r)
	stream := newEventStream(w)
	defer stream.beat.Stop()
	id := s.begin(sub)
	var others <-chan event
	if all {
		id = uint64(time.Now().UnixMilli()) * 1000 // of this stream alone, as newEvents
		var stop func()
		others, stop = s.peers.follow(r)
		defer stop()
	}
	stream.welcome(id, sub.missed || resumed)
	if stream.flush() != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-stream.beat.C:
			if stream.comment("") != nil {
				return
			}
		case e := <-others:
			id++
			stream.add(id, e.name, e.data)
			if stream.flush() != nil {
				return
			}
		case _, open := <-sub.wake:
			news, ok := s.after(sub)
			if !ok {
				s.log.Warn("a subscriber of events was too slow and is dropped", "events_behind", eventRing)
				return
			}
			for _, e := range news {
				if !token.mayUse(e) {
					continue
				}
				if all {
					id++
					e.id, e.data = id, withNode(e.data, *s.peers.name.Load())
				}
				stream.add(e.id, e.name, e.data)
			}
			if stream.flush() != nil || !open {
				return
			}
		}
	}
}

// eventStream writes Server-Sent Events to one client (HTML Living Standard,
// section 9.2). One goroutine uses it. The caller stops beat.
type eventStream struct {
	w    http.ResponseWriter
	beat *time.Ticker                            // when to send a comment, so that proxies keep the stream open
	text bytes.Buffer                            // events that were added and not yet flushed
	send func(http.ResponseWriter, []byte) error // sendNow, or one that counts
}

// newEventStream sets the header of an answer that is a stream.
func newEventStream(w http.ResponseWriter) *eventStream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect the events and send them late
	return &eventStream{w: w, beat: time.NewTicker(streamBeat), send: sendNow}
}

// welcome begins a stream with the id that a client resumes after which is cut off
// before its first event. If the client has missed events, it gets the event
// reset: what it knows may be out of date.
func (s *eventStream) welcome(id uint64, missed bool) {
	fmt.Fprintf(&s.text, ": welcome\nid: %d\n", id)
	if missed {
		s.text.WriteString("event: reset\ndata: {}\n")
	}
	s.text.WriteByte('\n')
}

// add appends an event; id 0 writes none. data is JSON.
func (s *eventStream) add(id uint64, name string, data []byte) {
	if id != 0 {
		fmt.Fprintf(&s.text, "id: %d\n", id)
	}
	fmt.Fprintf(&s.text, "event: %s\ndata: ", name)
	s.text.Write(oneLine(data))
	s.text.WriteString("\n\n")
}

// oneLine returns JSON without line ends: outside of texts they are only space, and
// in a stream they would end the data.
func oneLine(data []byte) []byte {
	for _, end := range []byte("\n\r") {
		if bytes.IndexByte(data, end) >= 0 { // never in JSON of our own: do not copy it
			data = bytes.ReplaceAll(data, []byte{end}, []byte{' '})
		}
	}
	return data
}

// comment sends a line that clients ignore, with what was added before it.
func (s *eventStream) comment(text string) error {
	fmt.Fprintf(&s.text, ":%s\n\n", text)
	return s.flush()
}

// flush sends what was added. The error means that the client is gone, or does
// not read.
func (s *eventStream) flush() error {
	defer s.text.Reset()
	return s.send(s.w, s.text.Bytes())
}
