//go:build linux || darwin

package main

import (
	"flag"
	"io"
	"os"
	"slices"
	"testing"
)

// TestFlagsReachThePool: each flag of the daemon is handed from the scheduler to the
// daemons of its pool, given as a flag or as a variable, or has its reason not to be.
func TestFlagsReachThePool(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	ca := newTestCA(t)
	pair := ca.issue("m", nil).write(t.TempDir())
	handed := map[string]string{
		"allow": dir, "allow-git-host": "github.com,*.example.org", "ca-file": ca.file, "client-cert": pair.certFile, "client-key": pair.keyFile, "log-format": "json", "log-level": "warn",
		"max-clone-bytes": "1MiB", "max-clone-files": "17", "max-concurrent": "3", "max-message": "128KiB", "min-free-disk": "0.5",
	}
	apart := map[string]string{
		"server":                 "the pool sets it: the scheduler, or its own --server",
		"machine-id":             "the pool sets it for each library",
		"work-dir":               "the pool sets it for each library",
		"token-file":             "a daemon of the pool reads its token from standard input",
		"compress":               "the links of a pool stay on this machine, or in one site",
		"heartbeat-interval":     "the hub sets it in the handshake; with --server that server does",
		"max-reconnect-attempts": "the pool starts a daemon again that gave up",
		"handler":                "the programs of a pool's host are not for the callers of each library",
		"check":                  "it chooses what one run does",
		"version":                "it chooses what one run does",
	}
	daemon, _ := (&program{getenv: os.Getenv}).daemonFlagSet()
	daemon.VisitAll(func(fl *flag.Flag) {
		_, isHanded := handed[fl.Name]
		if isHanded == (apart[fl.Name] != "") {
			t.Errorf("--%s of the daemon: want it handed to the daemons of a pool (scheduler_flags.go, childArgs) or a reason why not", fl.Name)
		}
	})
	if n := len(handed) + len(apart); n != len(daemon.rows()) {
		t.Errorf("the test names %d flags, want the %d of the daemon", n, len(daemon.rows()))
	}
	for _, form := range []string{"flags", "variables"} {
		args, env := []string{schedulerName, "--server", "h"}, map[string]string{}
		for name, value := range handed {
			if form == "flags" {
				args = append(args, "--"+name, value)
			} else {
				env[variable(name)] = value
			}
		}
		console := newLineQueue(io.Discard)
		defer console.close(flushTime)
		p := &program{args: args, getenv: func(name string) string { return env[name] }, environ: func() []string { return nil }, console: console}
		scheduler, err := p.schedulerConfig()
		if err != nil {
			t.Fatal(err)
		}
		child, _ := (&program{getenv: func(string) string { return "" }}).daemonFlagSet()
		if err := child.parse(scheduler.childArgs()); err != nil {
			t.Fatal(err)
		}
		for name, value := range handed {
			want := value
			switch name {
			case "max-clone-bytes":
				want = "1048576"
			case "max-message":
				want = "131072"
			}
			if got := child.Lookup(name).Value.String(); got != want {
				t.Errorf("%s, --%s: the daemon got %q, want %q", form, name, got, want)
			}
		}
		scheduler.server = nil // its daemons dial a port of this machine, without TLS
		if slices.Contains(scheduler.childArgs(), "--client-cert") {
			t.Errorf("%s: the daemons of a hub get a client certificate, want none", form)
		}
		if int(scheduler.maxMessage) != 128<<10 {
			t.Errorf("%s, --max-message of the hub: got %d, want %d", form, scheduler.maxMessage, 128<<10)
		}
	}
}
