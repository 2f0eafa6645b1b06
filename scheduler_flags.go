package main

import (
	"flag"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const schedulerIntro = `Usage: c4a-daemon-scheduler [flags]
       c4a-daemon-scheduler COMMAND [flags] …

Examples:
  c4a-daemon-scheduler --workspace /var/lib/c4a
  c4a-daemon-scheduler --server example.com --port 5110 --max-daemons 20
  c4a-daemon-scheduler call demo vcs/clone url=https://example.com/r.git
  c4a-daemon-scheduler status

Keeps a pool of c4a-daemon processes, one for each library, started on demand
over an HTTP API. Without --server the scheduler is also the server that these
daemons and users' daemons dial.
`

const schedulerOutro = `Exit status: 0 stopped by a signal, 1 failed or stopped by a second signal,
2 usage error.
`

const (
	defaultSchedulerPort = 5110
	defaultWorkspace     = "./data/daemon-workspace"
	defaultMaxDaemons    = 20
	defaultIdleTimeout   = 5 * time.Minute // as CLOUD_DAEMON_IDLE_TIMEOUT of the original service
	defaultSpawnTimeout  = 15 * time.Second
	defaultStopTimeout   = 2 * time.Second
	defaultMinFreeDisk   = 5 // percent
	unixPrefix           = "unix:"
)

// schedulerConfig is the validated configuration of a scheduler.
type schedulerConfig struct {
	server           *url.URL // nil if this program is the server
	host             string   // a host name, an address or unix:/path
	port             int      // 0 means any free port
	workspace        string
	workspaceGiven   bool
	maxDaemons       int
	maxClones        int // of the pool; 0 is no limit
	idleTimeout      time.Duration
	spawnTimeout     time.Duration
	stopTimeout      time.Duration
	offlineThreshold time.Duration
	allow            dirList
	deny             []string // files of the scheduler that no daemon may read
	daemonBin        string   // "" means this executable
	apiToken         secret
	daemonToken      secret
	tokens           *tokensFile // nil without one
	serverToken      secret
	allowHosts       list
	bindings         string // absolute path; "" means a file in the workspace
	cluster          bool
	peers            list       // base URLs
	caFile           string     // absolute path
	tls              *serverTLS // nil without --tls-cert
	clientPair       keyPair    // absolute paths
	minFreeDisk      float64    // percent
	limits           *apiLimits
	limitFlags
	logs        logFlags
	log         *slog.Logger
	check       bool
	healthcheck bool
	version     bool
}

// schedulerFlags registers the flags. After they are parsed, the returned
// function builds a validated configuration from them.
func (p *program) schedulerFlags(f *flagSet) (build func(*flagSet) (*schedulerConfig, error)) {
	c := &schedulerConfig{}
	var server, apiTokenFile, daemonTokenFile, tokenFile, tokensFile string
	var pair keyPair
	var clientCA string
	callerRequests, callerBytes, callerStreams, handshakes := size(defaultCallerRequests), size(defaultCallerBytes), size(defaultCallerStreams), size(defaultHandshakes)
	f.StringVar(&c.host, "host", "127.0.0.1", "`ADDRESS` to listen on, or unix:/path; anything but loopback needs an API token")
	f.IntVar(&c.port, "port", defaultSchedulerPort, "`PORT` to listen on; 0 picks a free port")
	f.StringVar(&c.workspace, "workspace", defaultWorkspace, "`DIR` that holds the work dirs of the daemons")
	f.StringVar(&server, "server", "", "`ADDRESS` of the server that the daemons dial (default: this scheduler)")
	f.group("Basics")
	f.IntVar(&c.maxDaemons, "max-daemons", defaultMaxDaemons, "maximum number `N` of daemons that run at the same time")
	f.IntVar(&c.maxClones, "max-clones", defaultPoolClones(), "maximum number `N` of clones that run at the same time in the pool; others wait; 0 is no limit")
	f.Lookup("max-clones").DefValue = "twice the CPUs, at least " + strconv.Itoa(minPoolClones)
	f.DurationVar(&c.idleTimeout, "idle-timeout", defaultIdleTimeout, "`TIME` after which an idle daemon is stopped")
	f.DurationVar(&c.spawnTimeout, "spawn-timeout", defaultSpawnTimeout, "`TIME` within which a new daemon must be ready")
	f.DurationVar(&c.stopTimeout, "stop-timeout", defaultStopTimeout, "`TIME` that a daemon has to exit before it is killed")
	f.Var(&c.allow, "allow", "comma-separated `DIRS` that every daemon may read besides its own work dir")
	f.StringVar(&c.daemonBin, "daemon-bin", "", "`PROGRAM` to run as the daemon (default: this executable)")
	f.Float64Var(&c.minFreeDisk, "min-free-disk", defaultMinFreeDisk, "`PERCENT` of free disk space below which /health is degraded and no clone starts")
	f.group("Pool")
	f.StringVar(&apiTokenFile, "api-token-file", "", "`FILE` with the token that HTTP API clients must send (or set C4A_API_TOKEN)")
	f.StringVar(&daemonTokenFile, "daemon-token-file", "", "`FILE` with the token that users' daemons must send (or set C4A_DAEMON_TOKEN)")
	f.StringVar(&tokensFile, "tokens-file", "", "`FILE` with tokens that have rights, one a line, as the command token prints them; read again when it changes")
	f.StringVar(&tokenFile, "token-file", "", "`FILE` with the token to send to --server (or set C4A_TOKEN)")
	f.Var(&c.allowHosts, "allow-host", "comma-separated `NAMES` to accept in the Host header of a request, besides this host's own")
	f.StringVar(&c.caFile, "ca-file", "", "PEM `FILE` with additional certificate authorities, for --server, for the daemons and their git, and for --url")
	f.StringVar(&pair.certFile, "tls-cert", "", "PEM `FILE` with the certificate for HTTPS; read again when it changes")
	f.StringVar(&pair.keyFile, "tls-key", "", "PEM `FILE` with the private key of --tls-cert")
	f.StringVar(&clientCA, "client-ca", "", "PEM `FILE` with the authorities of client certificates, which users' daemons and API clients then need; read again when it changes")
	f.StringVar(&c.clientPair.certFile, "client-cert", "", "PEM `FILE` with the certificate to show to --server, by the daemons too, and to --url")
	f.StringVar(&c.clientPair.keyFile, "client-key", "", "PEM `FILE` with the private key of --client-cert")
	f.group("Access")
	f.DurationVar(&c.offlineThreshold, "offline-threshold", defaultOfflineThreshold, "`TIME` without a heartbeat after which a daemon counts as offline")
	f.Var(&callerRequests, "max-caller-requests", "maximum `N` of requests in flight for each caller, a token of --tokens-file or else an address; 0 for no limit")
	f.Var(&callerBytes, "max-caller-bytes", "maximum `BYTES` of bodies and of answers that were not taken yet, for each caller; 0 for no limit")
	f.Var(&callerStreams, "max-caller-streams", "maximum `N` of streams of events, logs and calls, for each caller; 0 for no limit")
	f.Var(&handshakes, "max-handshakes", "maximum `N` of users' daemons that connect in a second; 0 for no limit")
	f.group("Connections")
	c.limitFlags.register(f)
	f.StringVar(&c.bindings, "bindings", "", "`FILE` with the bindings of libraries, shared by several schedulers (default: libraries.json in --workspace)")
	f.BoolVar(&c.cluster, "cluster", false, "redirect calls of a library whose machine is not connected here to the machine, for a proxy to route")
	f.Var(&c.peers, "peers", "comma-separated `URLS` of the other schedulers, which are asked for machines that are called here, and shown with ?nodes=all")
	f.group("Several schedulers")
	c.logs.register(f)
	return func(f *flagSet) (*schedulerConfig, error) {
		f.Visit(func(fl *flag.Flag) { c.workspaceGiven = c.workspaceGiven || fl.Name == "workspace" })
		c.workspaceGiven = c.workspaceGiven || p.setting("C4A_WORKSPACE") != ""
		var err error
		if c.log, err = c.logs.logger(p); err != nil {
			return nil, err
		}
		p.logVariables(c.log)
		for _, t := range []struct {
			to                   *secret
			flag, file, variable string
		}{
			{&c.apiToken, "api-token-file", apiTokenFile, "C4A_API_TOKEN"},
			{&c.daemonToken, "daemon-token-file", daemonTokenFile, "C4A_DAEMON_TOKEN"},
			{&c.serverToken, "token-file", tokenFile, "C4A_TOKEN"},
		} {
			if *t.to, err = p.readSecret(t.flag, t.file, t.variable); err != nil {
				return nil, err
			}
			if err := c.denyFile(t.file); err != nil {
				return nil, err
			}
		}
		if tokensFile != "" {
			if c.tokens, err = openTokensFile(tokensFile); err != nil {
				return nil, usage("%v", err)
			}
			if err := c.denyFile(tokensFile); err != nil {
				return nil, err
			}
		}
		if server != "" {
			if c.server, err = parseServer(server); err != nil {
				return nil, usage("invalid value for --server: %v", err)
			}
		}
		if c.server != nil && (c.bindings != "" || c.cluster) {
			return nil, usage("--bindings and --cluster are for a scheduler without --server")
		}
		if err := checkPeers(c.peers); err != nil {
			return nil, usage("invalid value for --peers: %v", err)
		}
		if len(c.peers) > 0 && !c.cluster {
			return nil, usage("--peers needs --cluster")
		}
		if c.bindings != "" {
			if c.bindings, err = filepath.Abs(c.bindings); err != nil {
				return nil, usage("invalid value for --bindings: %v", err)
			}
		}
		if c.caFile != "" {
			if _, err := authorities(c.caFile); err != nil {
				return nil, usage("invalid value for --ca-file: %v", err)
			}
			if c.caFile, err = filepath.Abs(c.caFile); err != nil { // a child runs in another directory
				return nil, usage("invalid value for --ca-file: %v", err)
			}
		}
		if given, err := isGiven("tls", pair); err != nil {
			return nil, err
		} else if given {
			if c.tls, err = openServerTLS(pair, clientCA); err != nil {
				return nil, usage("invalid value for --tls-cert, --tls-key or --client-ca: %v", err)
			}
			if err := c.denyFile(pair.keyFile); err != nil {
				return nil, err
			}
		} else if clientCA != "" {
			return nil, usage("--client-ca needs --tls-cert and --tls-key: without TLS no client shows a certificate")
		}
		if err := checkClientPair(c.clientPair); err != nil {
			return nil, err
		}
		if c.clientPair != (keyPair{}) {
			if err := c.denyFile(c.clientPair.keyFile); err != nil {
				return nil, err
			}
			for _, path := range []*string{&c.clientPair.certFile, &c.clientPair.keyFile} {
				if *path, err = filepath.Abs(*path); err != nil { // a child runs in another directory
					return nil, usage("invalid value for --client-cert or --client-key: %v", err)
				}
			}
		}
		c.limits = newAPILimits(int(callerRequests), int64(callerBytes), int(callerStreams), int(handshakes))
		return c, c.validate()
	}
}

// schedulerFlagSet returns the flags of the scheduler with their help.
func (p *program) schedulerFlagSet() (*flagSet, *schedulerRun) {
	f := p.newFlagSet(schedulerName, schedulerIntro)
	f.intro += "\nCommands:\n" + commandList(schedulerCommands())
	f.outro = schedulerOutro
	run := &schedulerRun{build: p.schedulerFlags(f)}
	f.BoolVar(&run.check, "check", false, "check the address, workspace, allowed paths, git, daemon program and --server, print the results, and exit 0 or 1")
	f.BoolVar(&run.healthcheck, "healthcheck", false, "query /health of a running scheduler and exit 0 or 1")
	f.BoolVar(&run.version, "version", false, "print the version and exit")
	f.group("Instead of running")
	return f, run
}

// schedulerRun holds the flags that choose what one run does.
type schedulerRun struct {
	build                       func(*flagSet) (*schedulerConfig, error)
	check, healthcheck, version bool
}

// schedulerConfig parses and validates the command line and the environment.
func (p *program) schedulerConfig() (*schedulerConfig, error) {
	f, run := p.schedulerFlagSet()
	if err := f.parse(p.args[1:]); err != nil {
		return nil, err
	}
	if run.version {
		return &schedulerConfig{version: true}, nil
	}
	if len(f.words) > 0 {
		return nil, usage("unexpected argument %q: a command must come before all flags", shownText(f.words[0]))
	}
	c, err := run.build(f)
	if err != nil {
		return nil, err
	}
	c.check, c.healthcheck = run.check, run.healthcheck
	if !c.healthcheck && !c.isLocal() && c.apiToken == "" && c.tokens == nil {
		return nil, usage("--host %s is reachable from other machines: set a token with --api-token-file, C4A_API_TOKEN or --tokens-file", c.host)
	}
	return c, nil
}

// validate checks the ranges of the values and makes paths absolute.
func (c *schedulerConfig) validate() error {
	if c.port < 0 || c.port > 65535 {
		return usage("invalid value %d for --port: must be 0 to 65535", c.port)
	}
	if c.maxDaemons < 1 || c.maxDaemons > maxDaemons {
		return usage("invalid value %d for --max-daemons: must be 1 to %d", c.maxDaemons, maxDaemons)
	}
	if c.maxClones < 0 {
		return usage("invalid value %d for --max-clones: must be at least 0", c.maxClones)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"idle-timeout", c.idleTimeout}, {"spawn-timeout", c.spawnTimeout},
		{"stop-timeout", c.stopTimeout}, {"offline-threshold", c.offlineThreshold},
	} {
		if d.value < 10*time.Millisecond || d.value > 365*24*time.Hour {
			return usage("invalid value %v for --%s: must be 10ms to a year", d.value, d.name)
		}
	}
	if err := c.limitFlags.validate(); err != nil {
		return err
	}
	if err := checkPercent("min-free-disk", c.minFreeDisk); err != nil {
		return err
	}
	if c.workspace == "" {
		return usage("invalid value for --workspace: must not be empty")
	}
	if path, ok := strings.CutPrefix(c.host, unixPrefix); ok {
		if path == "" {
			return usage("invalid value for --host: unix: needs a path")
		}
	} else if c.host == "" || strings.ContainsAny(c.host, "/ ") {
		return usage("invalid value %q for --host: must be an address, a host name or unix:/path", c.host)
	}
	if ip, err := netip.ParseAddr(strings.Trim(c.host, "[]")); err == nil {
		c.host = ip.String() // [::1] as in a URL
	}
	for i, dir := range c.allow {
		// A child runs in another directory.
		var err error
		if c.allow[i], err = filepath.Abs(dir); err != nil {
			return usage("invalid value for --allow: %v", err)
		}
	}
	return c.allow.areDirs()
}

