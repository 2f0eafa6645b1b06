//go:build linux || darwin

package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestPoolClones: the clones of all daemons share the pool's places, in order of
// arrival. A daemon that ends gives its places back.
func TestPoolClones(t *testing.T) {
	w := &fakeWorld{}
	inBubble(t, w, func(c *poolConfig) { c.maxClones = 3 }, func(t *testing.T, p *pool) {
		for _, id := range []string{"a", "b", "c"} {
			mustEnsure(t, p, id)
		}
		a, b, c := w.daemon("a"), w.daemon("b"), w.daemon("c")
		want := func(when, atA, atB, atC string) {
			t.Helper()
			synctest.Wait()
			if a.placed() != atA || b.placed() != atB || c.placed() != atC {
				t.Errorf("%s: got %s, %s and %s, want %s, %s and %s", when, a.placed(), b.placed(), c.placed(), atA, atB, atC)
			}
		}
		a.clone(1, 2)
		synctest.Wait()
		b.clone(1, 2)
		synctest.Wait()
		c.clone(7)
		want("all have come", "[{1 0 0} {2 0 0}]", "[{1 0 0} {2 1 2}]", "[{7 2 2}]")
		if n := p.counts().clonesWaiting; n != 2 {
			t.Errorf("got %d clones that wait, want 2", n)
		}
		a.clone(1, 2, 3)
		want("one more", "[{1 0 0} {2 0 0} {3 3 3}]", "[{1 0 0} {2 1 3}]", "[{7 2 3}]")
		b.clone(1)
		want("a waiter is cancelled", "[{1 0 0} {2 0 0} {3 2 2}]", "[{1 0 0}]", "[{7 1 2}]")
		a.clone(2, 3)
		want("a clone has ended", "[{2 0 0} {3 1 1}]", "[{1 0 0}]", "[{7 0 0}]")
		b.end()
		want("a daemon has died", "[{2 0 0} {3 0 0}]", "[{1 0 0}]", "[{7 0 0}]")
		if n := p.counts().clonesWaiting; n != 0 {
			t.Errorf("got %d clones that wait, want 0", n)
		}
		a.places = "" // as if the answer was lost
		a.clone(2, 3)
		want("the same again", "[{2 0 0} {3 0 0}]", "[{1 0 0}]", "[{7 0 0}]")
	})
}

// TestPlaceClonesAgainstAModel: whatever comes and goes, the clones have places in
// order of arrival, no more than there are, and keep them.
func TestPlaceClonesAgainstAModel(t *testing.T) {
	const places = 3
	random := rand.New(rand.NewPCG(14, 14))
	s := &poolState{maxClones: places, freed: make(chan struct{}), tombstones: map[string]*tombstone{}}
	fresh := func() *entry { return newEntry("x", "/w/x", entryState{status: statusReady, slot: true}) }
	entries := []*entry{fresh(), fresh(), fresh(), fresh()}
	var model []poolClone
	had := map[poolClone]bool{}
	for round := range 3000 {
		i := random.IntN(len(entries))
		e := entries[i]
		switch ids := slices.Clone(e.state.clones); {
		case round%50 == 49:
			s.apply(e, childEnded{how: "killed"})
			model = slices.DeleteFunc(model, func(c poolClone) bool { return c.entry == e })
			entries[i] = fresh()
		case len(ids) > 0 && random.IntN(2) == 0:
			at := random.IntN(len(ids))
			model = slices.DeleteFunc(model, func(c poolClone) bool { return c == poolClone{e, ids[at]} })
			s.apply(e, controlEvent{Event: eventStatus, Clones: slices.Delete(ids, at, at+1)})
		case len(ids) < maxClones:
			model = append(model, poolClone{e, int64(round)})
			s.apply(e, controlEvent{Event: eventStatus, Clones: append(ids, int64(round))})
		}
		if !slices.Equal(s.clones, model) {
			t.Fatalf("round %d: got %v, want %v", round, s.clones, model)
		}
		for at, c := range model {
			want := clonePlace{ID: c.id}
			if at >= places {
				want.Position, want.Of = at+1-places, len(model)-places
			}
			if !slices.Contains(c.entry.state.places, want) || had[c] && want.Position > 0 {
				t.Fatalf("round %d: got the places %v, want %v, which is kept: %v", round, c.entry.state.places, want, had[c])
			}
			had[c] = want.Position == 0
		}
	}
}

