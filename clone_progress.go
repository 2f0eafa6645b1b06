package main

import (
	"context"
	"math"
	"strconv"
	"strings"
)

// Phases of a clone (REFERENCE.md).
const (
	phaseConnecting  = "connecting"
	phaseWaiting     = "waiting"
	phaseCounting    = "counting"
	phaseCompressing = "compressing"
	phaseReceiving   = "receiving"
	phaseResolving   = "resolving"
	phaseCheckout    = "checkout"
	phaseDone        = "done"
)

// gitCount is one counter of git's progress:
//
//	Receiving objects:  91% (367/402), 34.20 MiB | 1.50 MiB/s
type gitCount struct {
	phase          string
	done, total    int64 // objects or files
	bytes          int64 // received so far; 0 if git does not print it
	bytesPerSecond int64
}

// parseGitProgress parses a progress line of git --progress (progress.c),
// written by git itself or by the remote. It returns false for any other line.
func parseGitProgress(line string) (gitCount, bool) {
	line = strings.TrimPrefix(line, "remote: ")
	title, rest, ok := strings.Cut(line, ": ")
	phase := gitPhase(title)
	if !ok || phase == "" {
		return gitCount{}, false
	}
	percent, rest, ok := strings.Cut(strings.TrimLeft(rest, " "), "% (")
	if !ok || !isCount(percent, 3) {
		return gitCount{}, false
	}
	counts, rest, ok := strings.Cut(rest, ")")
	done, total, slash := strings.Cut(counts, "/")
	if !ok || !slash || !isCount(done, 18) || !isCount(total, 18) { // 18 digits always fit an int64
		return gitCount{}, false
	}
	c := gitCount{phase: phase}
	c.done, _ = strconv.ParseInt(done, 10, 64)
	c.total, _ = strconv.ParseInt(total, 10, 64)
	if throughput, ok := strings.CutPrefix(strings.TrimSuffix(rest, ", done."), ", "); ok {
		size, rate, _ := strings.Cut(throughput, " | ")
		c.bytes = parseGitSize(size)
		c.bytesPerSecond = parseGitSize(strings.TrimSuffix(rate, "/s"))
	}
	return c, true
}

func gitPhase(title string) string {
	switch title {
	case "Counting objects":
		return phaseCounting
	case "Compressing objects":
		return phaseCompressing
	case "Receiving objects", "Unpacking objects":
		return phaseReceiving
	case "Resolving deltas":
		return phaseResolving
	case "Updating files", "Filtering content":
		return phaseCheckout
	}
	return ""
}

// isCount reports whether s has 1 to most decimal digits and nothing else.
func isCount(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "0123456789") == ""
}

// parseGitSize reads a size as strbuf_humanise_bytes writes it: "34.20 MiB",
// "812 bytes". What it does not know is 0.
func parseGitSize(s string) int64 {
	number, unit, _ := strings.Cut(strings.TrimSpace(s), " ")
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(value) || value < 0 || value > 1<<30 {
		return 0
	}
	switch unit {
	case "bytes", "byte":
		return int64(value)
	case "KiB":
		return int64(value * (1 << 10))
	case "MiB":
		return int64(value * (1 << 20))
	case "GiB":
		return int64(value * (1 << 30))
	}
	return 0
}

// cloneProgress turns git's counters into the percent of a whole clone, which
// never falls: a phase may be missing, repeated or out of order. It belongs to
// one run of vcs/clone, whose git commands follow one another.
type cloneProgress struct {
	ctx  context.Context // whose listeners get the reports
	last progress
}

// startProgress reports 0 percent.
func startProgress(ctx context.Context) *cloneProgress {
	p := &cloneProgress{ctx: ctx, last: progress{Phase: phaseConnecting}}
	reportProgress(ctx, p.last)
	return p
}

// wait reports that the clone waits for others, and its place in their queue.
func (p *cloneProgress) wait(place string) {
	p.report(progress{Phase: phaseWaiting, Message: phaseWaiting + ": " + place})
}

// waited reports that the clone begins, if it had to wait.
func (p *cloneProgress) waited() { p.report(progress{Phase: phaseConnecting}) }

// phaseSpan is the part of a clone that a phase takes, in percent. Receiving
// and checkout are what takes time.
func phaseSpan(phase string) (from, to float64) {
	switch phase {
	case phaseCounting:
		return 1, 3
	case phaseCompressing:
		return 3, 8
	case phaseReceiving:
		return 8, 70
	case phaseResolving:
		return 70, 78
	case phaseCheckout:
		return 78, 99
	case phaseDone:
		return 100, 100
	}
	return 0, 1
}

// phaseRank orders the phases.
func phaseRank(phase string) float64 {
	from, _ := phaseSpan(phase)
	return from
}

// line handles one line of git's standard error and returns the counter in it.
func (p *cloneProgress) line(line string) (gitCount, bool) {
	c, ok := parseGitProgress(line)
	if !ok || phaseRank(c.phase) < phaseRank(p.last.Phase) {
		return c, ok // the server's late word: the bar does not go back
	}
	from, to := phaseSpan(c.phase)
	share := 0.0
	if c.total > 0 {
		share = min(float64(c.done)/float64(c.total), 1)
	}
	p.report(progress{
		Phase: c.phase, Percent: int(from + (to-from)*share),
		Done: c.done, Total: c.total, Bytes: c.bytes, BytesPerSecond: c.bytesPerSecond,
	})
	return c, true
}

// enter reports the beginning of a phase that git may not count.
func (p *cloneProgress) enter(phase string) {
	if phaseRank(phase) > phaseRank(p.last.Phase) {
		from, _ := phaseSpan(phase)
		p.report(progress{Phase: phase, Percent: int(from)})
	}
}

func (p *cloneProgress) report(now progress) {
	now.Percent = max(now.Percent, p.last.Percent)
	if now != p.last {
		p.last = now
		reportProgress(p.ctx, now)
	}
}

// finish reports 100 percent, just before a successful answer.
func (p *cloneProgress) finish() { p.report(progress{Phase: phaseDone, Percent: 100}) }
