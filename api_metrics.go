package main

import (
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// spawnResult is how the start of a daemon ended.
type spawnResult string

const (
	spawnReady   spawnResult = "ready"
	spawnFailed  spawnResult = "failed"  // it could not be started, or crashed before it was ready
	spawnTimeout spawnResult = "timeout" // it was not ready in time
	spawnStopped spawnResult = "stopped" // by an operator, or with the scheduler
)

// evictionReason is why an idle daemon was ended.
type evictionReason string

const (
	evictedIdle     evictionReason = "idle"     // for longer than --idle-timeout
	evictedCapacity evictionReason = "capacity" // another library needed its slot
)

// histogram counts durations up to each bound, in seconds.
type histogram struct {
	bounds []float64
	counts []uint64 // one more than bounds: the last is for everything above
	sum    float64
}

func newHistogram(bounds ...float64) histogram {
	return histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	seconds := d.Seconds()
	at, _ := slices.BinarySearch(h.bounds, seconds) // a bound includes its own value
	h.counts[at]++
	h.sum += seconds
}

// poolMetrics counts what happens in a pool. The zero value counts nothing: use
// newPoolMetrics.
type poolMetrics struct {
	mu         sync.Mutex // guards the fields below
	spawns     map[spawnResult]uint64
	evictions  map[evictionReason]uint64
	crashes    uint64
	clones     map[string]uint64
	spawnTimes histogram
	cloneTimes histogram
}

// newPoolMetrics begins every series at 0: Prometheus computes no rate for the
// first event of a series that begins with it.
func newPoolMetrics() *poolMetrics {
	return &poolMetrics{
		spawns:     map[spawnResult]uint64{spawnReady: 0, spawnFailed: 0, spawnTimeout: 0, spawnStopped: 0},
		evictions:  map[evictionReason]uint64{evictedIdle: 0, evictedCapacity: 0},
		clones:     map[string]uint64{"ok": 0, "failed": 0},
		spawnTimes: newHistogram(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
		cloneTimes: newHistogram(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
	}
}

// spawned counts a start by its result; took is how long a ready one needed.
func (m *poolMetrics) spawned(result spawnResult, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spawns[result]++
	if result == spawnReady {
		m.spawnTimes.observe(took)
	}
}

func (m *poolMetrics) evicted(reason evictionReason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.evictions[reason]++
}

// crashed counts a daemon that ended unasked, or hung, after it was ready.
func (m *poolMetrics) crashed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashes++
}

// cloned counts a clone or update by one of the daemons.
func (m *poolMetrics) cloned(ok bool, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	result := "failed"
	if ok {
		result = "ok"
		m.cloneTimes.observe(took)
	}
	m.clones[result]++
}

// GET /metrics, in the Prometheus text format (Prometheus documentation,
// "Exposition formats", version 0.0.4). No label holds a text that a caller chose:
// the number of series is fixed.
func (a *api) getMetrics(w http.ResponseWriter, _ *http.Request) {
	var page metricsPage
	page.family("c4a_build_info", "gauge", "The version of the running program.")
	page.sample("c4a_build_info", 1, "version", a.version, "goversion", runtime.Version())
	page.family("process_start_time_seconds", "gauge", "When the program started, in Unix time.")
	page.sample("process_start_time_seconds", float64(a.started.UnixMilli())/1000)

	page.family("process_cpu_seconds_total", "counter", "Processor time of the program, without its daemons.")
	page.sample("process_cpu_seconds_total", cpuSeconds())
	if bytes := residentBytes(); bytes > 0 {
		page.family("process_resident_memory_bytes", "gauge", "Resident memory of the program, without its daemons.")
		page.sample("process_resident_memory_bytes", float64(bytes))
	}
	page.family("c4a_dropped_log_lines_total", "counter", "Log lines that were dropped because nobody read those before.")
	page.sample("c4a_dropped_log_lines_total", float64(a.console.droppedEver()))

	n := a.pool.counts()
	page.family("c4a_daemons", "gauge", "Daemons of the pool by state.")
	for _, s := range []struct {
		state entryStatus
		count int
	}{{statusStarting, n.Starting}, {statusReady, n.Ready}, {statusStopping, n.Running - n.Starting - n.Ready}} {
		page.sample("c4a_daemons", float64(s.count), "state", string(s.state))
	}
	page.family("c4a_daemons_busy", "gauge", "Daemons that work on a request.")
	page.sample("c4a_daemons_busy", float64(n.Busy))
	page.family("c4a_daemons_max", "gauge", "How many daemons there may be (--max-daemons).")
	page.sample("c4a_daemons_max", float64(n.Max))
	page.family("c4a_clones_waiting", "gauge", "Clones that wait for a place in the pool (--max-clones).")
	page.sample("c4a_clones_waiting", float64(n.clonesWaiting))
	a.pool.metrics.write(&page)
	a.limits.writeMetrics(&page)
	if a.moreMetrics != nil {
		a.moreMetrics(&page)
	}

	if bytes, ok := a.usage.bytes(); ok {
		page.family("c4a_workspace_bytes", "gauge", "Sizes of all files in the workspace; measured from time to time.")
		page.sample("c4a_workspace_bytes", float64(bytes))
	}
	if disk, err := statDisk(a.pool.workspace); err == nil {
		page.family("c4a_workspace_disk_bytes", "gauge", "The disk of the workspace: its size, and what may still be written.")
		page.sample("c4a_workspace_disk_bytes", float64(disk.TotalBytes), "kind", "total")
		page.sample("c4a_workspace_disk_bytes", float64(disk.FreeBytes), "kind", "free")
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = send(w, []byte(page.text.String())) // a client that is gone needs no answer
}

// write appends the pool's counts to a page.
func (m *poolMetrics) write(page *metricsPage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	page.family("c4a_daemon_spawns_total", "counter", "Starts of daemons by how they ended.")
	for _, result := range slices.Sorted(maps.Keys(m.spawns)) {
		page.sample("c4a_daemon_spawns_total", float64(m.spawns[result]), "result", string(result))
	}
	page.family("c4a_daemon_evictions_total", "counter", "Daemons ended because they did nothing.")
	for _, reason := range slices.Sorted(maps.Keys(m.evictions)) {
		page.sample("c4a_daemon_evictions_total", float64(m.evictions[reason]), "reason", string(reason))
	}
	page.family("c4a_daemon_deaths_total", "counter", "Ready daemons that ended unasked, or hung.")
	page.sample("c4a_daemon_deaths_total", float64(m.crashes))
	page.family("c4a_clones_total", "counter", "Clones and updates of the pool's daemons by how they ended.")
	for _, result := range slices.Sorted(maps.Keys(m.clones)) {
		page.sample("c4a_clones_total", float64(m.clones[result]), "result", result)
	}
	page.histogram("c4a_daemon_spawn_duration_seconds", "From the demand for a daemon to its readiness.", &m.spawnTimes)
	page.histogram("c4a_clone_duration_seconds", "Of clones and updates that succeeded.", &m.cloneTimes)
}

// metricsPage is the text of GET /metrics.
type metricsPage struct{ text strings.Builder }

// family begins a metric; help is one line without a backslash.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func (p *metricsPage) family(name, kind, help string) {
	fmt.Fprintf(&p.text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample appends one line; labels are name, value, …, with values in plain ASCII.
func (p *metricsPage) sample(name string, value float64, labels ...string) {
	p.text.WriteString(name)
	for n := 0; n < len(labels); n += 2 {
		open := byte(',')
		if n == 0 {
			open = '{'
		}
		p.text.WriteByte(open)
		fmt.Fprintf(&p.text, "%s=%q", labels[n], labels[n+1])
	}
	if len(labels) > 0 {
		p.text.WriteByte('}')
	}
	fmt.Fprintf(&p.text, " %s\n", number(value))
}

func (p *metricsPage) histogram(name, help string, h *histogram) {
	p.family(name, "histogram", help)
	p.buckets(name, h)
}

// buckets appends the samples of a histogram with more labels.
func (p *metricsPage) buckets(name string, h *histogram, labels ...string) {
	total := uint64(0)
	for n, count := range h.counts {
		total += count
		bound := "+Inf"
		if n < len(h.bounds) {
			bound = number(h.bounds[n])
		}
		p.sample(name+"_bucket", float64(total), append(slices.Clone(labels), "le", bound)...)
	}
	p.sample(name+"_sum", h.sum, labels...)
	p.sample(name+"_count", float64(total), labels...)
}

// number formats a value without an exponent.
func number(value float64) string { return strconv.FormatFloat(value, 'f', -1, 64) }
