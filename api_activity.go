package main

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxActivity bounds the requests and the failures that GET /activity returns,
	// and the failures that are kept.
	maxActivity = 1000
	// failureAge is how long a failure is kept.
	failureAge = time.Hour
	// maxMessageKept bounds the text of a failure: it may quote what git wrote.
	maxMessageKept = 2 << 10
)

// activityView is the answer of GET /activity.
type activityView struct {
	Requests []runningRequest `json:"requests" doc:"requests that run, the oldest first"`
	Failures []failedRequest  `json:"failures" doc:"what failed in the last hour, the oldest first"`
}

// runningRequest is a request that is on its way or runs in a daemon.
type runningRequest struct {
	Method    string    `json:"method"`
	LibID     string    `json:"lib_id,omitempty"`
	MachineID string    `json:"machine_id,omitempty" doc:"absent until a machine has it"`
	TaskID    string    `json:"task_id,omitempty"`
	Token     string    `json:"token,omitempty" doc:"name of the caller's token, if it is one of the tokens file"`
	StartedAt time.Time `json:"started_at"`
	Progress  *progress `json:"progress,omitempty" doc:"the last one"`
}

// failedRequest is a request that failed, or a daemon that died: then method is
// empty.
type failedRequest struct {
	Method     string    `json:"method,omitempty" doc:"absent for a daemon that died"`
	LibID      string    `json:"lib_id,omitempty"`
	MachineID  string    `json:"machine_id,omitempty"`
	TaskID     string    `json:"task_id,omitempty"`
	Token      string    `json:"token,omitempty"`
	At         time.Time `json:"at"`
	DurationMS int64     `json:"duration_ms"`
	Code       string    `json:"code" doc:"name of the error, or its number"`
	Reason     string    `json:"reason,omitempty" doc:"reason of a git command that failed"`
	Message    string    `json:"message"`
}

// requestLog knows which requests run and which have failed.
type requestLog struct {
	mu       sync.Mutex // guards the fields below
	running  map[*call]struct{}
	byTask   map[string]map[*call]struct{}
	failures []failedRequest // the oldest first
}

func newRequestLog() *requestLog {
	return &requestLog{running: map[*call]struct{}{}, byTask: map[string]map[*call]struct{}{}}
}

// begin adds a request; end removes it.
func (l *requestLog) begin(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[c] = struct{}{}
	if c.taskID == "" {
		return
	}
	if l.byTask[c.taskID] == nil {
		l.byTask[c.taskID] = map[*call]struct{}{}
	}
	l.byTask[c.taskID][c] = struct{}{}
}

func (l *requestLog) end(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, c)
	delete(l.byTask[c.taskID], c)
	if len(l.byTask[c.taskID]) == 0 {
		delete(l.byTask, c.taskID)
	}
}

// progressed keeps the progress of a task for the requests that went out by the
// link: another machine may use the same task id. It returns the name of the token
// that the first of them came with.
func (l *requestLog) progressed(via *hubConn, task taskProgress) (token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var first *call
	for c := range l.byTask[task.TaskID] {
		if c.via.Load() != via {
			continue
		}
		c.progress.Store(&task.progress)
		if first == nil || c.began.Before(first.began) {
			first, token = c, c.token
		}
	}
	return token
}

// failed keeps a failure. It drops those that are too old or too many.
func (l *requestLog) failed(f failedRequest) {
	f.Message = f.Message[:min(len(f.Message), maxMessageKept)]
	f.Message = cleanLines(f.Message)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.recentLocked(f.At), f)
	l.failures = l.failures[max(0, len(l.failures)-maxActivity):]
}

// recentLocked returns the failures that are not too old. An entry from the future,
// as after the clock was set back, goes too.
func (l *requestLog) recentLocked(now time.Time) []failedRequest {
	return dropIf(l.failures, func(f *failedRequest) bool {
		age := now.Sub(f.At)
		return age > failureAge || age < -failureAge
	})
}

// count returns how many requests run.
func (l *requestLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.running)
}

// view returns what GET /activity answers.
func (l *requestLog) view(now time.Time) activityView {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = l.recentLocked(now)
	v := activityView{Requests: []runningRequest{}, Failures: slices.Clone(l.failures)}
	if v.Failures == nil {
		v.Failures = []failedRequest{}
	}
	for c := range l.running {
		v.Requests = append(v.Requests, runningRequest{
			Method: shownText(c.method), LibID: c.libID, MachineID: c.machine(), TaskID: shownText(c.taskID), Token: c.token, StartedAt: c.began.UTC(), Progress: c.progress.Load(),
		})
	}
	sortBy(v.Requests, func(a, b runningRequest) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.TaskID, b.TaskID))
	})
	v.Requests = v.Requests[:min(len(v.Requests), maxActivity)]
	return v
}

// GET /activity
func (a *api) getActivity(w http.ResponseWriter, r *http.Request) {
	caller, view := callerOf(r), a.requests.view(time.Now())
	view.Requests = dropIf(view.Requests, func(q *runningRequest) bool { return !caller.mayUseEither(q.MachineID, q.LibID) })
	view.Failures = dropIf(view.Failures, func(f *failedRequest) bool { return !caller.mayUseEither(f.MachineID, f.LibID) })
	writeJSON(w, http.StatusOK, view)
}
