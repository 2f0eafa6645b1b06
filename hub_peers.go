package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// This file shows all schedulers through one of them. With ?nodes=all the lists of
// machines and of daemons and the stream of events are those of the scheduler that
// is asked and of those that --peers names. It asks them with the caller's token and
// peerHeader, so that they ask no other. It believes them nothing that could
// harm: their answers are bounded, and checked before they are passed on.

const (
	// peerTimeout bounds the wait for another scheduler: a list of all is shown
	// without the one that does not answer.
	peerTimeout = 2 * time.Second
	// maxPeerAnswer bounds a list of another scheduler. A page of machines is a
	// quarter of it.
	maxPeerAnswer = 4 << 20
	// peerBuffer is how many events wait for a client that reads slowly. Then the
	// other scheduler waits, and ends the stream when eventRing wait there.
	peerBuffer = 64
	// peerSilence is how long a stream may be silent: it misses two beats.
	peerSilence = 5 * streamBeat / 2
	// peerRetry and peerRetryMost bound the delay before a stream is opened again.
	peerRetry     = time.Second
	peerRetryMost = 30 * time.Second
	// peerIdle is how long a connection is kept for the next question: less than
	// the other scheduler keeps it.
	peerIdle = 30 * time.Second
	// peerHeader has the id of the scheduler that asks. The one that is asked answers
	// for itself alone, and refuses if the id is its own: --peers may name it too.
	peerHeader = "X-C4A-Peer"
)

// errSelf reports that the scheduler asked itself.
var errSelf = errors.New("this scheduler is one of its own --peers")

// nodeView is a scheduler in a list of all.
type nodeView struct {
	URL    string `json:"url" doc:"as --peers names it"`
	Status string `json:"status" enum:"ok,failed"`
	Error  string `json:"error,omitempty" doc:"why it did not answer"`
}

// peers asks the other schedulers.
type peers struct {
	id     string                 // of this scheduler, random
	name   atomic.Pointer[string] // of this scheduler in lists
	met    atomic.Int64           // requests of its own that came back to it
	urls   []string
	silent []peerSilent // by URL; for recall
	client *http.Client
}

// newPeers returns nil for a scheduler without --peers.
func newPeers(urls []string, config *tls.Config) *peers {
	if len(urls) == 0 {
		return nil
	}
	p := &peers{id: randomHex(16), client: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: config, DialContext: (&net.Dialer{Timeout: peerTimeout}).DialContext, TLSHandshakeTimeout: peerTimeout,
			ResponseHeaderTimeout: peerTimeout, IdleConnTimeout: peerIdle,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	p.name.Store(new(string)) // until the scheduler listens
	for _, u := range urls {
		p.urls = append(p.urls, strings.TrimSuffix(u, "/"))
	}
	p.silent = make([]peerSilent, len(urls))
	return p
}

// wanted reports whether a request is for all schedulers.
func (p *peers) wanted(r *http.Request) bool {
	return p != nil && r.Header.Get(peerHeader) == "" && r.URL.Query().Get("nodes") == "all"
}

// isSelf reports whether this scheduler has sent the request.
func (p *peers) isSelf(r *http.Request) bool {
	if p == nil || r.Header.Get(peerHeader) != p.id {
		return false
	}
	p.met.Add(1)
	return true
}

// get sends a request like r to the scheduler at a URL. lastID is for a stream.
func (p *peers) get(ctx context.Context, r *http.Request, node, lastID string) (*http.Response, error) {
	met := p.met.Load()
	response, err := p.do(ctx, r, http.MethodGet, node+r.URL.RequestURI(), lastID)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode == http.StatusOK:
		return response, nil
	}
	_ = response.Body.Close() // nothing of it is used
	misdirected := response.StatusCode == http.StatusMisdirectedRequest
	if misdirected && p.met.Load() != met { // else another scheduler says so
		p.name.Store(&node)
		return nil, errSelf
	}
	return nil, fmt.Errorf("it answered %d: all schedulers need the same tokens", response.StatusCode)
}

// do sends a request with the token of r.
func (p *peers) do(ctx context.Context, r *http.Request, method, url, lastID string) (*http.Response, error) {
	next, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"Authorization": r.Header.Get("Authorization"), "Last-Event-ID": lastID, peerHeader: p.id} {
		if value != "" {
			next.Header.Set(name, value)
		}
	}
	response, err := p.client.Do(next)
	if err != nil {
		return nil, dialCause(err)
	}
	return response, nil
}

