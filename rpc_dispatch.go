package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxQueue bounds the requests of a link that wait to run.
	maxQueue = 1000
	// busyRetryAfter is the retry_after_ms of SERVER_BUSY: most requests take less.
	busyRetryAfter = time.Second
	// taskKeep and maxTaskKept bound the age and the bytes of the outcomes that are
	// kept for callers that retry with the same task_id after a lost link, each with
	// keptOverhead. With a larger --max-message a daemon keeps more, up to
	// maxTaskKeptEver (taskKept).
	taskKeep        = 60 * time.Second
	maxTaskKept     = 16 << 20
	maxTaskKeptEver = 64 << 20
	// maxTaskID bounds a task_id in bytes: it is kept, and sent with each progress.
	maxTaskID = 256
)

// taskKept returns how many bytes of outcomes are kept: at least as many as one
// message may have, because a task whose outcome is not kept may run twice.
func taskKept(maxMessage int) int {
	return min(max(maxTaskKept, maxMessage+keptOverhead), maxTaskKeptEver)
}

// service is the methods of a daemon and the work that they share across links.
type service struct {
	methods       map[string]*method
	tasks         *flightGroup
	activity      *activity
	access        *access // nil if no method reads files
	maxConcurrent int
	log           *slog.Logger
	buffers       *bufferPool // of files and answers; nil for none

	queued atomic.Int64   // requests of all links that wait for a place
	wg     sync.WaitGroup // running requests
}

// stuck returns how many calls a file system blocks.
func (s *service) stuck() int {
	n := 0
	if s.access != nil {
		for _, dir := range s.access.stuck() {
			n += dir.Count
		}
	}
	return n
}

// wait waits until no request runs. No request may start any more.
func (s *service) wait() { s.wg.Wait() }

// dispatcher runs the requests of one link: up to maxConcurrent at the same
// time, the others wait in order. It implements handler.
type dispatcher struct {
	*service

	mu      sync.Mutex // guards the fields below
	running int
	waiting []*job
	clones  int // running clones; they do not count in running
	aside   int // blocked jobs that gave their place back (stuck.go); they do not count in running
}

func (s *service) newDispatcher() *dispatcher { return &dispatcher{service: s} }

// job is a request that the dispatcher has accepted.
type job struct {
	*incoming
	began    time.Time
	method   *method
	taskID   string
	timeout  time.Duration
	ctx      context.Context // context of the request, with time limit and progress
	stop     context.CancelFunc
	unwatch  func() bool // set while the job waits: cancels the watch for the end of ctx
	progress *progressSender

	// Guarded by dispatcher.mu.
	aside    bool // runs without a place
	released bool // release was called
}

func (d *dispatcher) notify(method string, _ json.RawMessage) {
	d.log.Debug("ignoring an unknown notification", "method", shownText(method))
}

func (d *dispatcher) request(r *incoming) {
	j, err := d.admit(r)
	if err != nil {
		r.answer(nil, err, nil)
		return
	}
	if j.inline() {
		result, err := d.perform(j)
		d.finish(j, result, err, nil)
		return
	}
	if err := d.schedule(j); err != nil {
		d.finish(j, nil, err, nil)
	}
}

// quickMethod, lender, beginQuick and endQuick implement quickHandler.

func (d *dispatcher) quickMethod(name string) quickMethod {
	if m := d.methods[name]; m != nil {
		return m.quick
	}
	return nil
}

func (d *dispatcher) lender() *bufferPool { return d.buffers }
func (d *dispatcher) beginQuick() bool    { return d.activity.begin() }
func (d *dispatcher) endQuick(error)      { d.activity.end() }

// admit checks a request and returns its job, without doing any of its work.
func (d *dispatcher) admit(r *incoming) (*job, error) {
	m := d.methods[r.method]
	if m == nil {
		return nil, &rpcError{Code: codeMethodNotFound, Message: fmt.Sprintf("method not found: %q (rpc.discover lists them)", shownText(r.method))}
	}
	var common commonParams
	if err := decodeParams(r.params, &common); err != nil {
		return nil, err
	}
	j := &job{incoming: r, began: time.Now(), method: m, timeout: m.timeLimit()}
	if t := common.TimeoutMS; t != nil {
		if *t < 1 || *t > maxRequestTimeout.Milliseconds() {
			return nil, invalidParam("timeout_ms", "must be 1 to %d", maxRequestTimeout.Milliseconds())
		}
		j.timeout = time.Duration(*t) * time.Millisecond
	}
	if t := common.TaskID; t != nil {
		if *t == "" || len(*t) > maxTaskID {
			return nil, invalidParam("task_id", "must have 1 to %d bytes", maxTaskID)
		}
		j.taskID = *t
	}
	if !d.activity.begin() {
		return nil, failure(codeDraining, "the daemon is stopping and did not start this request: send it again")
	}
	if j.inline() {
		j.ctx, j.stop = r.ctx, func() {}
		return j, nil
	}
	j.progress = newProgressSender(r, j.taskID, m.clones)
	j.ctx, j.stop = context.WithTimeout(withProgress(r.ctx, j.progress.report), j.timeout)
	return j, nil
}

