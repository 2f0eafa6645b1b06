package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProcSubset: daemons start where /proc shows processes only, as under
// systemd's ProcSubset=pid.
func TestProcSubset(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), schedulerName)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	script := "mount -t proc -o subset=pid proc /proc && ! test -e /proc/sys || exit 77; exec " + link +
		" --port 0 --min-free-disk 0 --workspace " + filepath.Join(realTempDir(t), "workspace")
	cmd := inPIDNamespace(t, "/bin/sh", "-c", script)
	p := startCommand(t, schedulerName, cmd, nil)
	awaitThat(t, "the scheduler listens or cannot be tried", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return strings.Contains(p.stderr.String(), "msg=listening")
		}
	})
	select {
	case <-p.done:
		if p.exit() == 77 {
			t.Skip("/proc cannot be mounted with subset=pid here: " + p.stderr.String())
		}
	default:
	}
	url := p.url()
	if status, body := askHTTP(t, http.MethodPut, url+"/daemons/demo", ""); status != 200 && status != 201 {
		t.Errorf("starting a daemon: got %d %s, want it ready", status, body)
	}
	if status, body := askHTTP(t, http.MethodGet, url+"/health", ""); status != 200 {
		t.Errorf("GET /health: got %d %s, want 200", status, body)
	}
}
