//go:build linux

package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// builtScheduler runs the scheduler as it is shipped: the test binary is larger
// and starts more slowly.
func builtScheduler(b *testing.B, args ...string) (url string) {
	b.Helper()
	dir := realTempDir(b)
	bin := filepath.Join(dir, schedulerName)
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "scheduler", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(bin, append([]string{"--port", "0", "--workspace", filepath.Join(dir, "workspace")}, args...)...)
	return startCommand(b, schedulerName, cmd, nil).url()
}

// BenchmarkSpawn is the time from the request for a daemon to the answer that it
// is ready, its handshake accepted. The goal is 25 ms. For scale it tells what
// the machine needs to start and reap a program that does nothing.
func BenchmarkSpawn(b *testing.B) {
	url := builtScheduler(b)
	var took, nothing []time.Duration
	for b.Loop() {
		b.StopTimer()
		started := time.Now()
		if err := exec.Command("true").Run(); err != nil {
			b.Fatal(err)
		}
		nothing = append(nothing, time.Since(started))
		b.StartTimer()
		began := time.Now()
		status, body := askHTTP(b, http.MethodPut, url+"/daemons/demo", "")
		took = append(took, time.Since(began))
		if status != 201 {
			b.Fatal(status, body)
		}
		b.StopTimer()
		if status, body := askHTTP(b, http.MethodDelete, url+"/daemons/demo", ""); status != 204 {
			b.Fatal(status, body)
		}
		b.StartTimer()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(median(took)), "ms-to-ready")
	b.ReportMetric(milliseconds(median(nothing)), "ms-for-true")
}

// BenchmarkCrash is the time from a call to a daemon that has just been killed
// to the answer, which its successor gives.
func BenchmarkCrash(b *testing.B) {
	url := builtScheduler(b)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		daemon := fmt.Sprintf("%s/daemons/lib%d", url, n) // one that dies often is started with pauses
		status, body := askHTTP(b, http.MethodPut, daemon, "")
		if status != 201 {
			b.Fatal(status, body)
		}
		b.StartTimer()
		if err := syscall.Kill(field[int](b, []byte(body), "pid"), syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		status, body = askHTTP(b, http.MethodPost, fmt.Sprintf("%s/libraries/lib%d/rpc", url, n), configCall)
		took = append(took, time.Since(began))
		if status != 200 {
			b.Fatal(status, body)
		}
		b.StopTimer()
		if status, body := askHTTP(b, http.MethodDelete, daemon, ""); status != 204 {
			b.Fatal(status, body)
		}
		b.StartTimer()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(median(took)), "ms-to-answer")
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkIdleDaemons is the memory of each of 200 idle daemons of one
// scheduler, shared pages divided among those that share them (PSS,
// proc_pid_smaps(5)). The goal is 2 MB.
func BenchmarkIdleDaemons(b *testing.B) {
	const daemons = 200
	url := builtScheduler(b, "--max-daemons", fmt.Sprint(daemons))
	var pids []int
	for n := range daemons {
		status, body := askHTTP(b, http.MethodPut, fmt.Sprintf("%s/daemons/lib%d", url, n), "")
		if status != 201 {
			b.Fatal(status, body)
		}
		pids = append(pids, field[int](b, []byte(body), "pid"))
	}
	mean, sum := 0.0, 0.0
	for b.Loop() {
		sum = 0
		for _, pid := range pids {
			sum += pssOf(b, pid)
		}
		mean = sum / daemons
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(mean, "MB-each")
	b.ReportMetric(sum, "MB-all")
}

// pssOf is a process's proportional set size in MB.
func pssOf(b *testing.B, pid int) float64 {
	b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kilobytes float64
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
				b.Fatal(err)
			}
			return kilobytes * 1024 / 1e6
		}
	}
	b.Fatalf("process %d has no Pss", pid)
	return 0
}
