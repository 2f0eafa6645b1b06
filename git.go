package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// This file is the only one that starts git. The environment is built from
// empty: an inherited GIT_DIR shows another repository, GIT_EXTERNAL_DIFF and
// GIT_CONFIG_COUNT run programs, ~/.netrc and /etc/gitconfig hold credentials.

// gitStopGrace is how long git may clean up after SIGTERM; it removes its
// temporaries within milliseconds.
const gitStopGrace = 1200 * time.Millisecond

var errGitStall = errors.New("the remote sent nothing for too long")

// gitRunner runs the system's git.
type gitRunner struct {
	path         string // absolute; "" when no git was found
	caFile       string // --ca-file or SSL_CERT_FILE; "" for the system's
	passed       []string
	globalConfig string // what commands that talk to a remote get as GIT_CONFIG_GLOBAL
	knownHosts   string // ssh host keys beside the user's own; "" without a work dir

	versionDone sync.WaitGroup // git is asked for its version while the daemon starts
	versionText string         // what it said; read it after asked
}

// version is git's, such as "2.39.5"; "" without a git that tells.
func (g *gitRunner) version() string {
	g.versionDone.Wait()
	return g.versionText
}

// newGitRunner looks for git in the PATH. Without one the runner still exists,
// and each run says what to do.
func newGitRunner(getenv func(string) string, caFile string) *gitRunner {
	g := &gitRunner{caFile: caFile, globalConfig: os.DevNull}
	if g.caFile == "" {
		g.caFile = getenv("SSL_CERT_FILE")
	}
	for _, name := range []string{
		"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", // the link's own proxies
		"SSH_AUTH_SOCK",                       // the user's keys, for ssh URLs
		"TMPDIR", "SYSTEMROOT", "TEMP", "TMP", // Windows programs do not start without the last three
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
	runner := &gitRunner{path: g.path, passed: g.passed, globalConfig: g.globalConfig} // g is being set up meanwhile
	// Ends with git, or after 10 s; version waits for it.
	g.versionDone.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if out, err := runner.run(ctx, gitCommand{args: []string{"version"}}); err == nil {
			g.versionText = strings.TrimPrefix(strings.TrimSpace(string(out)), "git version ")
		}
	})
	return g
}

// gitCommand is one run of git.
type gitCommand struct {
	args     []string // the subcommand and its arguments: never a secret
	dir      string   // working directory; "" is the temporary folder
	gitDir   string   // GIT_DIR, which also turns off discovery and git's ownership check
	workTree string   // GIT_WORK_TREE
	config   []string // further "-c" values, key=value
	env      []string // further environment, key=value

	// protocols that may be spoken, as GIT_ALLOW_PROTOCOL: "https:http:ssh" or
	// "file"; "" for a command that must not leave the machine.
	protocols string
	// redact cleans what git says; nil knows no secret but any URL's.
	redact *redactor

	stdin  io.Reader
	stdout io.Writer         // nil keeps the output and returns it, up to maxGitOutput
	line   func(line string) // gets each line of standard error, CR or LF ended, redacted
	stall  time.Duration     // ends a run that writes nothing for so long; 0 never
}

// baseConfig holds for every command: nothing in a repository's own
// configuration runs a program, changes the output or works in the background.
func baseConfig() []string {
	return []string{
		"core.fsmonitor=false",
		"core.hooksPath=" + os.DevNull,
		"core.attributesFile=" + os.DevNull,
		"core.excludesFile=",
		"core.alternateRefsCommand=",
		"core.untrackedCache=false",
		"core.quotePath=false",
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
		"HOME=" + os.DevNull, // no ~/.gitconfig, no ~/.netrc; ssh takes its home from the password database
		"XDG_CONFIG_HOME=" + os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + config,
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=", // empty, not "true": that would send empty credentials
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
		"COLUMNS=200", // git splits progress lines that are longer
	}, g.passed...)
	if g.caFile != "" {
		env = append(env, "GIT_SSL_CAINFO="+g.caFile)
	}
	if c.protocols == "" {
		env = append(env, "GIT_NO_LAZY_FETCH=1") // a partial clone must not dial for a missing blob
	}
	if c.gitDir != "" {
		env = append(env, "GIT_DIR="+c.gitDir)
	}
	if c.workTree != "" {
		env = append(env, "GIT_WORK_TREE="+c.workTree)
	}
	return append(env, c.env...) // the last of two wins
}

// run runs git and returns its standard output, unless the command streams it.
// The error is a *gitError when git said no; when ctx ended the run, it is the
// cause of that. Whatever git started is gone when run returns.
func (g *gitRunner) run(ctx context.Context, c gitCommand) ([]byte, error) {
	if g.path == "" {
		return nil, failure(codeGitFailed, "git was not found in the PATH of the daemon: install git and restart it").with("reason", gitOther)
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

	args := []string{"--no-pager"}
	for _, value := range append(baseConfig(), c.config...) {
		args = append(args, "-c", value)
	}
	cmd := exec.Command(g.path, append(args, c.args...)...)
	cmd.Env = g.environment(c)
	cmd.Dir = c.dir
	if cmd.Dir == "" {
		cmd.Dir = os.TempDir()
	}
	cmd.Stdin = c.stdin
	var kept cappedBuffer
	if c.stdout == nil {
		c.stdout = &kept
	}
	stderr := &lineWriter{each: c.line, redact: c.redact}
	cmd.Stdout = writerFunc(func(p []byte) (int, error) { alive(); return c.stdout.Write(p) })
	if file, ok := c.stdout.(*os.File); ok {
		cmd.Stdout = file // git writes to it itself; only its standard error counts for stall
	}
	cmd.Stderr = writerFunc(func(p []byte) (int, error) { alive(); return stderr.Write(p) })

	p, err := startProcess(cmd)
	if err != nil {
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
		// The kill shows as "signal: terminated"; why is what counts.
		return nil, context.Cause(ctx)
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return kept.Bytes(), nil
	case cmd.ProcessState.Success():
		// Git did its part; writing its output did not work.
		return nil, fmt.Errorf("reading the output of git %s: %w", c.args[0], err)
	case kept.full:
		return nil, fmt.Errorf("running git %s: %w", c.args[0], errGitOutput)
	default:
		text := stderr.tail()
		return nil, &gitError{command: c.args[0], exit: cmd.ProcessState.ExitCode(), stderr: text, reason: classifyGit(text), summary: summarizeGit(text)}
	}
}

// shellQuote makes s one word for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// sshQuote makes s one file name in an option of ssh that takes several:
// ssh_config(5) wants double quotes, and a doubled percent sign where there are
// tokens.
func sshQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}
