package main

import (
	"context"
	"io"
	"log/slog"
)

// journalHandler begins each line with the priority that systemd's journal reads
// there (sd-daemon(3)). It has one handler for each priority, which formats the
// lines.
type journalHandler [4]slog.Handler

var _ slog.Handler = journalHandler{}

// newJournalHandler returns a handler that writes to w; format returns a handler
// of lines to a writer.
func newJournalHandler(w io.Writer, format func(io.Writer) slog.Handler) (h journalHandler) {
	for i, priority := range []string{"<3>", "<4>", "<6>", "<7>"} {
		h[i] = format(prefixWriter{priority, w})
	}
	return h
}

func (h journalHandler) of(level slog.Level) slog.Handler {
	switch {
	case level >= slog.LevelError:
		return h[0]
	case level >= slog.LevelWarn:
		return h[1]
	case level >= slog.LevelInfo:
		return h[2]
	}
	return h[3]
}

func (h journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.of(level).Enabled(ctx, level)
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.of(r.Level).Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i := range h {
		h[i] = h[i].WithAttrs(attrs)
	}
	return h
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	for i := range h {
		h[i] = h[i].WithGroup(name)
	}
	return h
}

// prefixWriter writes each piece, which is a line, behind a prefix.
type prefixWriter struct {
	prefix string
	w      io.Writer
}

func (p prefixWriter) Write(line []byte) (int, error) {
	n, err := p.w.Write(append([]byte(p.prefix), line...))
	return max(0, n-len(p.prefix)), err
}

// withoutTime is a slog.HandlerOptions.ReplaceAttr that leaves out the time.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
