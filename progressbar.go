package main

import (
	"fmt"
	"os"
	"strings"
)

// progressBar shows a call's progress: one line that is written over on a
// terminal, else a line for each phase.
type progressBar struct {
	out      *os.File
	terminal bool
	width    int    // of what stands on the line
	phase    string // the last one told
	ended    bool
}

func newProgressBar(out *os.File) *progressBar {
	info, err := out.Stat()
	return &progressBar{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (b *progressBar) show(p progress) {
	if b.ended {
		return
	}
	phase := cleanText(p.Phase)
	if phase == "" {
		phase = "working"
	}
	if !b.terminal {
		if phase != b.phase {
			fmt.Fprintf(b.out, "%3d%% %s\n", p.Percent, phase)
		}
		b.phase = phase
		return
	}
	const cells = 24
	full := max(0, min(p.Percent, 100)) * cells / 100
	line := fmt.Sprintf("[%s%s] %3d%% %s", strings.Repeat("#", full), strings.Repeat(".", cells-full), p.Percent, phase)
	if p.Bytes > 0 {
		line += " " + byteText(p.Bytes)
	}
	if p.BytesPerSecond > 0 {
		line += ", " + byteText(p.BytesPerSecond) + "/s"
	}
	fmt.Fprintf(b.out, "\r%-*s", b.width, line)
	b.width = len(line)
}

// end clears the line for what comes next.
func (b *progressBar) end() {
	if b.terminal && !b.ended && b.width > 0 {
		fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", b.width))
	}
	b.ended = true
}

// byteText is a number of bytes for people.
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
