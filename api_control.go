package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultLogBytes and maxLogSent bound how much of a daemon's log is sent at
	// first; a log is cut when it has maxChildLog.
	defaultLogBytes = 64 << 10
	maxLogSent      = 4 << 20
	// logPoll is how often a log that is followed is looked at.
	logPoll = 250 * time.Millisecond
	// logMark is how many of the last bytes that were sent are looked for in a log
	// that was cut: more than a line usually has.
	logMark = 512
)

// registerControl adds the routes that steer the scheduler.
func (a *api) registerControl() {
	a.handle("GET /daemons/{lib_id}/log", a.revocable(a.getLog))
	a.handle("POST /daemons/{lib_id}/stop", a.stopDaemon)
	a.handle("GET /activity", a.getActivity)
	a.handle("GET /openapi.json", a.getOpenAPI)
	a.handle("GET /log-level", a.getLogLevel)
	a.handle("PUT /log-level", a.putLogLevel)
	a.handle("POST /drain", a.postDrain)
}

// POST /daemons/{lib_id}/stop
func (a *api) stopDaemon(w http.ResponseWriter, r *http.Request) {
	if err := a.pool.stop(r.Context(), r.PathValue("lib_id")); err != nil {
		a.writeError(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// logLevel is the body of GET and PUT /log-level.
type logLevel struct {
	Level string `json:"level" enum:"debug,info,warn,error"`
}

// GET /log-level
func (a *api) getLogLevel(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, logLevel{levelName(a.level.Level())})
}

// PUT /log-level
func (a *api) putLogLevel(w http.ResponseWriter, r *http.Request) {
	var body logLevel
	if err := readJSON(w, r, &body); err != nil {
		writeError(w, err)
		return
	}
	level, err := parseLevel(body.Level)
	if err != nil {
		writeError(w, badRequest("level "+err.Error()))
		return
	}
	a.setLevel(level)
	writeJSON(w, http.StatusOK, logLevel{levelName(level)})
}

// setLevel sets the level of the log, and of the daemons of the pool.
func (a *api) setLevel(level slog.Level) {
	a.level.Set(level)
	a.pool.setLogLevel(levelName(level))
	a.log.Info("the log level was changed", "level", levelName(level))
}

// POST /drain
func (a *api) postDrain(w http.ResponseWriter, _ *http.Request) {
	a.drain()
	writeJSON(w, http.StatusAccepted, map[string]string{"status": "draining"})
}

// drain begins to end the program as soon as it is idle.
func (a *api) drain() {
	if a.draining.Swap(true) {
		return
	}
	a.log.Info("draining: no new work is taken, and the program ends when it is idle")
	a.onDrain()
}

// refuses reports whether no new work is taken.
func (a *api) refuses() bool { return a.draining.Load() && !a.gradual }

// startsWork reports whether a route starts something that draining refuses. Links
// are refused by hubAPI.connect.
func startsWork(pattern string) bool {
	switch pattern {
	case "POST /daemons", "PUT /daemons/{lib_id}":
		return true
	}
	return strings.HasSuffix(pattern, "/rpc") || strings.HasSuffix(pattern, "/mcp") || strings.HasSuffix(pattern, "/mcp/read")
}

// refuseDraining answers a request for new work while the scheduler drains.
func refuseDraining(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "10")
	writeProblem(w, http.StatusServiceUnavailable, codeDraining, "the scheduler is about to stop and starts nothing: send this again, to another if there is one")
}

// GET /daemons/{lib_id}/log
func (a *api) getLog(w http.ResponseWriter, r *http.Request) {
	libID, query := r.PathValue("lib_id"), r.URL.Query()
	most := int64(defaultLogBytes)
	if text := query.Get("bytes"); text != "" {
		var err error
		if most, err = strconv.ParseInt(text, 10, 64); err != nil || most < 0 || most > maxLogSent {
			writeError(w, badRequest(fmt.Sprintf("bytes must be 0 to %d", maxLogSent)))
			return
		}
	}
	follow, err := strconv.ParseBool(query.Get("follow"))
	if err != nil && query.Get("follow") != "" {
		writeError(w, badRequest("follow must be 1 or 0"))
		return
	}
	if follow {
		if err := callerRequestOf(w).add(-1, 1, 0); err != nil {
			writeError(w, err)
			return
		}
	}
	f, err := a.pool.openLog(libID)
	if err != nil {
		a.writeError(w, r, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.writeError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	if sendNow(w, tailOf(f, info.Size(), most)) != nil || !follow {
		return
	}
	a.followLog(w, r, f, libID, info.Size())
}

// followLog sends what is added to a log until the client goes away, the scheduler
// stops or the log is deleted. A log that was cut to its newest part (trimLog) is
// continued after the last bytes that were sent, or from its start without them.
func (a *api) followLog(w http.ResponseWriter, r *http.Request, f *os.File, libID string, at int64) {
	ticker := time.NewTicker(logPoll)
	defer ticker.Stop()
	buf := make([]byte, sendPiece)
	last := bytes.Clone(tailOf(f, at, logMark))
	for {
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		case <-a.pool.closing:
			return
		}
		info, err := f.Stat()
		named, nameErr := a.pool.root.Stat(filepath.Join(libID, logFileName))
		if err != nil || nameErr != nil || !os.SameFile(info, named) {
			return
		}
		if info.Size() == 0 {
			continue // what is kept of it is about to be written
		}
		if info.Size() < at {
			text := tailOf(f, info.Size(), maxChildLog)
			at = 0
			if i := bytes.LastIndex(text, last); i >= 0 && len(last) > 0 {
				at = int64(i + len(last))
			}
		}
		for at < info.Size() {
			n, err := f.ReadAt(buf[:min(int64(len(buf)), info.Size()-at)], at)
			if n == 0 || err != nil && !errors.Is(err, io.EOF) {
				break
			}
			if at += int64(n); sendNow(w, buf[:n]) != nil {
				return
			}
			last = append(last[:0], buf[max(0, n-logMark):n]...)
		}
	}
}

// openLog opens the log of libID's daemon, of the one that runs or of the last one.
func (p *pool) openLog(libID string) (*os.File, error) {
	if err := checkLibID(libID); err != nil {
		return nil, err
	}
	f, err := p.root.OpenFile(filepath.Join(libID, logFileName), os.O_RDONLY|openNonblock, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &apiError{code: codeNotFound, status: http.StatusNotFound, message: "there is no log of " + libID + ": its daemon was never started, or deleted"}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", libID, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close() // only opened
		return nil, fmt.Errorf("opening the log of %s: it is not a regular file", libID)
	}
	return f, nil
}

// stop ends libID's daemon and keeps its directory. The error is an *apiError, 404
// where none runs, or that of ctx.
func (p *pool) stop(ctx context.Context, libID string) error {
	if err := checkLibID(libID); err != nil {
		return err
	}
	var e *entry
	p.update(func(s *poolState) {
		if e = s.entries[libID]; e != nil {
			s.apply(e, stopRequested{why: &apiError{code: codeAutoStartFailed, status: http.StatusServiceUnavailable, message: libID + " was told to stop meanwhile"}})
		}
	})
	if e == nil {
		return &apiError{code: codeNotFound, status: http.StatusNotFound, message: "no daemon runs for " + libID}
	}
	return wait(ctx, e.gone)
}

// setLogLevel sets the level of the daemons that run and of those that start later.
func (p *pool) setLogLevel(level string) {
	p.update(func(s *poolState) {
		s.logLevel = level
		for _, e := range s.entries {
			s.apply(e, logLevelSet{level})
		}
	})
}
