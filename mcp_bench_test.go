//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mcpComparison is a tool and the calls of /rpc with the same facts.
type mcpComparison struct {
	tool      string
	arguments object
	methods   []object // method and params
}

// BenchmarkMCP compares each tool with the plain calls behind it, on a clone of
// this repository: the bytes that a model reads, and what a call costs the
// scheduler and the daemon together. Both run in turns.
func BenchmarkMCP(b *testing.B) {
	dir := realTempDir(b)
	repo := filepath.Join(dir, "project")
	tool(b, nil, "git", "clone", "-q", "--no-local", ".", repo)
	url := builtScheduler(b)
	daemon := start(b, daemonName, nil, "--server", url, "--machine-id", "laptop", "--allow", dir)
	daemon.says("msg=connected")
	file := filepath.Join(repo, "hub.go")
	call := func(method string, params object) object { return object{"method": method, "params": params} }
	log := call("vcs/log", object{"path": repo, "limit": 20})
	for _, c := range []mcpComparison{
		{"overview", object{}, []object{call("config/get", object{}), call("fs/repoScan", object{"limit": 50})}},
		{"tree", object{"path": repo}, []object{call("fs/glob", object{"path": repo})}},
		{"find_files", object{"path": repo}, []object{call("fs/glob", object{"path": repo, "limit": 200})}},
		{"search", object{"path": repo, "pattern": "context"}, []object{call("fs/search", object{"path": repo, "pattern": "context", "limit": 100})}},
		{"read_file", object{"path": file}, []object{call("fs/readFile", object{"path": file})}},
		{"git_log", object{"path": repo}, []object{log}},
		{"git_diff", object{"path": repo, "from": "HEAD~3", "to": "HEAD"}, []object{call("vcs/diff", object{"path": repo, "from": "HEAD~3", "to": "HEAD", "max_bytes": mcpTextBudget})}},
		{"call_method", object{"method": "vcs/log", "params": object{"path": repo, "limit": 20}}, []object{log}},
	} {
		b.Run(c.tool, func(b *testing.B) { c.run(b, url+"/machines/laptop") })
	}
}

// run measures one tool in batches, because the system counts CPU time in steps of
// 10 ms.
func (c *mcpComparison) run(b *testing.B, machine string) {
	const batch = 100
	client := &http.Client{}
	defer client.CloseIdleConnections()
	var textBytes, rawBytes int
	ask := func() {
		body := post(b, client, machine+"/mcp", object{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": object{"name": c.tool, "arguments": c.arguments}})
		var answer struct {
			Result struct {
				Content []struct{ Text string }
				IsError bool
			}
		}
		if json.Unmarshal(body, &answer) != nil || answer.Result.IsError || len(answer.Result.Content) != 1 {
			b.Fatalf("%s: got %.500s, want a text", c.tool, body)
		}
		textBytes = len(answer.Result.Content[0].Text)
	}
	plain := func() {
		rawBytes = 0
		for _, method := range c.methods {
			body := post(b, client, machine+"/rpc", object{"jsonrpc": "2.0", "id": 1, "method": method["method"], "params": method["params"]})
			rawBytes += len(body)
		}
	}
	var cpu [2]time.Duration
	var times [2][]time.Duration
	for b.Loop() {
		for i, f := range []func(){ask, plain} {
			before := childrenCPU(b)
			for range batch {
				began := time.Now()
				f()
				times[i] = append(times[i], time.Since(began))
			}
			cpu[i] += childrenCPU(b) - before
		}
	}
	tool, raw := median(times[0]), median(times[1])
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(textBytes), "text-B")
	b.ReportMetric(float64(rawBytes), "raw-B")
	b.ReportMetric(milliseconds(tool-raw), "added-ms")
	b.ReportMetric(milliseconds(raw), "rpc-ms")
	b.ReportMetric(float64(cpu[0])/float64(cpu[1]), "cpu-ratio")
}

// post sends JSON and returns the answer.
func post(b *testing.B, client *http.Client, url string, body object) []byte {
	b.Helper()
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(string(mustJSON(b, body))))
	if err != nil {
		b.Fatal(err)
	}
	response, err := client.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	data, err := readSome(response.Body, nil)
	if err != nil || response.StatusCode != http.StatusOK {
		b.Fatalf("%s: got status %d and %.500s, %v, want 200", url, response.StatusCode, data, err)
	}
	return []byte(data)
}

// childrenCPU returns the CPU time of the programs that this process started and
// of what they have waited for, such as git.
func childrenCPU(b *testing.B) (total time.Duration) {
	b.Helper()
	list, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		b.Fatal(err)
	}
	// Children may be those of another thread.
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		b.Fatal(err)
	}
	for _, task := range tasks {
		more, _ := os.ReadFile(task) // the thread may be gone
		list = append(append(list, ' '), more...)
	}
	seen := map[string]bool{}
	for _, pid := range strings.Fields(string(list)) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || seen[pid] {
			continue
		}
		seen[pid] = true
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		for _, field := range fields[11:15] { // utime, stime, cutime, cstime: proc_pid_stat(5)
			ticks, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return total
}