// inline reports whether the job runs in the reading goroutine. A job with a
// task_id does not, because it may wait for another run of the task.
func (j *job) inline() bool { return j.method.inline && j.taskID == "" }

// schedule starts the job or queues it. It returns SERVER_BUSY if the queue is
// full.
func (d *dispatcher) schedule(j *job) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case j.method.clones:
		// The cloner limits how many clones run at the same time. The others
		// wait there and do not use up maxConcurrent, but they count as
		// waiting.
		if d.clones+d.aside+len(d.waiting) >= maxQueue {
			return busy()
		}
		d.clones++
	case d.running < d.maxConcurrent:
		d.running++
	case d.clones+d.aside+len(d.waiting) >= maxQueue:
		return busy()
	default:
		d.waiting = append(d.waiting, j)
		d.queued.Add(1)
		j.unwatch = context.AfterFunc(j.ctx, func() { d.giveUp(j) })
		return nil
	}
	// Ends with the request, which ends with its context at the latest.
	d.wg.Go(func() { d.run(j) })
	return nil
}

func busy() error {
	return failure(codeServerBusy, "%d requests are already waiting: retry later", maxQueue).with("retry_after_ms", busyRetryAfter.Milliseconds())
}

// giveUp removes a job from the queue when its context has ended. This includes
// a task whose link was lost: it has not started, and starts when a caller
// sends it again. If lost links left their jobs in the queue, all of them would
// run as soon as requests finish.
func (d *dispatcher) giveUp(j *job) {
	d.mu.Lock()
	i := slices.Index(d.waiting, j)
	if i >= 0 {
		d.waiting = slices.Delete(d.waiting, i, i+1)
		d.queued.Add(-1)
	}
	d.mu.Unlock()
	if i >= 0 {
		d.finish(j, nil, context.Cause(j.ctx), nil)
	}
}

func (d *dispatcher) run(j *job) {
	growStack()
	result, err := d.perform(j)
	if j.batch != nil {
		// The answers of a batch go out together. A place kept until then would be
		// missing for those requests of the batch that still wait for one.
		d.finish(j, result, err, nil)
		d.release(j)
		return
	}
	d.finish(j, result, err, func() { d.release(j) })
}

// finish sends the response. The request counts as active until the response is
// written.
func (d *dispatcher) finish(j *job, result any, err error, written func()) {
	j.stop()
	if j.progress != nil {
		j.progress.finish(err == nil)
	}
	d.logJob(j, err)
	j.answer(result, err, func() {
		if written != nil {
			written()
		}
		d.activity.end()
	})
}

// stepAside starts the next waiting job in place of a job that a file system
// blocks.
func (d *dispatcher) stepAside(j *job) {
	if j.method.clones {
		return // it has no place
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if j.released { // a task that goes on without this request
		return
	}
	j.aside = true
	d.aside++
	d.startNextLocked()
}

// release starts the next waiting job in place of a job that has ended.
func (d *dispatcher) release(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	j.released = true
	switch {
	case j.method.clones:
		d.clones--
	case j.aside:
		d.aside--
	default:
		d.startNextLocked()
	}
}

func (d *dispatcher) startNextLocked() {
	if len(d.waiting) == 0 || d.waiting[0].peer.isLost() { // giveUp removes its jobs
		d.running--
		return
	}
	next := d.waiting[0]
	d.waiting = slices.Delete(d.waiting, 0, 1)
	d.queued.Add(-1)
	next.unwatch()
	d.wg.Go(func() { d.run(next) }) // ends as in schedule
}

// perform runs the method, or joins the running task with the same task_id.
func (d *dispatcher) perform(j *job) (any, error) {
	if j.taskID == "" {
		return d.callMethod(j.ctx, j.method, j.params, j.late, func() { d.stepAside(j) })
	}
	fingerprint := sha256.Sum256(append([]byte(j.method.name+"\x00"), withoutCommon(j.params)...))
	value, err := d.tasks.do(j.ctx, j.taskID, string(fingerprint[:]), func(ctx context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, j.timeout)
		defer cancel()
		// The error of the method is part of the outcome: it is kept and
		// returned to every caller of the task. The flight group does not keep
		// the outcome of a run that was stopped because its last caller
		// cancelled.
		return newOutcome(d.callMethod(ctx, j.method, j.params, nil, func() { d.stepAside(j) })), nil
	})
	if errors.Is(err, errKeyConflict) {
		return nil, failure(codeConflict, "the task_id is in use for another method or other params")
	}
	if err != nil {
		return nil, err
	}
	o := value.(*outcome)
	return o.result, o.err
}

