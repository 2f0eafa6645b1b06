package main

import (
	"net/http"
	"time"
)

// GET /health
func (a *api) getHealth(w http.ResponseWriter, _ *http.Request) {
	disk, err := statDisk(a.pool.workspace)
	if err == nil && !a.pool.stopping() {
		err = a.pool.writable()
	}
	answer := struct {
		Status        string     `json:"status"`
		Version       string     `json:"version"`
		UptimeSeconds int64      `json:"uptime_seconds"`
		Daemons       poolCounts `json:"daemons"`
		Disk          diskUsage  `json:"disk"`
	}{"ok", a.version, int64(time.Since(a.started).Seconds()), a.pool.counts(), disk}
	status := http.StatusOK
	switch {
	case a.pool.stopping():
		answer.Status, status = "stopping", http.StatusServiceUnavailable
	case err != nil, disk.freePercent() < a.minFreeDisk:
		if err != nil {
			a.log.Warn("the workspace is not well", "error", err)
		}
		answer.Status, status = "degraded", http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}

// GET /livez
func (a *api) getLivez(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// GET /readyz
func (a *api) getReadyz(w http.ResponseWriter, _ *http.Request) {
	status, answer := http.StatusOK, "ok"
	if a.pool.stopping() {
		status, answer = http.StatusServiceUnavailable, "stopping"
	} else if err := a.pool.writable(); err != nil {
		a.log.Warn("the workspace is not well", "error", err)
		status, answer = http.StatusServiceUnavailable, "degraded"
	}
	writeJSON(w, status, map[string]string{"status": answer})
}
