package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Answers that clients do not read are bounded in bytes: the oldest ones are cut
// off, but none that is younger than slowAfter.
func TestUnsentAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u unsentAnswers
		var all []context.Context
		const size = 16 << 20
		add := func() *unsentAnswer {
			ctx, cutOff := context.WithCancelCause(t.Context())
			all = append(all, ctx)
			return u.add(size, cutOff)
		}
		cut := func() (n int) {
			synctest.Wait()
			for _, ctx := range all {
				if errors.Is(context.Cause(ctx), errTooSlow) {
					n++
				}
			}
			return n
		}
		for range maxUnsentAnswers/size + 3 {
			add()
		}
		quick := add()
		u.remove(quick)
		if n := cut(); n != 0 {
			t.Errorf("got %d answers cut off at once, want none", n)
		}
		time.Sleep(slowAfter)
		if n := cut(); n != 3 || context.Cause(all[0]) == nil || context.Cause(all[3]) != nil {
			t.Errorf("got %d answers cut off after %v, want the 3 oldest", n, slowAfter)
		}
		add()
		if n := cut(); n != 4 || u.bytes != maxUnsentAnswers {
			t.Errorf("got %d answers cut off and %d bytes left, want 4 and %d", n, u.bytes, maxUnsentAnswers)
		}
	})
}

// failingListener has no descriptors left.
type failingListener struct{ net.Listener }

func (failingListener) Accept() (net.Conn, error) {
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
}
func (failingListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestLackOfDescriptorsIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := &acceptLogger{Listener: failingListener{}, log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 100 {
			time.Sleep(time.Second)
			if _, err := l.Accept(); err == nil {
				t.Fatal("got no error, want it passed on")
			}
		}
		if n := strings.Count(log.String(), "level=WARN msg=\"connections cannot be accepted\""); n < 2 || n > 4 {
			t.Errorf("got %d log lines in 100 s, want one each 30 s: %s", n, log.String())
		}
	})
}

// slowReader takes a piece of an answer every 9 s.
type slowReader struct {
	http.ResponseWriter
	deadline time.Time
}

func (w *slowReader) SetWriteDeadline(t time.Time) error { w.deadline = t; return nil }
func (w *slowReader) Flush()                             {}
func (w *slowReader) Write(p []byte) (int, error) {
	time.Sleep(min(9*time.Second, time.Until(w.deadline)))
	if !time.Now().Before(w.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	return len(p), nil
}

// Each piece of a long answer in time is not enough: 16 MiB would take 43 minutes.
func TestLongAnswerIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		err := send(&slowReader{}, make([]byte, 16<<20))
		if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took > 3*time.Minute {
			t.Errorf("got %v after %v, want %v within 3 minutes", err, took, os.ErrDeadlineExceeded)
		}
		if err := send(&slowReader{}, make([]byte, sendPiece)); err != nil {
			t.Errorf("a short answer: got %v, want it sent", err)
		}
	})
}
