package main

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestQuickStatOnDeadFileSystem: a stat or read in an allowed directory whose file
// system does not answer delays no other request, and is answered when it does.
func TestQuickStatOnDeadFileSystem(t *testing.T) {
	skipShort(t, "mounts a file system; TestQuickMethodBlocks does it in memory")
	t.Parallel()
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"live/f": "x"})
	m := newDeadMount(t, filepath.Join(dir, "dead"), map[string]string{"f": "x"})
	b := newDaemonBench(t, &daemonConfig{allow: []string{filepath.Join(dir, "live"), m.dir}})
	m.reviveBeforeClose(b)
	stat := func(id int, path string) { b.send(id, "fs/stat", fmt.Sprintf(`{"path":%q}`, path)) }
	m.die()
	for id := range 5 { // the first one blocks the reading goroutine
		if id%2 == 0 {
			b.send(id, "fs/readFile", fmt.Sprintf(`{"path":%q}`, filepath.Join(m.dir, "f")))
		} else {
			stat(id, filepath.Join(m.dir, "f"))
		}
	}
	for id := 100; id < 110; id++ {
		stat(id, filepath.Join(dir, "live/f"))
		if a := b.next(); a.ID != id || a.Error != nil {
			t.Fatalf("while a file system was dead, request %d got %v, want the answer to %d", a.ID, a.Error, id)
		}
	}
	m.revive()
	seen := map[int]bool{}
	for range 5 {
		a := b.next()
		if a.Error != nil || a.ID >= 5 || seen[a.ID] {
			t.Errorf("after the file system came back, request %d got %v, want each of 0 to 4 once", a.ID, a.Error)
		}
		seen[a.ID] = true
	}
}
