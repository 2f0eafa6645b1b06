//go:build linux || darwin

package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// cloneBench compares vcs/clone with git against a server on loopback.
type cloneBench struct {
	*daemonBench
	repo    *testRepo
	url     string
	dir     string // of git's clones
	commits int
	ours    int // number of clones of each
	theirs  int
}

func newCloneBench(b *testing.B, files, dirs int) *cloneBench {
	b.Helper()
	server := newGitServer(b)
	repo := importTree(b, filepath.Join(server.root, "repo"), files, dirs, false)
	repo.git("checkout", "-q", "-f", "main")
	return &cloneBench{
		daemonBench: newDaemonBench(b, &daemonConfig{workDir: realTempDir(b)}),
		repo:        repo, url: server.address("repo"), dir: realTempDir(b),
	}
}

// commit changes one file of the remote.
func (c *cloneBench) commit() {
	c.commits++
	writeFiles(c.t, c.repo.dir, map[string]string{"d0000/f000000.go": fmt.Sprintln("change", c.commits)})
	c.repo.git("commit", "-q", "-a", "-m", "change")
}

// clone calls vcs/clone; the name tells one clone from another.
func (c *cloneBench) clone() {
	c.request("vcs/clone", object{"url": c.url, "name": fmt.Sprint("clone", c.ours)})
}

// path returns git's clone.
func (c *cloneBench) path() string { return filepath.Join(c.dir, fmt.Sprint(c.theirs)) }

// The goals are 1.0 and 20 ms for a small repository and 0.8 for a large one if it
// is cloned, 1.1 and 20 ms if there is nothing new, and 1.3 and 20 ms for one new
// commit.
func BenchmarkClone(b *testing.B) {
	for _, size := range []struct {
		name        string
		files, dirs int
	}{{"small", 20, 4}, {"large", 5200, 970}} {
		b.Run(size.name+"/fresh", func(b *testing.B) {
			c := newCloneBench(b, size.files, size.dirs)
			versus(b, "x-clone", func() {
				c.ours++
				c.clone()
			}, func() {
				c.theirs++
				tool(b, nil, "git", "clone", "-q", "--depth=1", c.url, c.path())
			})
		})
		b.Run(size.name+"/unchanged", func(b *testing.B) {
			c := newCloneBench(b, size.files, size.dirs)
			tool(b, nil, "git", "clone", "-q", "--depth=1", c.url, c.path())
			versus(b, "x-fetch-status", c.clone, func() {
				tool(b, nil, "git", "-C", c.path(), "fetch", "-q", "--depth=1", "origin", "main")
				tool(b, nil, "git", "-C", c.path(), "status", "--porcelain")
			})
		})
		b.Run(size.name+"/update", func(b *testing.B) {
			c := newCloneBench(b, size.files, size.dirs)
			tool(b, nil, "git", "clone", "-q", "--depth=1", c.url, c.path())
			c.clone()
			// Each commit is fetched by both; the time of the commit is that of neither.
			var ours, theirs []time.Duration
			for b.Loop() {
				c.commit()
				began := time.Now()
				c.clone()
				ours = append(ours, time.Since(began))
				began = time.Now()
				tool(b, nil, "git", "-C", c.path(), "fetch", "-q", "--depth=1", "origin", "main")
				tool(b, nil, "git", "-C", c.path(), "checkout", "-q", "FETCH_HEAD")
				theirs = append(theirs, time.Since(began))
			}
			us, them := median(ours), median(theirs)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(us.Microseconds())/1000, "ms")
			b.ReportMetric(float64(them.Microseconds())/1000, "ms-git")
			b.ReportMetric(float64(us)/float64(them), "x-fetch-checkout")
		})
	}
}
