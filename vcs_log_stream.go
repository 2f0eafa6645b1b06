package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

const (
	// maxLogStreams bounds the git processes that wait for the request of a next page.
	maxLogStreams = 4
	// logStreamIdle is how long they wait. A caller that needs more pages requests
	// them right away.
	logStreamIdle = 10 * time.Second
)

// logStream is a git log that prints one page of the history after the other, so
// that a page costs no walk through all pages before it. It only saves time: a
// cursor is valid without it.
type logStream struct {
	key   string // of the request and its commit
	at    int64  // commits delivered, with those of the pages before the stream
	stop  context.CancelFunc
	asks  chan int // the limit of the next page
	pages chan logPage
	ended chan struct{} // closed when git has ended
}

type logPage struct {
	commits []commitEntry
	more    bool
	err     error
}

// openLog starts git log with the arguments, and takes the view over. Commits
// outside times are passed over, and then the first skip ones.
func (g *gitReader) openLog(v *gitView, key string, at int64, args []string, times timeRange, skip int64) *logStream {
	ctx, stop := context.WithCancel(context.Background())
	s := &logStream{key: key, at: at, stop: stop, asks: make(chan int), pages: make(chan logPage), ended: make(chan struct{})}
	boundary := v.repo.boundary()
	go func() { // ends with the history, or by end
		defer close(s.ended)
		defer v.remove()
		var last logPage
		err := g.git.stream(ctx, v.command(args...), func(r *bufio.Reader) (err error) {
			last, err = s.serve(ctx, &logReader{r: r, times: times, skip: skip, boundary: boundary})
			return err
		})
		if err != nil {
			last = logPage{err: err}
		}
		select {
		case s.pages <- last:
		case <-ctx.Done():
		}
	}()
	return s
}

// serve answers requests for pages. It returns the last page, which is only valid
// when git has succeeded.
func (s *logStream) serve(ctx context.Context, r *logReader) (logPage, error) {
	for {
		select {
		case limit := <-s.asks:
			page, err := r.page(limit)
			if err != nil || !page.more {
				return page, err
			}
			select {
			case s.pages <- page:
			case <-ctx.Done():
				return logPage{}, context.Cause(ctx)
			}
		case <-ctx.Done():
			return logPage{}, context.Cause(ctx)
		}
	}
}

// page returns the next page. A stream that fails, or whose last page this is, has
// ended.
func (s *logStream) page(ctx context.Context, limit int) (logPage, error) {
	defer processRuns(ctx)()
	select {
	case s.asks <- limit:
	case page := <-s.pages: // git could not be started
		s.end()
		return page, page.err
	case <-s.ended:
		return logPage{}, io.ErrUnexpectedEOF
	case <-ctx.Done():
		s.end()
		return logPage{}, context.Cause(ctx)
	}
	select {
	case page := <-s.pages:
		s.at += int64(len(page.commits))
		if !page.more {
			s.end()
		}
		return page, page.err
	case <-ctx.Done():
		s.end()
		return logPage{}, context.Cause(ctx)
	}
}

// end stops git and waits for its end.
func (s *logStream) end() {
	s.stop()
	<-s.ended
}

// logReader reads the commits of a page from the output of git log.
type logReader struct {
	r        *bufio.Reader
	times    timeRange
	skip     int64 // commits to pass over
	boundary map[string]bool
	next     *commitEntry // read already
}

// page reads up to limit commits; more reports whether others follow.
func (l *logReader) page(limit int) (logPage, error) {
	page := logPage{commits: []commitEntry{}}
	size := 0
	for {
		c, err := l.commit()
		if errors.Is(err, io.EOF) {
			return page, nil
		}
		if err != nil {
			return logPage{}, err
		}
		if len(page.commits) == limit || size > maxLogBytes {
			l.next, page.more = &c, true
			return page, nil
		}
		c.IsBoundary = l.boundary[c.OID]
		page.commits = append(page.commits, c)
		size += c.size()
	}
}

// commit returns the next commit in the range.
func (l *logReader) commit() (commitEntry, error) {
	if c := l.next; c != nil {
		l.next = nil
		return *c, nil
	}
	for {
		c, err := readCommit(l.r)
		if err != nil {
			return commitEntry{}, err
		}
		if !l.times.contains(c.committed) {
			continue
		}
		if l.skip == 0 {
			return c, nil
		}
		l.skip--
	}
}

// logStreams keeps the streams that wait for the request of a next page.
type logStreams struct {
	mu     sync.Mutex
	kept   []*logStream // guarded by mu, most recently used last
	timer  *time.Timer  // guarded by mu, ends kept
	closed bool         // guarded by mu
}

// take returns the stream that is at a position, which the caller ends or keeps, or
// nil.
func (k *logStreams) take(key string, at int64) *logStream {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := slices.IndexFunc(k.kept, func(s *logStream) bool { return s.key == key && s.at == at })
	if n < 0 {
		return nil
	}
	s := k.kept[n]
	k.kept = slices.Delete(k.kept, n, n+1)
	return s
}

func (k *logStreams) keep(s *logStream) {
	k.mu.Lock()
	var surplus *logStream
	switch {
	case k.closed:
		surplus = s
	case len(k.kept) == maxLogStreams:
		surplus, k.kept = k.kept[0], append(slices.Delete(k.kept, 0, 1), s)
	default:
		k.kept = append(k.kept, s)
	}
	if k.timer == nil {
		k.timer = time.AfterFunc(logStreamIdle, k.empty)
	}
	k.timer.Reset(logStreamIdle)
	k.mu.Unlock()
	if surplus != nil {
		surplus.end()
	}
}

func (k *logStreams) empty() {
	k.mu.Lock()
	kept := k.kept
	k.kept = nil
	k.mu.Unlock()
	for _, s := range kept {
		s.end()
	}
}

// close ends all streams.
func (k *logStreams) close() {
	k.mu.Lock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
	}
	k.mu.Unlock()
	k.empty()
}
