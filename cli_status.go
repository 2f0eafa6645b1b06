package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	// watchPause is the time between two looks of status --watch.
	watchPause = 2 * time.Second
	// maxFailuresShown is how many of the last failures status shows.
	maxFailuresShown = 5
)

// statusView is everything that the command status shows, as --json prints it.
type statusView struct {
	Health   healthView    `json:"health"`
	Daemons  []poolEntry   `json:"daemons"`
	Machines []machineView `json:"machines" doc:"absent with --server"`
	Activity activityView  `json:"activity"`
}

func statusCommand() command {
	return command{
		name: "status", about: "show the pool, machines, requests and disk",
		intro: `Examples:
  c4a-daemon-scheduler status
  c4a-daemon-scheduler status --watch
  c4a-daemon-scheduler status --json

Shows what a running scheduler does: its daemons, the machines, the requests that
run, the last failures and the disk.
`,
		define: askScheduler(func(f *flagSet) func(*clientRun) error {
			asJSON := jsonFlag(f)
			watch := f.Bool("watch", false, "show it again every two seconds, until interrupted")
			return func(r *clientRun) error {
				if *asJSON && *watch {
					return usage("--json and --watch exclude each other: events --json prints changes")
				}
				if *watch {
					return r.watchStatus()
				}
				view, err := r.status()
				if err != nil {
					return err
				}
				if *asJSON {
					return r.sayJSON(view)
				}
				return r.say(view.text(r.shown, r.width(), time.Now()))
			}
		}),
	}
}

// status asks the scheduler for everything that status shows.
func (r *clientRun) status() (*statusView, error) {
	ctx, cancel := context.WithTimeout(r.ctx, 4*probeTimeout)
	defer cancel()
	view := &statusView{}
	// /health needs no token: ask for the daemons first, so that a missing token is
	// an error.
	if err := r.pages("/daemons", "daemons", &view.Daemons); err != nil {
		return nil, err
	}
	if err := r.send(ctx, http.MethodGet, "/health", nil, &view.Health); err != nil {
		return nil, err
	}
	if err := r.send(ctx, http.MethodGet, "/activity", nil, &view.Activity); err != nil {
		return nil, err
	}
	if view.Health.Hub {
		machines, err := r.machines()
		if err != nil {
			return nil, err
		}
		view.Machines = machines
	}
	return view, nil
}

// watchStatus shows the status until the command is interrupted. On a terminal the
// newest replaces the one before.
func (r *clientRun) watchStatus() error {
	for first := true; ; first = false {
		view, err := r.status()
		switch {
		case r.ctx.Err() != nil:
			return interrupted(r.ctx, context.Cause(r.ctx))
		case err != nil && first:
			return err
		}
		width := r.width()
		text := ""
		if err != nil {
			text = fmt.Sprintf("stale since %s: %s\n", time.Now().Format(time.TimeOnly), cleanText(err.Error()))
		} else {
			text = view.text(r.shown, width, time.Now())
		}
		switch {
		case width > 0 && err == nil:
			text = "\x1b[H\x1b[2J" + text // ECMA-48: cursor home, erase the display
		case !first:
			text = "\n" + text
		}
		if err := r.say(text); err != nil {
			return interrupted(r.ctx, err)
		}
		timer := time.NewTimer(watchPause)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
		}
	}
}