// waitingClone is a clone by a streamed call: its progress and its end.
type waitingClone struct {
	told   chan string // the messages of its progress and at last its result
	cancel context.CancelFunc
}

// cloneLater calls vcs/clone.
func (h *house) cloneLater(libID, url, name string) *waitingClone {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":%q,"name":%q}}`, url, name)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/libraries/"+libID+"/rpc", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	c := &waitingClone{told: make(chan string, 1000), cancel: cancel}
	done := make(chan struct{})
	h.t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() { // the cleanup waits
		defer close(done)
		defer close(c.told)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return
		}
		defer response.Body.Close()
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				c.told <- data
			}
		}
	}()
	return c
}

// hears waits for an event with text.
func (c *waitingClone) hears(t *testing.T, text string) {
	t.Helper()
	var heard []string
	for limit := time.After(patience); ; {
		select {
		case data, ok := <-c.told:
			if strings.Contains(data, text) {
				return
			}
			if heard = append(heard, data); ok {
				continue
			}
		case <-limit:
		}
		t.Fatalf("the clone said %q, want %q", heard, text)
	}
}

// TestFaultPoolOfClones: with --max-clones 2 a third git does not start, whatever
// its daemon is. A waiter says where it waits, leaves at once when it is cancelled,
// and gets the place of a daemon that is killed. The scheduler stops with waiters.
func TestFaultPoolOfClones(t *testing.T) {
	skipShort(t, "starts daemons and stalled clones; TestPoolClones has the rules")
	t.Parallel()
	git, _, _ := newStalledGitServer(t)
	asked := make(chan string, 100)
	git.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- r.URL.Path
		<-r.Context().Done()
		return true
	})
	for _, name := range []string{"a1", "a2", "b1", "b2", "c1"} {
		git.repo(name, map[string]string{"a": "1"})
	}
	h := openHouse(t, realTempDir(t), "--max-clones", "2")
	pid := h.ensure("a")
	began := func(names ...string) {
		t.Helper()
		var got []string
		for range names {
			select {
			case path := <-asked:
				got = append(got, strings.Split(path, "/")[1])
			case <-time.After(patience):
				t.Fatalf("git asked for %s within %v, want %s", got, patience, names)
			}
		}
		if slices.Sort(got); !slices.Equal(got, names) {
			t.Fatalf("git asked for %s, want %s", got, names)
		}
	}
	clone := func(name string) *waitingClone { return h.cloneLater(name[:1], git.address(name), name) }
	clone("a1")
	began("a1")
	clone("a2")
	began("a2")
	b1 := clone("b1")
	b1.hears(t, "waiting: 1st of 1 in the pool")
	b2 := clone("b2")
	b2.hears(t, "waiting: 2nd of 2 in the pool")
	c1 := clone("c1")
	c1.hears(t, "waiting: 3rd of 3 in the pool")
	b1.cancel()
	c1.hears(t, "waiting: 2nd of 2 in the pool")
	if len(asked) > 0 {
		t.Fatalf("git asked for %s, want that it waits", <-asked)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began("b2", "c1") // and not those of the daemon, which the hub has sent again
	b2.hears(t, "connecting")
	h.kill(syscall.SIGTERM)
	if code := h.exit(); code != 0 {
		t.Errorf("the scheduler stopped with %d, want 0", code)
	}
	h.wantNothingLeft()
}

// TestFaultDrainWithWaitingClones: a scheduler that is drained lets the clones that
// wait for a place have it, and then ends.
func TestFaultDrainWithWaitingClones(t *testing.T) {
	skipShort(t, "starts daemons and clones; TestPoolClones has the rules")
	t.Parallel()
	git := newGitServer(t)
	head := git.repo("lib.git", map[string]string{"a": "1"}).head()
	asked, release := make(chan struct{}, 10), make(chan struct{})
	git.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		wake(asked)
		select {
		case <-release:
			return false
		case <-r.Context().Done():
			return true
		}
	})
	h := openHouse(t, realTempDir(t), "--max-clones", "1")
	first := h.cloneLater("a", git.address("lib.git"), "x")
	<-asked
	second := h.cloneLater("b", git.address("lib.git"), "y")
	second.hears(t, "waiting: 1st of 1 in the pool")
	h.want(http.StatusAccepted, http.MethodPost, "/drain", "")
	close(release)
	first.hears(t, head)
	second.hears(t, head)
	if code := h.exit(); code != 0 {
		t.Errorf("the drained scheduler ended with %d, want 0", code)
	}
	h.wantNothingLeft()
}