// denyFile keeps a file, if one is named, from all daemons. They run in other
// directories, so its path is made absolute.
func (c *schedulerConfig) denyFile(path string) error {
	if path == "" {
		return nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return usage("finding %s: %v", path, err)
	}
	c.deny = append(c.deny, abs)
	return nil
}

// isLocal reports whether only this machine can reach the listener.
func (c *schedulerConfig) isLocal() bool {
	if strings.HasPrefix(c.host, unixPrefix) || c.host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(c.host)
	return err == nil && ip.Unmap().IsLoopback()
}

// baseURL returns the URL at which a client on this machine reaches the
// listener.
func (c *schedulerConfig) baseURL() string {
	scheme := "http"
	if c.tls != nil {
		scheme = "https"
	}
	if strings.HasPrefix(c.host, unixPrefix) {
		return scheme + "://localhost" // localClient dials the socket whatever the host is
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(c.dialHost(), strconv.Itoa(c.port))}).String() // escapes a zone
}

// dialHost returns the host that a client on this machine dials: loopback if
// the listener accepts on all addresses.
func (c *schedulerConfig) dialHost() string {
	if ip, err := netip.ParseAddr(c.host); err == nil && ip.IsUnspecified() {
		if ip.Is6() {
			return "::1"
		}
		return "127.0.0.1"
	}
	return c.host
}

// childArgs returns the flags that every child gets in addition to its own.
func (c *schedulerConfig) childArgs() []string {
	args := append(c.limitFlags.args(),
		"--log-level", c.logs.level, "--log-format", c.logs.format,
		"--min-free-disk", strconv.FormatFloat(c.minFreeDisk, 'f', -1, 64))
	if c.caFile != "" {
		args = append(args, "--ca-file", c.caFile)
	}
	if c.server != nil && c.clientPair != (keyPair{}) {
		args = append(args, "--client-cert", c.clientPair.certFile, "--client-key", c.clientPair.keyFile)
	}
	for _, dir := range c.allow {
		args = append(args, "--allow", dir)
	}
	return args
}
