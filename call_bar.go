package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progressBar shows the progress of a call as a line of the terminal that is
// overwritten. It fits the width that the terminal has at the moment. On anything
// but a terminal it shows nothing.
type progressBar struct {
	out  io.Writer
	size func() (width int, isTerminal bool)
	now  func() time.Time

	begun time.Time // of the first report
	drawn int       // columns on the line
	ended bool
}

// newProgressBar returns a bar that writes to out and fits stream, where out ends.
func newProgressBar(stream *os.File, out io.Writer) *progressBar {
	return &progressBar{out: out, size: func() (int, bool) { return terminalWidth(stream) }, now: time.Now}
}

func (b *progressBar) show(p progress) {
	width, isTerminal := b.size()
	if b.ended || !isTerminal {
		return
	}
	if b.begun.IsZero() {
		b.begun = b.now()
	}
	line := barLine(p, b.now().Sub(b.begun), width-1) // the last column would wrap
	b.clear(width)
	fmt.Fprint(b.out, line)
	b.drawn = columns(line)
}

// clear removes the line. A terminal that became narrower shows it on several.
func (b *progressBar) clear(width int) {
	if b.drawn == 0 {
		return
	}
	if above := (b.drawn - 1) / max(width, 1); above > 0 {
		fmt.Fprintf(b.out, "\r\x1b[%dA\x1b[J", above)
		return
	}
	fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", min(b.drawn, max(width-1, 0))))
}

// end clears the line for good.
func (b *progressBar) end() {
	if !b.ended {
		width, _ := b.size()
		b.clear(width)
	}
	b.ended = true
}

const (
	// barLeast and barMost bound the cells of the bar itself.
	barLeast = 5
	barMost  = 30
	// leftAfter and leftPercent are when the time left is first estimated: before,
	// it would be a guess that jumps.
	leftAfter   = 3 * time.Second
	leftPercent = 5
)

// barLine returns the line of a progress that began so long ago, in at most width
// columns. What does not fit is left out: first the bar, then from the end.
func barLine(p progress, since time.Duration, width int) string {
	percent := max(0, min(p.Percent, 100))
	phase := cutColumns(strings.ReplaceAll(cleanText(cmp.Or(p.Message, p.Phase, "working")), "\t", " "), 32)
	line := fmt.Sprintf("%3d%% %s", percent, phase)
	var parts []string
	switch {
	case p.Bytes > 0:
		parts = append(parts, byteText(p.Bytes))
	case p.Total > 0:
		parts = append(parts, fmt.Sprintf("%d/%d", p.Done, p.Total))
	}
	if p.BytesPerSecond > 0 {
		parts = append(parts, byteText(p.BytesPerSecond)+"/s")
	}
	if since >= leftAfter && percent >= leftPercent && percent < 100 {
		left := time.Duration(float64(since) / float64(percent) * float64(100-percent))
		parts = append(parts, durationText(left)+" left")
	}
	for _, part := range parts {
		if columns(line)+2+columns(part) > width {
			break
		}
		line += "  " + part
	}
	line = cutColumns(line, width)
	cells := min(width-columns(line)-3, barMost)
	if cells < barLeast {
		return line
	}
	full := percent * cells / 100
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "] " + line
}

// byteText formats a number of bytes for people, such as "1.5 MiB".
func byteText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefixes := float64(n)/unit, "KMGTPE"
	for value >= unit && len(prefixes) > 1 {
		value /= unit
		prefixes = prefixes[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, prefixes[0])
}

// durationText formats a duration for people with its two largest units, such as
// "2m 5s"; a negative one is 0, as after a clock was set back.
func durationText(d time.Duration) string {
	seconds := max(0, int64(d/time.Second))
	switch {
	case seconds < 60:
		return fmt.Sprintf("%ds", seconds)
	case seconds < 3600:
		return fmt.Sprintf("%dm %ds", seconds/60, seconds%60)
	case seconds < 24*3600:
		return fmt.Sprintf("%dh %dm", seconds/3600, seconds%3600/60)
	}
	return fmt.Sprintf("%dd %dh", seconds/86400, seconds%86400/3600)
}