// text returns the status for people, in lines of at most width columns; 0 is no
// limit.
func (v *statusView) text(address string, width int, now time.Time) string {
	var text strings.Builder
	h := &v.Health
	facts := &textTable{head: []string{"scheduler", fmt.Sprintf("%s at %s", cleanText(h.Version), address)}}
	state := fmt.Sprintf("%s, up %s", cleanText(h.Status), durationText(time.Duration(h.UptimeSeconds)*time.Second))
	if h.RestartDue {
		state += ", a restart is due: the executable was replaced"
	}
	facts.add("state", state)
	facts.add("pool", fmt.Sprintf("%d of %d daemons: %d ready, %d starting, %d busy", h.Daemons.Running, h.Daemons.Max, h.Daemons.Ready, h.Daemons.Starting, h.Daemons.Busy))
	if h.Hub {
		online := 0
		for _, m := range v.Machines {
			if m.Status == "online" {
				online++
			}
		}
		facts.add("machines", fmt.Sprintf("%d online, %d offline", online, len(v.Machines)-online))
	} else {
		facts.add("machines", "at another server (--server)")
	}
	facts.add("disk", fmt.Sprintf("%s of %s free (%.0f %% used) at %s", byteText(int64(h.Disk.FreeBytes)), byteText(int64(h.Disk.TotalBytes)), h.Disk.UsedPercent, h.Disk.Path))
	facts.add("requests", fmt.Sprintf("%d running, %d failed in the last hour", len(v.Activity.Requests), len(v.Activity.Failures)))
	text.WriteString(facts.text(width))
	section := func(t *textTable) {
		if len(t.rows) > 0 {
			text.WriteString("\n" + t.text(width))
		}
	}
	section(daemonTable(v.Daemons, now))
	section(machineTable(v.Machines))
	running := &textTable{head: []string{"REQUEST", "OF", "SINCE", "PROGRESS"}}
	for _, r := range v.Activity.Requests {
		progress := ""
		if r.Progress != nil {
			progress = barLine(*r.Progress, now.Sub(r.StartedAt), 50)
		}
		running.add(r.Method, cmp.Or(r.LibID, r.MachineID), durationText(now.Sub(r.StartedAt)), progress)
	}
	section(running)
	failed := &textTable{head: []string{"FAILED", "OF", "AGO", "CODE", "REASON"}}
	for _, f := range slices.Backward(v.Activity.Failures) {
		if len(failed.rows) < maxFailuresShown {
			failed.add(f.Method, cmp.Or(f.LibID, f.MachineID), durationText(now.Sub(f.At)), f.Code, f.Message)
		}
	}
	section(failed)
	return text.String()
}

func daemonTable(daemons []poolEntry, now time.Time) *textTable {
	table := &textTable{}
	for _, d := range daemons {
		pid, used := "-", "-"
		if d.PID != 0 {
			pid = fmt.Sprint(d.PID)
		}
		if !d.LastUsedAt.IsZero() {
			used = durationText(now.Sub(d.LastUsedAt)) + " ago"
		}
		line, _, _ := strings.Cut(d.LastError, "\n")
		table.add(withNodeCell(d.Node, d.LibID, string(d.Status), fmt.Sprint(d.ActiveRequests), used, pid, fmt.Sprint(d.Restarts), line)...)
	}
	table.head = withNodeCell(nodeHead(table, 7), "DAEMON", "STATE", "REQUESTS", "USED", "PID", "RESTARTS", "LAST ERROR")
	return table
}

func machineTable(machines []machineView) *textTable {
	table := &textTable{}
	for _, m := range machines {
		table.add(withNodeCell(m.Node, m.MachineID, m.Status, fmt.Sprint(m.ActiveRequests), cmp.Or(m.Version, "-"), strings.Trim(m.OS+"/"+m.Arch, "/"), cmp.Or(m.LibID, "-"), strings.Join(m.AllowedPaths, ","))...)
	}
	table.head = withNodeCell(nodeHead(table, 7), "MACHINE", "STATE", "REQUESTS", "VERSION", "SYSTEM", "LIBRARY", "ALLOWED")
	return table
}

// withNodeCell adds the scheduler of an entry before the last cell, which is the long
// one, if there are several schedulers.
func withNodeCell(node string, cells ...string) []string {
	last := len(cells) - 1
	if node == "" {
		return cells
	}
	return append(cells[:last:last], node, cells[last])
}

// nodeHead returns the head of the column of schedulers, "" if the rows have no more
// than the usual cells.
func nodeHead(t *textTable, usual int) string {
	if len(t.rows) > 0 && len(t.rows[0]) > usual {
		return "NODE"
	}
	return ""
}