// withoutCommon returns the params without timeout_ms and task_id: a retry of
// the same task may have less time left.
func withoutCommon(params json.RawMessage) []byte {
	var fields map[string]json.RawMessage
	if err := decodeJSON(params, &fields); err != nil {
		return params
	}
	delete(fields, "timeout_ms")
	delete(fields, "task_id")
	text, err := json.Marshal(fields) // sorted by key
	if err != nil {
		return params
	}
	return text
}

// outcome is the kept outcome of a task: the result as JSON, or the error.
type outcome struct {
	result any // []byte, or nil with err
	err    error
}

func newOutcome(result any, err error) *outcome {
	if err != nil {
		return &outcome{err: err}
	}
	var buf bytes.Buffer
	encodeErr := encodeJSON(&buf, result)
	if lent, ok := result.(lentResult); ok {
		lent.giveBack()
	}
	if encodeErr != nil {
		return &outcome{err: encodeErr}
	}
	return &outcome{result: bytes.Clone(buf.Bytes())} // frees the spare capacity of buf, which size does not count
}

func (o *outcome) size() int {
	if raw, ok := o.result.([]byte); ok {
		return len(raw)
	}
	text, _ := json.Marshal(asRPCError(o.err)) // in which the output of git may be
	return len(text)
}

// callMethod runs a method. If ctx has ended, it returns the cause of that in
// place of the error of the method. A method that a file system blocks is left
// behind; before that it calls yield, once. late, unless nil, gives the result of
// the same call that runs already.
func (s *service) callMethod(ctx context.Context, m *method, params json.RawMessage, late <-chan quickResult, yield func()) (result any, err error) {
	defer recoverAs(&err)
	if m.inline {
		return m.call(ctx, params)
	}
	w, limit := &work{walks: m.walks, yield: yield}, processStopTime
	if m.clones {
		limit = cloneStopTime
	}
	result, err = runWork(ctx, w, limit, func(ctx context.Context) (any, error) {
		if err := s.awaitDir(ctx, m, params); err != nil {
			return nil, err
		}
		if late != nil {
			if quick := <-late; quick.ok {
				return quick.result, nil
			}
		}
		return m.call(ctx, params)
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return result, err
}

// awaitDir takes a place of the allowed directory that a request reads.
func (s *service) awaitDir(ctx context.Context, m *method, params json.RawMessage) error {
	switch {
	case s.access == nil:
		return nil
	case m.inWorkDir:
		return s.access.awaitWorkDir(ctx)
	}
	return readIn(ctx, s.access.dirOf(params))
}

// logJob writes the line of a request that has ended: at info for a clone, at debug
// for any other.
func (d *dispatcher) logJob(j *job, err error) {
	level, text := slog.LevelDebug, "a request ended"
	if j.method.clones {
		level, text = slog.LevelInfo, "a clone ended"
	}
	if !d.log.Enabled(context.Background(), level) {
		return
	}
	args := []any{"method", j.method.name, "task_id", shownText(j.taskID), "duration_ms", time.Since(j.began).Milliseconds()}
	if err == nil {
		d.log.Log(context.Background(), level, text, append(args, "code", "OK")...)
		return
	}
	rpc := asRPCError(err)
	args = append(args, "code", cmp.Or(string(rpc.name()), strconv.Itoa(rpc.Code)))
	if reason := rpc.Data["reason"]; reason != nil {
		args = append(args, "reason", reason)
	}
	d.log.Log(context.Background(), level, text, append(args, "error", shownText(rpc.Message))...)
}

// growStack makes the stack of a new goroutine as large as most methods need, in one
// step. It would grow to that size in two or three steps, and each copies the frames
// that are there: a twentieth of the time of a read of 64 KiB.
//
//go:noinline
func growStack() {
	var room [6 << 10]byte
	runtime.KeepAlive(&room)
}
