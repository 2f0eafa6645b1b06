//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// heldGit is the system's git behind a gate: each run tells that it has begun
// and goes on when it is let.
type heldGit struct {
	t           testing.TB
	program     string
	begun, gate *os.File // named pipes
}

func newHeldGit(t testing.TB, real string) *heldGit {
	t.Helper()
	h := &heldGit{t: t}
	dir := t.TempDir()
	for name, file := range map[string]**os.File{"begun": &h.begun, "gate": &h.gate} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		// For both ends, so that neither side waits for the other to open it.
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // nothing in it matters any more
		*file = f
	}
	h.program = filepath.Join(dir, "git")
	writeProgram(t, h.program, "echo $$ >"+shellQuote(h.begun.Name())+"\nread -r _ <"+shellQuote(h.gate.Name())+"\nexec "+shellQuote(real)+" \"$@\"\n")
	return h
}

// waitBegun waits for a run and returns its process id.
func (h *heldGit) waitBegun() (pid int) {
	h.t.Helper()
	if err := h.begun.SetReadDeadline(time.Now().Add(patience)); err != nil {
		h.t.Fatal(err)
	}
	line := make([]byte, 0, 20)
	for len(line) == 0 || line[len(line)-1] != '\n' {
		n, err := h.begun.Read(line[len(line) : len(line)+1]) // one byte: the next line is another run's
		if err != nil {
			h.t.Fatalf("waiting for git to begin: %v, want the process id of a run within %v", err, patience)
		}
		line = line[:len(line)+n]
	}
	if err := json.Unmarshal(line, &pid); err != nil {
		h.t.Fatal(err)
	}
	return pid
}

// open lets so many runs go on.
func (h *heldGit) open(runs int) {
	h.t.Helper()
	if _, err := h.gate.WriteString(strings.Repeat("\n", runs)); err != nil {
		h.t.Fatal(err)
	}
}

// slowMethods are the methods that can take long, on a repository with two
// commits below dir, with params that make each of them start git.
func slowMethods(t testing.TB, dir string) (h *heldGit, calls map[string]string, methods []*method) {
	t.Helper()
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"f": "needle\n"})
	r.commit("second", map[string]string{"g": "2"})
	r.git("tag", "-m", "x", "v1")
	r.git("config", "core.ignorecase", "true") // of such a work tree git lists the files for fs/glob
	f, g := fsOn(t, dir), newTestGitReader(t, dir)
	h = newHeldGit(t, f.git.path)
	f.git.path, g.git.path = h.program, h.program
	path := `"path":` + asJSON(t, r.dir)
	return h, map[string]string{
		"fs/repoScan":     `"max_depth":3`,
		"fs/glob":         path,
		"fs/search":       path + `,"pattern":"needle"`,
		"index/manifest":  path,
		"index/readBlobs": path + `,"files":["f"]`,
		"index/diff":      path + `,"from":"HEAD~1"`,
		"vcs/diff":        path,
		"vcs/blame":       path + `,"file":"f"`,
		"vcs/info":        path,
		"vcs/refs":        path,
		"vcs/log":         path,
	}, append(f.methods(), g.methods()...)
}

// A request that runs longer than a second tells of its progress, whatever the
// method knows of it, and is answered as if it had been quick.
func TestProgressOfEveryMethod(t *testing.T) {
	t.Parallel()
	names := []string{"fs/repoScan", "fs/glob", "fs/search", "index/manifest", "index/readBlobs", "index/diff", "vcs/diff", "vcs/blame", "vcs/info", "vcs/refs", "vcs/log"}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, calls, methods := slowMethods(t, realTempDir(t))
			b := newRPCBench(t, nil, methods...)
			b.put(`{"jsonrpc":"2.0","id":7,"method":%q,"params":{%s}}`, name, calls[name])
			h.waitBegun()
			last := -1
			for ended := false; !ended; {
				var m struct {
					Method string
					Params taskProgress
					Result json.RawMessage
					Error  *rpcError
				}
				if err := json.Unmarshal([]byte(b.get()), &m); err != nil {
					t.Fatal(err)
				}
				switch {
				case m.Method == "task/progress":
					if m.Params.Method != name || m.Params.TaskID != "7" || m.Params.Percent < last || m.Params.Percent > 100 {
						t.Errorf("after %d percent: %+v, want no less, of the method and of task 7", last, m.Params)
					}
					if last < 0 {
						h.open(100) // more than any of them runs
					}
					last = m.Params.Percent
				case m.Error != nil || m.Result == nil:
					t.Fatalf("answered with %v, want a result", m.Error)
				default:
					ended = true
				}
			}
			if last != 100 {
				t.Errorf("it ended at %d percent, want 100", last)
			}
		})
	}
}

// A request that is cancelled while its git runs is answered once that git is
// gone.
func TestCancelOfEveryMethod(t *testing.T) {
	t.Parallel()
	h, calls, methods := slowMethods(t, realTempDir(t))
	b := newRPCBench(t, nil, methods...)
	for name, params := range calls {
		b.put(`{"jsonrpc":"2.0","id":%q,"method":%q,"params":{%s}}`, name, name, params)
		pids := []int{h.waitBegun()}
		if name == "vcs/info" {
			pids = append(pids, h.waitBegun()) // it runs two at a time
		}
		b.put(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%q}}`, name)
		for answer := b.get(); ; answer = b.get() {
			if strings.Contains(answer, "task/progress") {
				continue // the machine is slow
			}
			if !strings.Contains(answer, `"id":"`+name+`","error":{"code":-32800`) {
				t.Errorf("%s: %s, want -32800", name, answer)
			}
			break
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("%s: its git %d is still there: %v, want it gone", name, pid, err)
			}
		}
	}
}
