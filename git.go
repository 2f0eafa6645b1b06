package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// This file is the only one that starts git. The environment is built from
// scratch, because an inherited one is dangerous: GIT_DIR selects another
// repository, GIT_EXTERNAL_DIFF and GIT_CONFIG_COUNT run programs, ~/.netrc and
// /etc/gitconfig contain credentials.

// gitStopGrace is how long git may clean up after SIGTERM. It removes its
// temporary files within milliseconds.
const gitStopGrace = 1200 * time.Millisecond

var errGitStall = errors.New("the remote sent nothing for too long")

// gitRunner runs the system's git with a clean environment and a fixed
// configuration.
type gitRunner struct {
	path         string // absolute; "" if git was not found
	caFile       string // --ca-file or SSL_CERT_FILE; "" for the system's certificates
	passed       []string
	noProxy      string // NO_PROXY as the link reads it
	started      *processes
	temp         *tempDirs
	globalConfig string // GIT_CONFIG_GLOBAL of commands that contact a remote
	knownHosts   string // file of ssh host keys in addition to the user's own; "" without a work dir

	versionDone sync.WaitGroup // runs git version while the daemon starts
	versionText string         // read it after versionDone.Wait
	versionErr  error          // read it after versionDone.Wait
}

// maxGitVersion bounds the version of git, which is part of the handshake.
const maxGitVersion = 100

// version returns the version of git, such as "2.39.5", or "" if it is unknown.
//
//go:noinline // each copy counts in the size of a release
func (g *gitRunner) version() string {
	g.versionDone.Wait()
	return g.versionText
}

// versionError returns why the version is unknown although git was found.
func (g *gitRunner) versionError() error {
	g.versionDone.Wait()
	return g.versionErr
}

// newGitRunner looks for git in the PATH. If there is none, the runner is still
// usable, and each run fails with an error that says to install git.
func newGitRunner(getenv func(string) string, caFile string) *gitRunner {
	g := &gitRunner{temp: &tempDirs{}, caFile: caFile, globalConfig: os.DevNull}
	if g.caFile == "" {
		g.caFile = getenv("SSL_CERT_FILE")
	}
	g.passed, g.noProxy = gitProxies(getenv), proxyVariable(getenv, "no_proxy")
	for _, name := range []string{
		"PATH",
		"SSH_AUTH_SOCK",             // the user's keys for ssh URLs
		"SYSTEMROOT", "TEMP", "TMP", // Windows programs need them to start
	} {
		if value := getenv(name); value != "" {
			g.passed = append(g.passed, name+"="+value)
		}
	}
	path, err := exec.LookPath("git")
	if err != nil {
		return g
	}
	if g.path, err = filepath.Abs(path); err != nil {
		g.path = path
	}
	runner := &gitRunner{temp: g.temp, path: g.path, passed: g.passed, globalConfig: g.globalConfig} // a copy, because the caller continues to set up g
	// Ends when git ends, or after 10 s; version waits for it.
	g.versionDone.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		out, err := runner.run(ctx, gitCommand{args: []string{"version"}})
		text := strings.TrimPrefix(strings.TrimSpace(string(out)), "git version ")
		g.versionText, g.versionErr = text[:min(len(text), maxGitVersion)], err
	})
	return g
}

