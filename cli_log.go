package main

import (
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
)

// logFlags holds the log flags, which both programs have.
type logFlags struct {
	level, format string
	current       *slog.LevelVar // of the logger; nil before logger
}

func (l *logFlags) register(f *flagSet) {
	f.StringVar(&l.level, "log-level", "info", "`LEVEL` of the log, which is written to standard error: debug, info, warn or error")
	f.StringVar(&l.format, "log-format", "text", "`FORMAT` of the log: text or json")
	f.group("Log")
}

// logger returns a logger for the flags, or a usage error that names the
// invalid flag.
func (l *logFlags) logger(p *program) (*slog.Logger, error) {
	level, err := parseLevel(l.level)
	if err != nil {
		return nil, usage("invalid value %q for --log-level: %v", shownText(l.level), err)
	}
	l.current = &slog.LevelVar{}
	l.current.Set(level)
	options := &slog.HandlerOptions{Level: l.current}
	var format func(io.Writer) slog.Handler
	switch l.format {
	case "text":
		format = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, options) }
	case "json":
		format = func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, options) }
	default:
		return nil, usage("invalid value %q for --log-format: must be text or json", l.format)
	}
	// A process whose standard error is a file inherits the variable too.
	if isJournal(p.stderr, p.getenv("JOURNAL_STREAM")) {
		options.ReplaceAttr = withoutTime
		return slog.New(queueHandler{newJournalHandler(p.console, format), p.console}), nil
	}
	return slog.New(queueHandler{format(p.console), p.console}), nil
}

// wantsJSON reports whether the log of the program is JSON, before its flags are
// parsed: an error in them must be JSON too. Commands write for people.
func (p *program) wantsJSON() bool {
	const name = "log-format"
	if len(p.args) > 1 && !strings.HasPrefix(p.args[1], "-") {
		return false
	}
	format := p.setting(variable(name))
	for i, arg := range p.args[min(1, len(p.args)):] {
		arg, isFlag := strings.CutPrefix(arg, "-")
		arg = strings.TrimPrefix(arg, "-")
		value, assigned := strings.CutPrefix(arg, name+"=")
		switch {
		case !isFlag:
		case assigned:
			format = value
		case arg == name && i+2 < len(p.args):
			format = p.args[i+2]
		}
	}
	return format == "json"
}

// jsonLog returns the logger for lines that are written without the program's
// logger, nil if they are text.
func (p *program) jsonLog() *slog.Logger {
	if !p.wantsJSON() {
		return nil
	}
	return slog.New(slog.NewJSONHandler(p.console, nil))
}

// logLibraries sends the lines that libraries write to the package log, such as
// those of net/http, where the program's own go.
func (p *program) logLibraries() {
	log.SetOutput(p.console)
	if json := p.jsonLog(); json != nil {
		log.SetFlags(0)
		log.SetOutput(slog.NewLogLogger(json.Handler(), slog.LevelWarn).Writer())
	}
}

// watchLevel toggles the level between debug and the one before at each SIGUSR1,
// until stop is called. set is called with the new level.
func watchLevel(current *slog.LevelVar, set func(slog.Level)) (stop func()) {
	if len(levelSignals()) == 0 {
		return func() {}
	}
	signals, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, levelSignals()...)
	var wg sync.WaitGroup
	wg.Go(func() { // ends with stop
		usual := slog.LevelInfo
		for {
			select {
			case <-signals:
			case <-ended:
				return
			}
			if level := current.Level(); level != slog.LevelDebug {
				usual = level
				set(slog.LevelDebug)
			} else {
				set(usual)
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(ended)
		wg.Wait()
	}
}