// ask sends a request for a list to all others and passes each answer to add, one
// after the other. It returns all nodes, this one first.
func (p *peers) ask(r *http.Request, add func(node string, answer []byte) error) []nodeView {
	ctx, cancel := context.WithTimeout(r.Context(), peerTimeout)
	defer cancel()
	answers, errs := make([][]byte, len(p.urls)), make([]error, len(p.urls))
	var wg sync.WaitGroup
	for i, node := range p.urls {
		wg.Go(func() { // ends within peerTimeout
			response, err := p.get(ctx, r, node, "")
			if err == nil {
				answers[i], err = io.ReadAll(io.LimitReader(response.Body, maxPeerAnswer+1))
				_ = response.Body.Close() // was read as far as it is of use
			}
			if len(answers[i]) > maxPeerAnswer {
				err = fmt.Errorf("its answer is larger than %d bytes", maxPeerAnswer)
			}
			if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
				err = fmt.Errorf("no answer within %v", peerTimeout)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	nodes := []nodeView{{URL: *p.name.Load(), Status: "ok"}}
	for i, node := range p.urls {
		err := errs[i]
		if err == nil {
			err = add(node, answers[i])
		}
		switch {
		case err == nil:
			nodes = append(nodes, nodeView{URL: node, Status: "ok"})
		case !errors.Is(err, errSelf):
			nodes = append(nodes, nodeView{URL: node, Status: "failed", Error: shownText(err.Error())})
		}
	}
	return nodes
}

// errPeerAnswer reports a list that no scheduler would send.
var errPeerAnswer = errors.New("its answer is not that of a scheduler")

// machines returns a page of the machines of all schedulers, from the page of this
// one. A machine that several know is shown once: as the one where it is online, else
// where it was last.
func (p *peers) machines(r *http.Request, after string, limit int, own []machineView, last string) machineList {
	all := map[string]*machineView{}
	end := last // up to here all pages are complete; "" if they are the last ones
	add := func(node string, m *machineView) {
		m.Node = node
		before, online := all[m.MachineID], m.Status == "online"
		if before == nil || online && before.Status != "online" || online == (before.Status == "online") && m.ConnectedAt != nil && (before.ConnectedAt == nil || m.ConnectedAt.After(*before.ConnectedAt)) {
			all[m.MachineID] = m
		}
	}
	for i := range own {
		add(*p.name.Load(), &own[i])
	}
	nodes := p.ask(r, func(node string, answer []byte) error {
		var page machineList
		if err := decodeJSON(answer, &page); err != nil {
			return errPeerAnswer
		}
		for i := range page.Machines {
			m := &page.Machines[i]
			if checkMachineID(m.MachineID) != nil || m.MachineID <= after || m.Status != "online" && m.Status != "offline" {
				return errPeerAnswer
			}
		}
		last := ""
		if n := len(page.Machines); n > 0 {
			last = page.Machines[n-1].MachineID
		}
		// The page of a token with patterns may end behind the last machine that it shows.
		if !earlier(&end, page.NextCursor, after, last, !callerOf(r).restricted()) {
			return errPeerAnswer
		}
		for i := range page.Machines {
			add(node, &page.Machines[i])
		}
		return nil
	})
	var ids []string
	for id := range all {
		if end == "" || id <= end {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if len(ids) > limit {
		ids = ids[:limit]
		end = ids[limit-1]
	}
	list := machineList{Machines: []machineView{}, NextCursor: nextCursor(end, end != ""), Nodes: nodes}
	for _, id := range ids {
		list.Machines = append(list.Machines, *all[id])
	}
	return list
}

// earlier makes end, up to which all pages are complete, that of another page if it
// ends before. last is the last name of that page, "" for none. It returns false for a
// cursor that is not one behind after and last, or with exact not that of last.
func earlier(end, cursor *string, after, last string, exact bool) bool {
	if cursor == nil {
		return true
	}
	data, err := base64.RawURLEncoding.DecodeString(*cursor)
	id := string(data)
	if err != nil || id <= after || id < last || exact && id != last || checkMachineID(id) != nil {
		return false
	}
	if *end == "" || id < *end {
		*end = id
	}
	return true
}

// daemons adds the daemons of the other schedulers to the page of this one, which
// ends with last, "" for the last page. It returns the end of the whole page.
func (p *peers) daemons(r *http.Request, after string, limit int, list *daemonList, last string) (end string) {
	for i := range list.Daemons {
		list.Daemons[i].Node = *p.name.Load()
	}
	end = last
	list.Nodes = p.ask(r, func(node string, answer []byte) error {
		var other daemonList
		if decodeJSON(answer, &other) != nil || other.Max < 1 || other.Max > maxDaemons {
			return errPeerAnswer
		}
		for i := range other.Daemons {
			if id := other.Daemons[i].LibID; checkLibID(id) != nil || id <= after {
				return errPeerAnswer
			}
			other.Daemons[i].Node = node
		}
		last := ""
		if n := len(other.Daemons); n > 0 {
			last = other.Daemons[n-1].LibID
		}
		if !earlier(&end, other.NextCursor, after, last, true) {
			return errPeerAnswer
		}
		list.Daemons = append(list.Daemons, other.Daemons...)
		list.Max += other.Max
		return nil
	})
	sortStableBy(list.Daemons, func(a, b poolEntry) int { return strings.Compare(a.LibID, b.LibID) })
	n := 0
	for before := ""; n < len(list.Daemons); n++ {
		id := list.Daemons[n].LibID
		if end != "" && id > end {
			break
		}
		if n >= limit && id != before { // all daemons of a library are in one page
			end = before
			break
		}
		before = id
	}
	list.Daemons = list.Daemons[:n]
	return end
}

// follow returns the events of the other schedulers, without ids. stop ends the
// streams.
func (p *peers) follow(r *http.Request) (news <-chan event, stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	events := make(chan event, peerBuffer)
	var wg sync.WaitGroup
	for _, node := range p.urls {
		wg.Go(func() { p.followOne(ctx, r, node, events) }) // ends with ctx
	}
	return events, func() {
		cancel()
		wg.Wait()
	}
}

// followOne keeps a stream of one scheduler open.
func (p *peers) followOne(ctx context.Context, r *http.Request, node string, events chan<- event) {
	lastID := ""
	for failed := 0; ; failed++ {
		began := time.Now()
		err := p.readStream(ctx, r, node, &lastID, failed > 0, events)
		if errors.Is(err, errSelf) {
			return
		}
		if time.Since(began) > peerRetryMost {
			failed = 0
		}
		select {
		case <-time.After(expDelay(peerRetry, peerRetryMost, failed)):
		case <-ctx.Done():
			return
		}
	}
}

// readStream reads events until the stream ends, and keeps the id of the last one.
// late says that events may have been missed before the stream was opened.
func (p *peers) readStream(ctx context.Context, r *http.Request, node string, lastID *string, late bool, events chan<- event) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	response, err := p.get(ctx, r, node, *lastID)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	silence := time.AfterFunc(peerSilence, cancel)
	defer silence.Stop()
	send := func(name string, object []byte) error {
		select {
		case events <- event{name: name, data: withNode(object, node)}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if late && *lastID == "" {
		err = send("reset", []byte("{}"))
	}
	name := ""
	for lines := bufio.NewReader(response.Body); err == nil; {
		var line []byte
		var cut bool
		if line, cut, err = readUntil(lines, '\n', 2*maxEvent); err != nil || cut {
			return err
		}
		silence.Reset(peerSilence)
		field, value, _ := bytes.Cut(line, []byte(": "))
		switch string(field) {
		case "id":
			*lastID = string(value)
		case "event":
			name = string(value)
		case "data":
			if !isValidJSON(value) || value[0] != '{' {
				return errPeerAnswer
			}
			switch name {
			case "daemon/status", "task/progress", "pool/entry", "reset":
				err = send(name, value)
			}
		}
	}
	return err
}

// withNode adds a node to a JSON object. The last of two members with one name
// counts.
func withNode(object []byte, node string) []byte {
	object = bytes.TrimSpace(object)
	if object[0] != '{' {
		return object
	}
	name, _ := json.Marshal(node) // a string is always JSON
	comma := ","
	if len(bytes.TrimSpace(object[1:len(object)-1])) == 0 {
		comma = ""
	}
	return fmt.Appendf(nil, `%s%s"node":%s}`, object[:len(object)-1], comma, name)
}

// checkPeers returns an error unless the URLs are those of schedulers.
func checkPeers(urls []string) error {
	if len(urls) > maxPeers {
		return fmt.Errorf("there are more than %d", maxPeers)
	}
	for i, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("URL %d must be like http://10.0.0.2:5110", i+1)
		}
	}
	return nil
}

// maxPeers bounds the other schedulers: a request may ask all of them.
const maxPeers = 32
