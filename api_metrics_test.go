//go:build linux || darwin

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// metricsOf parses a page of metrics as Prometheus does: each sample behind the
// HELP and TYPE of its family, each once; a histogram's buckets rise to its
// count.
func metricsOf(t *testing.T, text string) map[string]float64 {
	t.Helper()
	line := regexp.MustCompile(`^([a-z0-9_]+)((?:\{[a-z]+="[^"\\\n]*"(?:,[a-z]+="[^"\\\n]*")*\})?) (\S+)$`)
	samples := map[string]float64{}
	family, kind, last := "", "", 0.0
	for n, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if rest, ok := strings.CutPrefix(l, "# HELP "); ok {
			family, _, _ = strings.Cut(rest, " ")
			kind = ""
			continue
		}
		if rest, ok := strings.CutPrefix(l, "# TYPE "); ok {
			var name string
			name, kind, _ = strings.Cut(rest, " ")
			if name != family {
				t.Errorf("line %d: got the type of %s, want that of %s, whose help it follows", n, name, family)
			}
			last = 0
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			t.Fatalf("line %d: got %q, want a sample", n, l)
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if _, twice := samples[m[1]+m[2]]; err != nil || twice {
			t.Errorf("line %d: got %q (%v, there before: %v), want one number", n, l, err, twice)
		}
		samples[m[1]+m[2]] = value
		suffix, ok := strings.CutPrefix(m[1], family)
		switch {
		case !ok || kind == "" || suffix != "" && kind != "histogram":
			t.Errorf("line %d: got %q in the family %s, a %s, want its own family", n, l, family, kind)
		case suffix == "_bucket" || suffix == "_count":
			if value < last {
				t.Errorf("line %d: got %q, want at least the bucket before", n, l)
			}
			last = value
			if suffix == "_count" { // the next one has other labels
				last = 0
			}
		}
	}
	return samples
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	if err := os.WriteFile(filepath.Join(a.pool.workspace, "file"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	mustEnsure(t, a.pool, "first")
	for _, id := range []string{"crash", "slow"} { // they die, or are not ready in time
		if _, err := a.pool.ensure(t.Context(), id); err == nil {
			t.Errorf("%s got ready, want an error", id)
		}
	}
	awaitThat(t, "nothing but the first", func() bool { return a.pool.counts().Running == 1 })
	var got map[string]float64
	awaitThat(t, "the workspace's size", func() bool {
		w := ask(a, "GET", "/metrics", "")
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
			t.Fatalf("got %d %v, want 200 in the text format", w.Code, w.Header())
		}
		if strings.Contains(w.Body.String(), "first") {
			t.Fatalf("got a lib_id in\n%s\nwant none", w.Body)
		}
		got = metricsOf(t, w.Body.String())
		return got["c4a_workspace_bytes"] >= 1000
	})
	for name, want := range map[string]float64{
		`c4a_daemons{state="ready"}`: 1, `c4a_daemons{state="starting"}`: 0, `c4a_daemons{state="stopping"}`: 0,
		`c4a_daemons_max`: 2, `c4a_daemons_busy`: 0, `c4a_clones_waiting`: 0,
		`c4a_daemon_spawns_total{result="ready"}`: 1, `c4a_daemon_spawns_total{result="failed"}`: 1,
		`c4a_daemon_spawns_total{result="timeout"}`: 1, `c4a_daemon_spawns_total{result="stopped"}`: 0,
		`c4a_daemon_evictions_total{reason="idle"}`: 0, `c4a_daemon_evictions_total{reason="capacity"}`: 0,
		`c4a_daemon_deaths_total`: 0, `c4a_clones_total{result="ok"}`: 0, `c4a_clones_total{result="failed"}`: 0,
		`c4a_daemon_spawn_duration_seconds_count`: 1, `c4a_clone_duration_seconds_count`: 0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	for _, name := range []string{"process_start_time_seconds", `c4a_workspace_disk_bytes{kind="total"}`} {
		if got[name] <= 0 {
			t.Errorf("got %s %v, want more than 0", name, got[name])
		}
	}
}

// TestMetricsOfEndings: each end of a daemon counts once, under its reason.
func TestMetricsOfEndings(t *testing.T) {
	w := &fakeWorld{readyAfter: 30 * time.Millisecond}
	inBubble(t, w, func(c *poolConfig) { c.maxDaemons = 2 }, func(t *testing.T, p *pool) {
		mustEnsure(t, p, "a")
		mustEnsure(t, p, "b")
		mustEnsure(t, p, "c") // takes the place of a
		w.daemon("c").tell(controlEvent{Event: eventClone, OK: true, TookMS: 2000})
		w.daemon("c").tell(controlEvent{Event: eventClone, TookMS: 10})
		synctest.Wait()                         // it was heard
		w.daemon("c").end()                     // a crash
		time.Sleep(p.idleTimeout + 2*sweepMost) // b goes
		if err := p.remove(t.Context(), "b"); poolCode(err) != "" && poolCode(err) != codeNotFound {
			t.Error(err)
		}
		var page metricsPage
		p.metrics.write(&page)
		got := metricsOf(t, page.text.String())
		for name, want := range map[string]float64{
			`c4a_daemon_spawns_total{result="ready"}`: 3, `c4a_daemon_evictions_total{reason="capacity"}`: 1,
			`c4a_daemon_evictions_total{reason="idle"}`: 1, `c4a_daemon_deaths_total`: 1,
			`c4a_clones_total{result="ok"}`: 1, `c4a_clones_total{result="failed"}`: 1,
			`c4a_daemon_spawn_duration_seconds_bucket{le="0.025"}`: 0, `c4a_daemon_spawn_duration_seconds_bucket{le="0.05"}`: 3,
			`c4a_daemon_spawn_duration_seconds_bucket{le="+Inf"}`: 3, `c4a_clone_duration_seconds_sum`: 2,
		} {
			if value, ok := got[name]; !ok || value != want {
				t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
			}
		}
	})
}

func TestHistogramBounds(t *testing.T) {
	h := newHistogram(1, 2)
	for _, seconds := range []float64{0, 1, 1.5, 2, 2.5} {
		h.observe(time.Duration(seconds * float64(time.Second)))
	}
	if got := fmt.Sprint(h.counts, h.sum); got != "[2 2 1] 7" {
		t.Errorf("got %s, want [2 2 1] 7", got)
	}
}
