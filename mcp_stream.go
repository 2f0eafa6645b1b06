package main

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"time"
)

// serveCall answers tools/call. The answer is JSON unless there is something to
// stream: with the first progress, or after streamBeat without an answer, it
// becomes a stream of Server-Sent Events, if the client accepts one. A client that
// closes the connection cancels the call.
func (m *mcpAPI) serveCall(w http.ResponseWriter, r *http.Request, t *mcpTarget, q *mcpRequest) {
	ctx, cancel := context.WithCancel(r.Context())
	s := &mcpStream{w: w, mcpAPI: m}
	streams := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	reports := make(chan mcpProgress)
	var report func(mcpProgress)
	if q.token != nil && streams {
		report = func(p mcpProgress) {
			select {
			case reports <- p:
			case <-ctx.Done():
			}
		}
	}
	done := make(chan mcpReply, 1)
	go func() { done <- m.callTool(ctx, t, q, report) }() // waited for below
	defer func() {
		cancel()
		<-done
	}()
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	last := -1.0
	var err error
	for err == nil {
		select {
		case p := <-reports:
			if p.Progress <= last { // it must rise (2026-07-28, basic/patterns/progress)
				continue
			}
			last, p.Token = p.Progress, q.token
			err = s.notify(p)
		case reply := <-done:
			done <- reply // for the deferred wait
			err = s.finish(reply)
			m.logWriteError(err)
			return
		case <-beat.C:
			if streams {
				err = s.open().comment("")
			}
		case <-ctx.Done():
			return
		}
	}
	m.logWriteError(err)
}

// mcpStream is an answer that becomes a stream when there is something to say
// before its end. One goroutine uses it.
type mcpStream struct {
	*mcpAPI
	w      http.ResponseWriter
	events *eventStream // nil until something was sent
}

// open returns the stream, and begins it if it was not yet.
func (s *mcpStream) open() *eventStream {
	if s.events == nil {
		s.events = newEventStream(s.w)
		s.events.beat.Stop() // serveCall has one, which runs before the stream begins
		s.events.send = s.unsent.sendNow
	}
	return s.events
}

// notify sends notifications/progress.
func (s *mcpStream) notify(p mcpProgress) error {
	var buf bytes.Buffer
	message := struct {
		Version string      `json:"jsonrpc"`
		Method  string      `json:"method"`
		Params  mcpProgress `json:"params"`
	}{"2.0", "notifications/progress", p}
	if err := encodeJSON(&buf, message); err != nil {
		return err
	}
	s.open().add(0, "message", buf.Bytes())
	return s.events.flush()
}

// finish sends the answer.
func (s *mcpStream) finish(reply mcpReply) error {
	if s.events == nil {
		s.send(s.w, reply)
		return nil
	}
	s.events.add(0, "message", reply.answer())
	return s.events.flush()
}
