package main

import (
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const daemonIntro = `Usage: c4a-daemon --server ADDRESS [flags]

Dials a server over WebSocket and lets it read the files and git repositories
below the allowed directories, and clone repositories into the work dir.

  c4a-daemon --server 127.0.0.1:5100 --allow /home/me/projects
  c4a-daemon --server wss://example.com --allow /srv/src --token-file token
  c4a-daemon --server example.com --machine-id cloud_demo --work-dir ./demo

Exit: 0 stopped by a signal, 1 failed, 2 wrong use, 3 gave up reconnecting,
4 refused by the server, 5 replaced by another daemon of the same machine id.
`

// daemonConfig is what a daemon is started with, checked.
type daemonConfig struct {
	server         *url.URL
	allow          []string
	machineID      string
	workDir        string // absolute; "" without one
	token          secret
	caFile         string
	client         *http.Client // dials the server
	compress       bool
	maxConcurrent  int
	maxMessage     int
	maxCloneFiles  int
	maxCloneBytes  int64
	allowGitHosts  []string
	minFreeDisk    float64 // percent
	handlers       []handlerSpec
	heartbeat      time.Duration
	maxAttempts    int
	check, version bool
	scheduled      bool // a scheduler talks over standard input and output
	log            *slog.Logger
}

const (
	defaultMaxConcurrent = 64
	maxMaxConcurrent     = 10_000
	minMaxMessage        = 64 << 10 // a handshake and any error fit
	maxMaxMessage        = 1 << 30
	defaultMaxAttempts   = 64
	// A tree beyond these is no source for context but a mistake or an attack.
	defaultMaxCloneFiles = 200_000
	defaultMaxCloneBytes = 10 << 30
)

// daemonConfig reads the command line and the environment.
func (p *program) daemonConfig() (*daemonConfig, error) {
	c := &daemonConfig{scheduled: p.getenv(controlVariable) == controlStdio}
	maxMessage, maxCloneBytes := size(defaultMaxMessage), size(defaultMaxCloneBytes)
	var server, tokenFile string
	var allow, gitHosts list
	var handlers handlerFlag
	var logs logFlags
	f := p.newFlagSet(daemonName, daemonIntro)
	f.StringVar(&server, "server", "", "`ADDRESS` of the server: host:port, ws://…, wss://…")
	f.Var(&allow, "allow", "`DIRS` that may be read, separated by commas; / opens everything (default: the work dir, else the current directory)")
	f.StringVar(&c.machineID, "machine-id", "", "`ID` of this machine at the server (default: the host name)")
	f.StringVar(&c.workDir, "work-dir", "", "`DIR` for clones and git credentials; without it there are none")
	f.StringVar(&tokenFile, "token-file", "", "`FILE` whose first line is the server's token (or the variable C4A_TOKEN)")
	f.StringVar(&c.caFile, "ca-file", "", "PEM `FILE` of further certificate authorities, for the link and for git")
	f.BoolVar(&c.compress, "compress", false, "compress messages: for slow links, costs CPU")
	f.IntVar(&c.maxConcurrent, "max-concurrent", defaultMaxConcurrent, "`N` requests at once; more wait")
	f.Var(&maxMessage, "max-message", "`BYTES` of a message, each way; the server's limit must be as large")
	f.IntVar(&c.maxCloneFiles, "max-clone-files", defaultMaxCloneFiles, "`N` files that a cloned tree may have")
	f.Var(&maxCloneBytes, "max-clone-bytes", "`BYTES` that a cloned tree may have")
	f.Float64Var(&c.minFreeDisk, "min-free-disk", 0, "`PERCENT` of the work dir's disk that must be free for a clone to begin")
	f.Var(&gitHosts, "allow-git-host", "`HOSTS` that may be cloned from, such as github.com or *.example.org; repeatable (default: any)")
	f.DurationVar(&c.heartbeat, "heartbeat-interval", defaultHeartbeatInterval, "`TIME` between heartbeats, unless the server says another")
	f.IntVar(&c.maxAttempts, "max-reconnect-attempts", defaultMaxAttempts, "`N` failed connections in a row after which to give up; 0 never")
	f.Var(&handlers, "handler", "`ns/method=COMMAND` that answers a method of your own: params on its standard input, the result on its standard output; repeatable, a line each in the variable")
	logs.register(f)
	f.BoolVar(&c.check, "check", false, "try the server, token, git and paths, tell, and exit 0 or 1")
	f.BoolVar(&c.version, "version", false, "print the version and exit")
	if err := f.parse(p.args[1:]); err != nil {
		return nil, err
	}
	if c.version {
		return c, nil
	}
	if f.NArg() > 0 {
		return nil, usage("unexpected argument %q: flags only", f.Arg(0))
	}
	c.allow, c.allowGitHosts, c.handlers = allow, gitHosts, handlers
	c.maxMessage, c.maxCloneBytes = int(maxMessage), int64(maxCloneBytes)
	var err error
	if c.log, err = logs.logger(p); err != nil {
		return nil, err
	}
	if c.server, err = parseServer(server); err != nil {
		return nil, usage("invalid value for --server: %v", err)
	}
	if !c.scheduled {
		if c.token, err = p.readSecret("token-file", tokenFile, "C4A_TOKEN"); err != nil {
			return nil, err
		}
	}
	if c.client, err = newLinkClient(c.caFile); err != nil {
		return nil, usage("invalid value for --ca-file: %v", err)
	}
	return c, c.validate()
}

// validate checks what the values mean and completes them.
func (c *daemonConfig) validate() error {
	for _, n := range []struct {
		name             string
		value, low, most int
	}{
		{"max-concurrent", c.maxConcurrent, 1, maxMaxConcurrent},
		{"max-message", c.maxMessage, minMaxMessage, maxMaxMessage},
		{"max-clone-files", c.maxCloneFiles, 1, 1 << 30},
		{"max-reconnect-attempts", c.maxAttempts, 0, 1 << 30},
	} {
		if n.value < n.low || n.value > n.most {
			return usage("invalid value %d for --%s: must be %d to %d", n.value, n.name, n.low, n.most)
		}
	}
	if err := checkPercent("min-free-disk", c.minFreeDisk); err != nil {
		return err
	}
	if c.maxCloneBytes < 1 {
		return usage("invalid value %d for --max-clone-bytes: must be at least 1", c.maxCloneBytes)
	}
	if c.heartbeat < minHeartbeat || c.heartbeat > maxHeartbeat {
		return usage("invalid value %v for --heartbeat-interval: must be %v to %v", c.heartbeat, minHeartbeat, maxHeartbeat)
	}
	if c.machineID == "" {
		c.machineID = hostName()
	}
	if err := checkMachineID(c.machineID); err != nil {
		return usage("invalid value for --machine-id: %v", err)
	}
	if c.workDir == "" && strings.HasPrefix(c.machineID, cloudPrefix) {
		return usage("--machine-id %s needs --work-dir: a %s… daemon keeps its clones there", c.machineID, cloudPrefix)
	}
	if c.workDir != "" {
		abs, err := filepath.Abs(c.workDir)
		if err != nil {
			return usage("invalid value for --work-dir: %v", err)
		}
		c.workDir = abs
	}
	if c.workDir == "" && len(c.allow) == 0 {
		dir, err := os.Getwd()
		if err != nil {
			return usage("finding the current directory: %v; give --allow", err)
		}
		c.allow = []string{dir}
		defer c.log.Info("neither --allow nor --work-dir was given: serving the current directory", "dir", dir)
	}
	return list(c.allow).areDirs()
}
