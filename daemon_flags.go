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
       c4a-daemon help | version | completion SHELL

Examples:
  c4a-daemon --server 127.0.0.1:5100 --allow /home/me/projects
  c4a-daemon --server wss://example.com --allow /srv/src --token-file token
  c4a-daemon --server example.com --machine-id cloud_demo --work-dir ./demo

Dials a server over WebSocket and answers its requests: read files and git
repositories below the allowed directories, clone repositories into the work dir.
`

const daemonOutro = `Exit status: 0 stopped by a signal, 1 failed, 2 usage error, 3 gave up
reconnecting, 4 refused by the server, 5 replaced by another daemon with the
same machine id.
`

// daemonConfig is the validated configuration of a daemon.
type daemonConfig struct {
	server     *url.URL
	allow      []string
	deny       []string // not even below an allowed directory
	machineID  string
	workDir    string // absolute path; "" for none
	token      secret
	caFile     string
	clientPair keyPair
	client     *http.Client // dials the server
	compress   bool
	limitFlags
	minFreeDisk    float64 // percent
	handlers       []handlerSpec
	heartbeat      time.Duration
	maxAttempts    int
	check, version bool
	scheduled      bool // standard input and output belong to a scheduler
	log            *slog.Logger
	level          *slog.LevelVar // of log
}

const defaultMaxAttempts = 64

// daemonConfig parses and validates the command line and the environment.
func (p *program) daemonConfig() (*daemonConfig, error) {
	f, build := p.daemonFlagSet()
	if err := f.parse(p.args[1:]); err != nil {
		return nil, err
	}
	return build(f)
}

// daemonFlagSet returns the flags of the daemon with their help.
func (p *program) daemonFlagSet() (*flagSet, func(*flagSet) (*daemonConfig, error)) {
	f := p.newFlagSet(daemonName, daemonIntro)
	f.outro = daemonOutro
	return f, p.daemonFlags(f)
}

// daemonFlags registers the flags. After they are parsed, the returned function
// builds a validated configuration from them.
func (p *program) daemonFlags(f *flagSet) (build func(*flagSet) (*daemonConfig, error)) {
	c := &daemonConfig{scheduled: p.getenv(controlVariable) == controlStdio}
	var server, tokenFile string
	var allow dirList
	var handlers handlerFlag
	var logs logFlags
	f.StringVar(&server, "server", "", "`ADDRESS` of the server: host:port, ws://… or wss://…")
	f.Var(&allow, "allow", "comma-separated `DIRS` that may be read; / allows everything (default: the work dir, or the current directory without one)")
	f.StringVar(&c.machineID, "machine-id", "", "`ID` under which the server knows this machine (default: the host name)")
	f.StringVar(&c.workDir, "work-dir", "", "`DIR` for clones and git credentials; without it vcs/clone and config/setAuth are not available")
	f.group("Basics")
	f.StringVar(&tokenFile, "token-file", "", "`FILE` whose first line is the token for the server (or set C4A_TOKEN)")
	f.StringVar(&c.caFile, "ca-file", "", "PEM `FILE` with additional certificate authorities, for the server and for git")
	f.StringVar(&c.clientPair.certFile, "client-cert", "", "PEM `FILE` with the certificate to show to a server that asks for one; read at each connection")
	f.StringVar(&c.clientPair.keyFile, "client-key", "", "PEM `FILE` with the private key of --client-cert")
	f.BoolVar(&c.compress, "compress", false, "compress messages; saves bandwidth, costs CPU")
	f.DurationVar(&c.heartbeat, "heartbeat-interval", defaultHeartbeatInterval, "`TIME` between heartbeats, unless the server sets another")
	f.IntVar(&c.maxAttempts, "max-reconnect-attempts", defaultMaxAttempts, "give up after `N` failed connection attempts in a row; 0 means never")
	f.group("Connection")
	f.Float64Var(&c.minFreeDisk, "min-free-disk", 0, "`PERCENT` of the work dir's disk that must be free before a clone starts")
	c.limitFlags.register(f)
	f.Var(&handlers, "handler", "add a method: `ns/method=COMMAND`, a command that reads the params from standard input and writes the result to standard output; repeatable, one per line in the variable")
	f.group("Methods")
	logs.register(f)
	f.BoolVar(&c.check, "check", false, "check the server, token, git and paths, print the results, and exit 0 or 1")
	f.BoolVar(&c.version, "version", false, "print the version and exit")
	f.group("Instead of running")
	return func(f *flagSet) (*daemonConfig, error) {
		if c.version {
			return c, nil
		}
		if len(f.words) > 0 {
			return nil, usage("unexpected argument %q: only flags are accepted", shownText(f.words[0]))
		}
		c.allow, c.handlers = allow, handlers
		var err error
		if c.log, err = logs.logger(p); err != nil {
			return nil, err
		}
		c.level = logs.current
		p.logVariables(c.log)
		if c.server, err = parseServer(server); err != nil {
			return nil, usage("invalid value for --server: %v", err)
		}
		for _, path := range []string{tokenFile, c.clientPair.keyFile} {
			if path != "" {
				c.deny = append(c.deny, path)
			}
		}
		if c.scheduled {
			if c.deny, err = parseDenied(p.getenv(deniedVariable)); err != nil {
				return nil, err
			}
		} else {
			if c.token, err = p.readSecret("token-file", tokenFile, "C4A_TOKEN"); err != nil {
				return nil, err
			}
		}
		if err := checkClientPair(c.clientPair); err != nil {
			return nil, err
		}
		if c.client, err = newLinkClient(c.caFile, c.clientPair); err != nil {
			return nil, usage("invalid value for --ca-file: %v", err)
		}
		if err := c.validate(); err != nil {
			return nil, err
		}
		if libID, ok := strings.CutPrefix(c.machineID, cloudPrefix); ok {
			c.log = c.log.With("lib_id", libID) // its lines may be read beside those of other daemons
		}
		return c, nil
	}
}

// validate checks the ranges of the values and fills in defaults.
func (c *daemonConfig) validate() error {
	if err := c.limitFlags.validate(); err != nil {
		return err
	}
	if c.maxAttempts < 0 || c.maxAttempts > 1<<30 {
		return usage("invalid value %d for --max-reconnect-attempts: must be 0 to %d", c.maxAttempts, 1<<30)
	}
	if err := checkPercent("min-free-disk", c.minFreeDisk); err != nil {
		return err
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
		return usage("--machine-id %s needs --work-dir: a daemon whose id begins with %s keeps its clones there", c.machineID, cloudPrefix)
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
			return usage("finding the current directory: %v (set --allow)", err)
		}
		c.allow = []string{dir}
		defer c.log.Info("neither --allow nor --work-dir was given: serving the current directory", "dir", dir)
	}
	return dirList(c.allow).areDirs()
}

// setLevel sets the level of the log.
func (c *daemonConfig) setLevel(level slog.Level) {
	c.level.Set(level)
	c.log.Info("the log level was changed", "level", levelName(level))
}

// drainTime returns the time that running requests have after the first signal.
func (c *daemonConfig) drainTime() time.Duration {
	if c.scheduled {
		return scheduledDrainTime
	}
	return drainTime
}
