package main

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// callMetrics counts the calls of a hub. All values of labels are from fixed lists:
// what is in none of them is "other".
type callMetrics struct {
	methods map[string]*method // the built-in ones

	mu       sync.Mutex // guards the fields below
	ended    map[callKey]uint64
	times    map[string]*histogram // by method
	received uint64                // bytes of params
	sent     uint64                // bytes of results
	failed   map[string]uint64     // clones by reason
}

// callKey is the method and the code of calls that ended.
type callKey struct{ method, code string }

const (
	otherLabel = "other"
	// maxBeatNumber bounds a number of a heartbeat, so that the sum of all machines
	// cannot overflow.
	maxBeatNumber = 1 << 42
)

func newCallMetrics(methods map[string]*method) *callMetrics {
	m := &callMetrics{methods: methods, ended: map[callKey]uint64{}, times: map[string]*histogram{}, failed: map[string]uint64{}}
	// Prometheus computes no rate for the first event of a series that begins with it.
	for _, reason := range cloneReasons() {
		m.failed[reason] = 0
	}
	for name := range methods {
		m.ended[callKey{name, "OK"}] = 0
		m.times[name] = newCallTimes()
	}
	return m
}

func newCallTimes() *histogram {
	h := newHistogram(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
	return &h
}

// cloneReasons returns the reasons by which clones that failed are counted.
func cloneReasons() []string {
	return []string{"auth", "forbidden", "not_found", "moved", "network", "timeout", "disk_full", "too_large", "corrupt", otherLabel}
}

// knownCodes returns the codes that are labels: those of every request, and those of
// the hub itself.
func knownCodes() []string {
	known := []string{"OK", "-32601", "-32602", "-32603"}
	for _, code := range []errorCode{
		codeAccessDenied, codeRepoNotFound, codeSourceNotFound, codeCommitNotFound, codeCommitNotAvailable, codeGitFailed, codeServerBusy, codeTimeout,
		codeResultTooLarge, codeNotConfigured, codeConflict, codeDaemonOffline, codeAutoStartFailed, codeCapacity, codeDraining, codeCancelled,
		codeDeleted, codeSpawnTimeout, codeInternalError,
	} {
		known = append(known, string(code))
	}
	return known
}

// observe counts a call that has ended. in and out are the bytes of params and
// result.
func (m *callMetrics) observe(name, code, reason string, took time.Duration, in, out int) {
	label := otherLabel
	if m.methods[name] != nil {
		label = name
	}
	if code != "OK" && !slices.Contains(knownCodes(), code) {
		code = otherLabel
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended[callKey{label, code}]++
	h := m.times[label]
	if h == nil {
		h = newCallTimes()
		m.times[label] = h
	}
	h.observe(took)
	m.received += uint64(in)
	m.sent += uint64(out)
	if name == cloneMethod && code != "OK" && code != string(codeCancelled) {
		if _, known := m.failed[reason]; !known {
			reason = otherLabel
		}
		m.failed[reason]++
	}
}

// write appends the counts to a page.
func (m *callMetrics) write(page *metricsPage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	page.family("c4a_requests_total", "counter", "Requests to daemons by method and by the code that they ended with.")
	keys := slices.Collect(maps.Keys(m.ended))
	sortBy(keys, func(a, b callKey) int {
		if a.method != b.method {
			return strings.Compare(a.method, b.method)
		}
		return strings.Compare(a.code, b.code)
	})
	for _, k := range keys {
		page.sample("c4a_requests_total", float64(m.ended[k]), "method", k.method, "code", k.code)
	}
	page.family("c4a_request_duration_seconds", "histogram", "From the arrival of a request to its answer, measured in the hub.")
	for _, name := range slices.Sorted(maps.Keys(m.times)) {
		page.buckets("c4a_request_duration_seconds", m.times[name], "method", name)
	}
	page.family("c4a_request_bytes_total", "counter", "Bytes of params to daemons and of their results.")
	page.sample("c4a_request_bytes_total", float64(m.received), "direction", "params")
	page.sample("c4a_request_bytes_total", float64(m.sent), "direction", "results")
	page.family("c4a_clone_failures_total", "counter", "Clones through the hub that failed, by reason.")
	for _, reason := range slices.Sorted(maps.Keys(m.failed)) {
		page.sample("c4a_clone_failures_total", float64(m.failed[reason]), "reason", reason)
	}
}

// writeMetrics appends what the hub knows of calls and machines to a page.
func (h *hub) writeMetrics(page *metricsPage) {
	h.calls.write(page)
	page.family("c4a_requests_running", "gauge", "Requests on their way or in a daemon.")
	page.sample("c4a_requests_running", float64(h.requests.count()))
	online, offline, sum := h.sumBeats()
	page.family("c4a_machines", "gauge", "Machines by status, daemons of the pool included.")
	page.sample("c4a_machines", float64(online), "status", "online")
	page.sample("c4a_machines", float64(offline), "status", "offline")
	page.family("c4a_daemon_requests", "gauge", "Requests in all connected daemons, as their heartbeats say.")
	page.sample("c4a_daemon_requests", float64(sum.ActiveRequests), "state", "running")
	page.sample("c4a_daemon_requests", float64(sum.Waiting), "state", "waiting")
	page.family("c4a_daemon_stuck_calls", "gauge", "Calls in all connected daemons that a file system blocks.")
	page.sample("c4a_daemon_stuck_calls", float64(sum.Stuck))
	page.family("c4a_daemon_dropped_log_lines", "gauge", "Log lines that the connected daemons have dropped since they started.")
	page.sample("c4a_daemon_dropped_log_lines", float64(sum.DroppedLines))
	page.family("c4a_daemon_resident_memory_bytes", "gauge", "Memory of all connected daemons together.")
	page.sample("c4a_daemon_resident_memory_bytes", float64(sum.MemoryBytes))
}

// sumBeats counts the machines and adds up the last heartbeats of those that are
// connected.
func (h *hub) sumBeats() (online, offline int, sum heartbeat) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.machines {
		if m.conn == nil {
			offline++
			continue
		}
		online++
		// A daemon may say any number.
		sum.ActiveRequests += max(0, min(m.beat.ActiveRequests, maxBeatNumber))
		sum.Waiting += max(0, min(m.beat.Waiting, maxBeatNumber))
		sum.Stuck += max(0, min(m.beat.Stuck, maxBeatNumber))
		sum.DroppedLines += max(0, min(m.beat.DroppedLines, maxBeatNumber))
		sum.MemoryBytes += max(0, min(m.beat.MemoryBytes, maxBeatNumber))
	}
	return online, offline, sum
}
