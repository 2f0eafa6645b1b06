//go:build linux || darwin

package main

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestCallMetricsLabels: whatever methods, codes and reasons come, the number of
// series is bounded, and every code that a daemon may send is a label.
func TestCallMetricsLabels(t *testing.T) {
	m := newCallMetrics(methodsByName(builtinMethods()))
	for n := range 1000 {
		m.observe(fmt.Sprintf("evil/%d\"\n", n), fmt.Sprint("CODE", n), "reason", time.Second, 1, 2)
		m.observe(cloneMethod, "GIT_FAILED", fmt.Sprint("reason", n), time.Second, 1, 2)
	}
	m.observe(cloneMethod, "GIT_FAILED", "auth", time.Second, 1, 2)
	m.observe("fs/stat", "OK", "", time.Millisecond, 1, 2)
	var page metricsPage
	m.write(&page)
	got := metricsOf(t, page.text.String())
	for name, want := range map[string]float64{
		`c4a_requests_total{method="other",code="other"}`: 1000, `c4a_requests_total{method="vcs/clone",code="GIT_FAILED"}`: 1001,
		`c4a_requests_total{method="fs/stat",code="OK"}`: 1, `c4a_clone_failures_total{reason="other"}`: 1000, `c4a_clone_failures_total{reason="auth"}`: 1,
		`c4a_request_bytes_total{direction="params"}`: 2002, `c4a_request_bytes_total{direction="results"}`: 4004,
		`c4a_request_duration_seconds_bucket{method="fs/stat",le="0.001"}`: 1, `c4a_request_duration_seconds_count{method="other"}`: 1000,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	for _, meaning := range errorMeanings() {
		if !slices.Contains(knownCodes(), string(meaning.code)) {
			t.Errorf("%s is counted as other, want a label of its own: add it to knownCodes", meaning.code)
		}
	}
	for _, reason := range []gitReason{gitAuth, gitForbidden, gitNotFound, gitMoved, gitNetwork, gitTimeout, gitDiskFull, gitTooLarge, gitCorrupt, gitOther} {
		if !slices.Contains(cloneReasons(), string(reason)) {
			t.Errorf("%s is counted as other, want a label of its own: add it to cloneReasons", reason)
		}
	}
}
