package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// progressAfter is how long a request runs before its first progress
	// notification. A clone sends its first one at once.
	progressAfter = time.Second
	// progressPause is the minimum time between two notifications: at most 4 a second.
	progressPause = 250 * time.Millisecond
	// progressBeat is the maximum time between two, to show that the request still runs.
	progressBeat = 15 * time.Second
)

// progress is a progress report of a running request; zero fields are omitted.
type progress struct {
	Phase          string `json:"phase,omitempty" doc:"phase of a clone: waiting (for other clones), connecting, counting, compressing, receiving, resolving, checkout or done"`
	Percent        int    `json:"percent" doc:"0 to 100, never decreases"`
	Message        string `json:"message,omitempty" doc:"text for people"`
	Done           int64  `json:"done,omitempty" doc:"number of items done in this phase"`
	Total          int64  `json:"total,omitempty" doc:"number of items in this phase"`
	Bytes          int64  `json:"bytes,omitempty" doc:"bytes received"`
	BytesPerSecond int64  `json:"bytes_per_second,omitempty" doc:"current transfer rate"`
}

// taskProgress is the params of the notification task/progress.
type taskProgress struct {
	TaskID string `json:"task_id" doc:"task_id of the request; without one, the id of the request as a string"`
	Method string `json:"method" doc:"method of the request"`
	progress
}

// machineProgress is the params of task/progress in GET /events. Task ids are
// chosen by callers, so that two machines may use the same: the hub adds which
// machine it is, and a daemon cannot say so itself.
type machineProgress struct {
	MachineID string `json:"machine_id" doc:"machine that the progress came from"`
	LibID     string `json:"lib_id" doc:"library of the machine; empty without one"`
	Token     string `json:"token,omitempty" doc:"name of the token of the request with this task_id, if it is one of the tokens file"`
	taskProgress
}

type progressKey struct{}

// withProgress returns a context that passes progress reports to report, which
// must not block and may be called from several goroutines.
func withProgress(ctx context.Context, report func(progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// reportProgress reports progress of the request of ctx. It does nothing if
// nobody listens.
func reportProgress(ctx context.Context, p progress) {
	if report, ok := ctx.Value(progressKey{}).(func(progress)); ok {
		report(p)
	}
}

// progressSender sends the progress of one request. Only one notification at a
// time waits to be written: over a slow link the newest report replaces those
// that were not sent.
type progressSender struct {
	peer   *peer
	taskID string
	method string
	timer  *time.Timer // calls tick

	sending atomic.Bool // a notification is queued and not yet written

	mu       sync.Mutex // guards the fields below
	latest   progress
	fresh    bool // latest has not been sent
	begun    bool // notifications may be sent
	ended    bool
	lastSent time.Time
}

// newProgressSender starts the progress of a request. Without a task_id the
// notifications carry the id of the request as a string.
func newProgressSender(r *incoming, taskID string, atOnce bool) *progressSender {
	if taskID == "" && decodeJSON(r.id, &taskID) != nil {
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

// report records a new state and sends it if it is due. The percentage never
// decreases.
func (s *progressSender) report(p progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Percent = max(p.Percent, s.latest.Percent)
	s.latest, s.fresh = p, true
	if s.begun {
		s.sendIfDueLocked()
	}
}

// tick is called by the timer: after the first second, after a pause, and when
// nothing was sent for progressBeat.
func (s *progressSender) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	if time.Since(s.lastSent) >= progressBeat {
		s.fresh = true
	}
	s.sendIfDueLocked()
}

// sendIfDueLocked sends the latest report, or sets the timer for when it may be
// sent.
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

// sent is called when a notification was written or lost. sendLocked may call
// it while it holds mu, so it must not lock mu.
func (s *progressSender) sent(error) {
	s.sending.Store(false)
	s.timer.Reset(progressPause)
}

// finish stops the notifications; the response is sent after it. A successful
// request ends at 100 percent, even within the pause.
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