// gitProxies returns the variables that make curl use the proxies of the link.
// net/http takes the name in capitals first; curl does not know HTTP_PROXY in
// capitals, and takes the other names in small letters first.
func gitProxies(getenv func(string) string) []string {
	var env []string
	for _, name := range []string{"http_proxy", "https_proxy"} {
		if value := proxyVariable(getenv, name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func proxyVariable(getenv func(string) string, name string) string {
	return cmp.Or(getenv(strings.ToUpper(name)), getenv(name))
}

// noProxyFor returns the value of no_proxy with which curl treats a host at port
// as net/http does with the value hosts: an entry *.example.org is .example.org
// for curl, and curl does not know host:port.
func noProxyFor(hosts, port string) string {
	var entries []string
	for entry := range strings.SplitSeq(hosts, ",") {
		entry = strings.TrimSpace(entry)
		if host, only, err := net.SplitHostPort(entry); err == nil {
			if only != port {
				continue
			}
			entry = host
		}
		if below, ok := strings.CutPrefix(entry, "*."); ok {
			entry = "." + below
		}
		if entry != "" {
			entries = append(entries, entry)
		}
	}
	return strings.Join(entries, ",")
}

// gitCommand describes one run of git.
type gitCommand struct {
	args     []string // subcommand and its arguments; never a secret, because other users can see them
	dir      string   // working directory; "" for the temporary directory
	gitDir   string   // GIT_DIR, which also disables discovery and git's ownership check
	workTree string   // GIT_WORK_TREE
	config   []string // additional "-c" values, key=value
	env      []string // additional environment, key=value

	// protocols is GIT_ALLOW_PROTOCOL, such as "https:http:ssh" or "file"; ""
	// for a command that must not access the network.
	protocols string
	// redact removes secrets from git's messages. If nil, only credentials in
	// URLs and headers are removed.
	redact *redactor

	stdin  io.Reader
	stdout io.Writer         // if nil, run returns the output, up to maxGitOutput
	line   func(line string) // called with each line of standard error, ended by CR or LF, redacted
	stall  time.Duration     // ends a run that writes nothing for this long; 0 for no limit

	// check is called when the run has lasted for rulesCheckAfter. Its error
	// ends the run and becomes its result.
	check func(context.Context) error
}

// baseConfig returns the configuration for every command. It overrides whatever
// a repository's own configuration could use to run a program, change the
// output format or work in the background.
func baseConfig() []string {
	return []string{
		"core.fsmonitor=false",
		"core.hooksPath=" + os.DevNull,
		"core.attributesFile=" + os.DevNull,
		"core.excludesFile=",
		"core.alternateRefsCommand=",
		"core.untrackedCache=false",
		"core.quotePath=false",
		"core.longPaths=true", // Git for Windows: more than 260 characters
		"log.showSignature=false",
		"submodule.recurse=false",
		"diff.submodule=short",
		"status.submoduleSummary=false",
		"diff.renameLimit=1000",
		"safe.bareRepository=explicit",
		"gc.auto=0",
		"maintenance.auto=false",
	}
}

func (g *gitRunner) environment(c gitCommand) []string {
	protocols, config := c.protocols, os.DevNull
	if protocols == "" {
		protocols = "none"
	} else {
		config = g.globalConfig
	}
	knownHosts := "~/.ssh/known_hosts"
	if g.knownHosts != "" {
		knownHosts = sshQuote(g.knownHosts) + " " + knownHosts
	}
	env := append([]string{
		"HOME=" + os.DevNull, // no ~/.gitconfig and no ~/.netrc; ssh finds its home in the password database
		"XDG_CONFIG_HOME=" + os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + config,
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=", // empty instead of "true", which would answer with empty credentials
		"LC_ALL=C",
		"GIT_OPTIONAL_LOCKS=0",
		"GIT_NO_REPLACE_OBJECTS=1",
		"GIT_LITERAL_PATHSPECS=1",
		"GIT_ALLOW_PROTOCOL=" + protocols,
		"GIT_PROTOCOL_FROM_USER=0",
		"GIT_SSH_COMMAND=ssh -F " + os.DevNull + " -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15" +
			" -o ServerAliveCountMax=4 -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + shellQuote(knownHosts) +
			" -o ForwardAgent=no -o ClearAllForwardings=yes -o ControlMaster=no -o ControlPath=none",
		"GIT_PAGER=cat",
		"GIT_EDITOR=false",
		"GIT_LFS_SKIP_SMUDGE=1",
		"COLUMNS=200", // git splits longer progress lines
		"TMPDIR=" + g.temp.dir(),
	}, g.passed...)
	if g.caFile != "" {
		env = append(env, "GIT_SSL_CAINFO="+g.caFile)
	}
	if c.protocols == "" {
		env = append(env, "GIT_NO_LAZY_FETCH=1") // a partial clone must not contact its remote for a missing blob
	}
	if c.gitDir != "" {
		env = append(env, "GIT_DIR="+c.gitDir)
	}
	if c.workTree != "" {
		env = append(env, "GIT_WORK_TREE="+c.workTree)
	}
	return append(env, c.env...) // the last value of a variable takes effect
}

// run runs git and returns its standard output, unless c.stdout receives it. If
// git fails, the error is a *gitError; if ctx ended the run, it is the cause of
// ctx. When run returns, no process that git started is left in its process
// group.
func (g *gitRunner) run(ctx context.Context, c gitCommand) ([]byte, error) {
	if g.path == "" {
		return nil, failure(codeGitFailed, "git was not found in the daemon's PATH: install git and restart the daemon").with("reason", gitOther)
	}
	if c.redact == nil {
		c.redact = newRedactor()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := func() {}
	if c.stall > 0 {
		timer := time.AfterFunc(c.stall, func() { cancel(errGitStall) })
		defer timer.Stop()
		alive = func() { timer.Reset(c.stall) }
	}

	if c.check != nil {
		var checking sync.WaitGroup
		defer checking.Wait()
		defer cancel(nil)
		checking.Go(func() { // ends with the run
			timer := time.NewTimer(rulesCheckAfter)
			defer timer.Stop()
			select {
			case <-timer.C:
				if err := c.check(ctx); err != nil {
					cancel(err)
				}
			case <-ctx.Done():
			}
		})
	}

	args := []string{"--no-pager"}
	for _, value := range append(baseConfig(), c.config...) {
		args = append(args, "-c", value)
	}
	cmd := exec.Command(g.path, append(args, c.args...)...)
	cmd.Env = g.environment(c)
	cmd.Dir = c.dir
	if cmd.Dir == "" {
		cmd.Dir = g.temp.dir()
	}
	cmd.Stdin = c.stdin
	var kept cappedBuffer
	if c.stdout == nil {
		c.stdout = &kept
	}
	stderr := &lineWriter{each: c.line, redact: c.redact}
	cmd.Stdout = writerFunc(func(p []byte) (int, error) { alive(); return c.stdout.Write(p) })
	if file, ok := c.stdout.(*os.File); ok {
		cmd.Stdout = file // git writes to it directly, so only standard error counts for stall
	}
	cmd.Stderr = writerFunc(func(p []byte) (int, error) { alive(); return stderr.Write(p) })

	defer processRuns(ctx)()
	p, err := g.started.start(cmd)
	if err != nil {
		// The system does not report whether the program or its directory is missing.
		if _, statErr := os.Stat(g.path); statErr == nil && c.workTree != "" && errors.Is(err, fs.ErrNotExist) {
			return nil, notFound(cmd.Dir) // deleted since it was found
		}
		return nil, fmt.Errorf("running git %s: %w", c.args[0], err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop(gitStopGrace)
	}
	stderr.flush()
	switch err := p.err; {
	case errors.Is(context.Cause(ctx), errGitStall):
		return nil, &gitError{command: c.args[0], exit: -1, stderr: stderr.tail(), reason: gitNetwork,
			summary: fmt.Sprintf("the remote sent nothing for %v", c.stall)}
	case ctx.Err() != nil && err != nil:
		// Wait reports "signal: terminated"; the cause says why.
		return nil, context.Cause(ctx)
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return kept.Bytes(), nil
	case cmd.ProcessState.Success():
		// Git succeeded; copying its output failed.
		return nil, fmt.Errorf("reading the output of git %s: %w", c.args[0], err)
	case kept.full:
		return nil, fmt.Errorf("running git %s: %w", c.args[0], errGitOutput)
	default:
		text := stderr.tail()
		return nil, &gitError{command: c.args[0], exit: cmd.ProcessState.ExitCode(), stderr: text, reason: classifyGit(text), summary: summarizeGit(text)}
	}
}

// sshQuote quotes s as one file name in an ssh option that takes several:
// ssh_config(5) requires double quotes, and %% for a percent sign where tokens
// are expanded.
func sshQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}
