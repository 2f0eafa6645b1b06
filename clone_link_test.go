//go:build linux || darwin

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cutClone is a daemon that clones, behind a proxy of its own.
type cutClone struct {
	*benchDaemon
	name         string
	cut          time.Duration // of the server's time, 0 for never
	proxy        *faultProxy
	asked        atomic.Int64  // requests of git
	runs         atomic.Int64  // of vcs/clone
	began, ended chan struct{} // told of each run
}

// TestCloneIsCutAtEachStep: real clones from a server that takes 3 s for each;
// after 100 ms of them the link of one is reset, after 200 ms that of the next,
// and so on to the end, and of one the answer is lost. Each clone runs once, and
// each answer is delivered.
func TestCloneIsCutAtEachStep(t *testing.T) {
	skipShort(t, "clones dozens of times, for 6 s")
	t.Parallel()
	const (
		step     = 100 * time.Millisecond
		takes    = 3 * time.Second
		requests = 3 // of git, for one clone
	)
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	b := newSocketBench(t, func(c *hubConfig) { c.times, c.offlineThreshold = defaultLinkTimes(), defaultOfflineThreshold })
	clones := map[string]*cutClone{}
	newCutClone := func(name string, cut time.Duration) *cutClone {
		if err := os.Symlink(filepath.Join(git.root, "lib.git"), filepath.Join(git.root, name)); err != nil {
			t.Fatal(err)
		}
		w := &cloneWorld{t: t, server: git, workDir: realTempDir(t)}
		w.open()
		c := &cutClone{name: name, cut: cut, proxy: newFaultProxy(t, b.server.Host), began: make(chan struct{}, 10), ended: make(chan struct{}, 10)}
		clone := *w.methods()[0]
		run := clone.call
		clone.call = func(ctx context.Context, params json.RawMessage) (any, error) {
			c.runs.Add(1)
			c.began <- struct{}{}
			defer func() { c.ended <- struct{}{} }()
			return run(ctx, params)
		}
		daemon, states := b.socketDaemon(c.proxy.address, name, &clone)
		c.benchDaemon = daemon
		await(t, states, "connected")
		b.online(name)
		clones[name] = c
		return c
	}
	for cut := step; cut < takes; cut += step {
		newCutClone(fmt.Sprint("cut-at-", cut), cut)
	}
	lost := newCutClone("answer-lost", 0)
	git.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		const each = takes / requests
		c, left := clones[name], each
		pass := func(d time.Duration) {
			select {
			case <-time.After(d): // the server is slow
			case <-r.Context().Done():
			}
		}
		if n := c.asked.Add(1) - 1; c.cut > 0 && n == int64(c.cut/each) {
			pass(c.cut % each)
			c.proxy.reset()
			left -= c.cut % each
		}
		pass(left)
		return r.Context().Err() != nil
	})
	// perform calls vcs/clone and looks at the answer.
	perform := func(c *cutClone) {
		raw, err := b.hub.perform(t.Context(), newCall(t, cloneMethod, `{"url":"`+git.address(c.name)+`"}`), b.hub.machineTarget(c.name))
		var result cloneResult
		if err == nil {
			err = json.Unmarshal(raw, &result)
		}
		if err != nil || result.Commit == nil || *result.Commit != repo.head() || result.Action != actionCloned || c.runs.Load() != 1 {
			t.Errorf("%s: %+v, %v, %d runs", c.name, result, err, c.runs.Load())
		}
	}
	var wg sync.WaitGroup
	for _, c := range clones {
		if c == lost {
			continue
		}
		wg.Go(func() {
			perform(c)
			if c.proxy.dialled() != 2 || c.asked.Load() != requests {
				t.Errorf("%s: %d connections of the daemon, %d requests of git", c.name, c.proxy.dialled(), c.asked.Load())
			}
		})
	}
	wg.Go(func() { perform(lost) })
	await := func(event <-chan struct{}) {
		select {
		case <-event:
		case <-time.After(3 * patience): // all clone at once
			t.Fatal("the clone neither begins nor ends")
		}
	}
	await(lost.began)
	lost.proxy.up.set(toxics{drop: true}) // its answer
	await(lost.ended)
	awaitThat(t, "the answer to be on its way", func() bool { active, _, _ := lost.service.activity.state(); return active == 0 })
	lost.proxy.up.set(toxics{})
	lost.proxy.reset()
	wg.Wait()
	if n := lost.asked.Load(); n != requests {
		t.Errorf("%d requests of the git whose answer was lost", n)
	}
}
