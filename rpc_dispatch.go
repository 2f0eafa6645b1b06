package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// maxQueue bounds the requests of a link that wait for a place.
	maxQueue = 1000
	// busyRetryAfter is what SERVER_BUSY advises: most requests are done by then.
	busyRetryAfter = time.Second
	// taskKeep and maxTaskKept bound the outcomes that are remembered for a caller
	// that comes back after its link was lost; where messages may be larger than
	// that (--max-message) a daemon remembers more, see taskKept.
	taskKeep        = 60 * time.Second
	maxTaskKept     = 16 << 20
	maxTaskKeptEver = 64 << 20
	// maxTaskID bounds a task_id, which is kept and sent with each progress.
	maxTaskID = 256
)

// taskKept is how many bytes of outcomes are remembered: as many as one message
// holds at the least, for what is not remembered may run twice.
func taskKept(maxMessage int) int { return min(max(maxTaskKept, maxMessage), maxTaskKeptEver) }

// service is what a daemon can do, whichever link asks.
type service struct {
	methods       map[string]*method
	tasks         *flightGroup
	activity      *activity
	maxConcurrent int
	log           *slog.Logger

	wg sync.WaitGroup // the requests that run
}

// wait returns when no request runs; none may begin any more.
func (s *service) wait() { s.wg.Wait() }

// dispatcher runs the requests of one link: up to maxConcurrent at a time, the
// others wait in order. It implements handler.
type dispatcher struct {
	*service

	mu      sync.Mutex // guards the fields below
	running int
	waiting []*job
	clones  int // running ones, which take no place of the others
}

func (s *service) newDispatcher() *dispatcher { return &dispatcher{service: s} }

// job is one request on its way through the dispatcher.
type job struct {
	*incoming
	method   *method
	taskID   string
	timeout  time.Duration
	ctx      context.Context // the request's, with its time limit and progress
	stop     context.CancelFunc
	unwatch  func() bool // set while it waits: stops watching for the end of ctx
	progress *progressSender
}

func (d *dispatcher) notify(method string, _ json.RawMessage) {
	d.log.Debug("a notification that means nothing here", "method", showName(method))
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

// admit checks what can be checked without work.
func (d *dispatcher) admit(r *incoming) (*job, error) {
	m := d.methods[r.method]
	if m == nil {
		return nil, &rpcError{Code: codeMethodNotFound, Message: fmt.Sprintf("method not found: %q (rpc.discover lists them)", r.method)}
	}
	var common commonParams
	if err := decodeParams(r.params, &common); err != nil {
		return nil, err
	}
	j := &job{incoming: r, method: m, timeout: m.timeLimit()}
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
		return nil, failure(codeDraining, "the daemon is about to stop and has not started this request: ask for it anew")
	}
	if j.inline() {
		j.ctx, j.stop = r.ctx, func() {}
		return j, nil
	}
	j.progress = newProgressSender(r, j.taskID, m.clones)
	j.ctx, j.stop = context.WithTimeout(withProgress(r.ctx, j.progress.report), j.timeout)
	return j, nil
}

// inline tells whether the job runs in the reading goroutine. A task may have
// to wait for another's run.
func (j *job) inline() bool { return j.method.inline && j.taskID == "" }

// schedule starts the job, lets it wait, or refuses it.
func (d *dispatcher) schedule(j *job) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case j.method.clones:
		// How many clones run at once is the cloner's to say. The others wait there
		// and take no place here, but they count as waiting.
		if d.clones+len(d.waiting) >= maxQueue {
			return busy()
		}
		d.clones++
	case d.running < d.maxConcurrent:
		d.running++
	case d.clones+len(d.waiting) >= maxQueue:
		return busy()
	default:
		d.waiting = append(d.waiting, j)
		j.unwatch = context.AfterFunc(j.ctx, func() { d.giveUp(j) })
		return nil
	}
	// Ends with the request, which ends with its context at the latest.
	d.wg.Go(func() { d.run(j) })
	return nil
}

func busy() error {
	return failure(codeServerBusy, "the daemon has %d requests waiting: try again later", maxQueue).with("retry_after_ms", busyRetryAfter.Milliseconds())
}

// giveUp takes a job whose context ended out of the queue. That goes for a task
// too when its link was lost: it has not begun and is begun when it is asked for
// again. With all places free at once the whole queue would begin here.
func (d *dispatcher) giveUp(j *job) {
	d.mu.Lock()
	i := slices.Index(d.waiting, j)
	if i >= 0 {
		d.waiting = slices.Delete(d.waiting, i, i+1)
	}
	d.mu.Unlock()
	if i >= 0 {
		d.finish(j, nil, context.Cause(j.ctx), nil)
	}
}

func (d *dispatcher) run(j *job) {
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

// finish answers; the request counts as active until its answer is written.
func (d *dispatcher) finish(j *job, result any, err error, written func()) {
	j.stop()
	if j.progress != nil {
		j.progress.finish(err == nil)
	}
	j.answer(result, err, func() {
		if written != nil {
			written()
		}
		d.activity.end()
	})
}

// release gives the job's place to the next that waits.
func (d *dispatcher) release(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if j.method.clones {
		d.clones--
		return
	}
	if len(d.waiting) == 0 || d.waiting[0].peer.gone() { // giveUp takes those
		d.running--
		return
	}
	next := d.waiting[0]
	d.waiting = slices.Delete(d.waiting, 0, 1)
	next.unwatch()
	d.wg.Go(func() { d.run(next) }) // ends as in place
}

// perform runs the method, or joins the task of its task_id.
func (d *dispatcher) perform(j *job) (any, error) {
	if j.taskID == "" {
		return d.callMethod(j.ctx, j.method, j.params)
	}
	fingerprint := sha256.Sum256(append([]byte(j.method.name+"\x00"), withoutCommon(j.params)...))
	value, err := d.tasks.do(j.ctx, j.taskID, string(fingerprint[:]), func(ctx context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, j.timeout)
		defer cancel()
		// A method that loses its last asker must not be remembered as failed:
		// the flight group drops what was stopped.
		return newOutcome(d.callMethod(ctx, j.method, j.params)), nil
	})
	if errors.Is(err, errKeyConflict) {
		return nil, failure(codeConflict, "task_id: is in use for another method or other params")
	}
	if err != nil {
		return nil, err
	}
	o := value.(*outcome)
	return o.result, o.err
}

// withoutCommon is the params as they tell one task from another: a caller that
// comes back has less time left.
func withoutCommon(params json.RawMessage) []byte {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(params, &fields); err != nil {
		return params
	}
	delete(fields, "timeout_ms")
	delete(fields, "task_id")
	text, err := json.Marshal(fields) // in the order of the keys
	if err != nil {
		return params
	}
	return text
}

// outcome is a remembered answer: the result as JSON, or the error.
type outcome struct {
	result any // []byte, or nil with err
	err    error
}

func newOutcome(result any, err error) *outcome {
	if err != nil {
		return &outcome{err: err}
	}
	var buf bytes.Buffer
	if err := encodeJSON(&buf, result); err != nil {
		return &outcome{err: err}
	}
	return &outcome{result: bytes.Clone(buf.Bytes())} // the buffer has room to grow, which size would not count
}

func (o *outcome) size() int {
	raw, _ := o.result.([]byte)
	return len(raw)
}

// callMethod runs a method. When its context ended, the reason for that is the
// error, whatever the method made of it.
func (s *service) callMethod(ctx context.Context, m *method, params json.RawMessage) (result any, err error) {
	defer recoverAs(&err)
	result, err = m.call(ctx, params)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return result, err
}
