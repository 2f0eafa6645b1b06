//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkFlood is the p99 of a quiet caller's fs/stat to a quiet machine, alone
// and beside each flood. The goal is three times. The flood comes from a process of
// its own, from another address, at a low priority: its computing would be done on
// other machines. Each round is a second; -benchtime 15x measures 15 before the flood
// and 15 beside it.
func BenchmarkFlood(b *testing.B) {
	for _, kind := range floodNames() {
		b.Run(kind, func(b *testing.B) {
			url := builtScheduler(b)
			dir := b.TempDir()
			d := start(b, daemonName, nil, "--server", url, "--machine-id", "quiet", "--allow", dir)
			d.says("msg=connected")
			quiet := &quietCaller{url: url, path: dir, client: &http.Client{Transport: &http.Transport{
				DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext,
			}}}
			defer quiet.client.CloseIdleConnections()
			quiet.measure(b, time.Second) // warms up
			rounds := time.Duration(b.N) * time.Second
			alone := quiet.measure(b, rounds)
			f := start(b, flooderName, nil, kind, url)
			f.says("flooding")
			lowerPriority(b, f.cmd.Process.Pid)
			time.Sleep(2 * time.Second) // the flood swells; what is measured is its middle
			cpu := processCPU(b, f.cmd.Process.Pid)
			beside := quiet.measure(b, rounds)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(milliseconds(percentile(alone, 50)), "ms-p50-alone")
			b.ReportMetric(milliseconds(percentile(beside, 50)), "ms-p50-beside")
			b.ReportMetric(milliseconds(percentile(alone, 99)), "ms-p99-alone")
			b.ReportMetric(milliseconds(percentile(beside, 99)), "ms-p99-beside")
			b.ReportMetric(float64(percentile(beside, 99))/float64(percentile(alone, 99)), "p99-ratio")
			b.ReportMetric((processCPU(b, f.cmd.Process.Pid)-cpu).Seconds()/rounds.Seconds(), "flooder-cores")
			for line := range strings.Lines(quiet.metrics(b)) {
				if strings.HasPrefix(line, "c4a_refused_requests_total") && !strings.HasSuffix(line, " 0\n") || strings.HasPrefix(line, "process_resident") {
					b.Log(strings.TrimSpace(line))
				}
			}
		})
	}
}

// processCPU returns the processor time of a process.
func processCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime, of 100 a second
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func percentile(times []time.Duration, percent int) time.Duration {
	slices.Sort(times)
	return times[(len(times)-1)*percent/100]
}

// quietCaller makes a call every few milliseconds.
type quietCaller struct {
	url, path string
	client    *http.Client
}

func (q *quietCaller) measure(b *testing.B, length time.Duration) (took []time.Duration) {
	b.Helper()
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{"path":%q}}`, q.path)
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(3 * time.Millisecond) {
		began := time.Now()
		response, err := q.client.Post(q.url+"/machines/quiet/rpc", "application/json", strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		took = append(took, time.Since(began))
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !bytes.Contains(answer, []byte(`"result"`)) {
			b.Fatalf("the quiet caller: got %d %s, %v, want a result", response.StatusCode, answer, err)
		}
	}
	return took
}

// metrics returns the metrics of the scheduler: the address of the flood may be
// refused.
func (q *quietCaller) metrics(b *testing.B) string {
	b.Helper()
	response, err := q.client.Get(q.url + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

func floodNames() []string {
	return []string{"requests", "answers", "readers", "handshakes", "silent", "progress", "long-progress"}
}

// lowerPriority lowers the priority of all threads of a process; those that it
// starts later inherit it.
func lowerPriority(b *testing.B, pid int) {
	b.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, 10) // the thread may have ended
		}
	}
}
