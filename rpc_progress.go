package main

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// progressAfter is how long a request runs before it tells of its progress;
	// a clone does from the start.
	progressAfter = time.Second
	// progressPause is the least time between two notifications: at most 4 a second.
	progressPause = 250 * time.Millisecond
	// progressBeat is the most time between two: a sign of life.
	progressBeat = 15 * time.Second
)

// progress is one report of a running request; zero fields are left out.
// Percent is 0 to 100; what is sent never falls.
type progress struct {
	Phase          string `json:"phase,omitempty" doc:"of a clone: connecting, counting, compressing, receiving, resolving, checkout, done"`
	Percent        int    `json:"percent" doc:"0 to 100, never falls"`
	Message        string `json:"message,omitempty"`
	Done           int64  `json:"done,omitempty"`
	Total          int64  `json:"total,omitempty"`
	Bytes          int64  `json:"bytes,omitempty"`
	BytesPerSecond int64  `json:"bytes_per_second,omitempty"`
}

// taskProgress is the params of the notification task/progress.
type taskProgress struct {
	TaskID string `json:"task_id" doc:"the request's, else its id as a string"`
	Method string `json:"method"`
	progress
}

type progressKey struct{}

// withProgress gives the request of ctx a place to report to. report must not
// block and may be called from several goroutines.
func withProgress(ctx context.Context, report func(progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// reportProgress tells how far the request of ctx is; without a listener it
// does nothing.
func reportProgress(ctx context.Context, p progress) {
	if report, ok := ctx.Value(progressKey{}).(func(progress)); ok {
		report(p)
	}
}

// progressSender sends the progress of one request. One notification is under
// way at a time; on a slow link the newest report replaces those that could
// not go out.
type progressSender struct {
	peer   *peer
	taskID string
	method string
	timer  *time.Timer // calls tick

	sending atomic.Bool // a notification waits to be written

	mu       sync.Mutex // guards the fields below
	latest   progress
	fresh    bool // latest was not sent
	begun    bool // it may send
	ended    bool
	lastSent time.Time
}

// newProgressSender starts the clock of a request. Without a task_id the
// request's id, as a string, names it.
func newProgressSender(r *incoming, taskID string, atOnce bool) *progressSender {
	if taskID == "" && json.Unmarshal(r.id, &taskID) != nil {
		taskID = string(r.id) // a number; null unmarshals to ""
	}
	s := &progressSender{peer: r.peer, taskID: taskID, method: r.method, fresh: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(progressAfter, s.tick)
	if atOnce {
		s.latest.Phase, s.begun = "connecting", true
		s.sendLocked()
	}
	return s
}

// report takes a new state; the percent never falls.
func (s *progressSender) report(p progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Percent = max(p.Percent, s.latest.Percent)
	s.latest, s.fresh = p, true
	if s.begun {
		s.sendIfDueLocked()
	}
}

// tick is called by the timer: the first second is over, a pause is, or
// nothing was said for long.
func (s *progressSender) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	if time.Since(s.lastSent) >= progressBeat {
		s.fresh = true
	}
	s.sendIfDueLocked()
}

// sendIfDueLocked sends what is new, or sets the timer for when it may.
func (s *progressSender) sendIfDueLocked() {
	silence := time.Since(s.lastSent)
	switch {
	case s.ended || s.sending.Load(): // sent sets the timer
	case !s.fresh:
		s.timer.Reset(progressBeat - silence)
	case silence < progressPause:
		s.timer.Reset(progressPause - silence)
	default:
		s.sendLocked()
	}
}

func (s *progressSender) sendLocked() {
	s.fresh, s.lastSent = false, time.Now()
	s.sending.Store(true)
	s.peer.notify(progressMethod, taskProgress{TaskID: s.taskID, Method: s.method, progress: s.latest}, s.sent)
}

// sent is called when a notification is written or lost, perhaps inside
// sendLocked: it takes no lock.
func (s *progressSender) sent(error) {
	s.sending.Store(false)
	s.timer.Reset(progressPause)
}

// finish ends the reports; after it the answer is sent. A success ends at 100,
// whatever the pause.
func (s *progressSender) finish(success bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.timer.Stop()
	if !success || !s.begun || (s.latest.Percent == 100 && !s.fresh) {
		return
	}
	s.latest.Percent = 100
	s.peer.notify(progressMethod, taskProgress{TaskID: s.taskID, Method: s.method, progress: s.latest}, nil)
}
