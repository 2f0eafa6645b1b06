package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// checkScheduler tests what a scheduler with this configuration needs, and prints a line
// for each: its address, workspace, allowed paths, temporary files, git, the bindings of
// libraries, the program that it runs as the daemon and, with --server, that server. It changes nothing.
func (p *program) checkScheduler(cfg *schedulerConfig) error {
	list := &checklist{w: p.stdout}
	detail, err := p.checkListen(cfg)
	list.report("address", err, detail)
	workspace, err := filepath.Abs(cfg.workspace)
	if err == nil {
		err = checkWritable(workspace)
	}
	list.report("workspace", err, workspace)
	list.note(checkFreeDisk(cfg))
	for _, dir := range cfg.allow {
		list.report("path", checkReadable(dir), dir)
	}
	temp := &tempDirs{}
	if err := temp.probe(); err != nil {
		list.note(fmt.Errorf("temporary files: %w: the daemons put them into their work dirs", err))
	} else {
		list.report("temporary files", nil, temp.dir())
	}
	git := newGitRunner(p.getenv, "")
	list.report("git", checkGit(git.version()), git.version())
	list.note(checkSSH())
	list.note(checkAuthorities())
	list.certificate("certificate of --client-cert", cfg.clientPair)
	if cfg.tls != nil {
		list.certificate("certificate of --tls-cert", cfg.tls.pair)
	}
	if cfg.server == nil {
		detail, err := checkBindings(cfg.bindings, filepath.Join(workspace, librariesFile))
		if err != nil || detail != "" {
			list.report("bindings", err, detail)
		}
	}
	version, err := checkDaemonBin(cfg, p.environ())
	list.report("daemon program", err, version)
	if cfg.server != nil {
		client, err := newLinkClient(cfg.caFile, cfg.clientPair)
		if err != nil {
			return err
		}
		c := &connector{
			server: cfg.server, client: client, token: cfg.serverToken, maxMessage: int(cfg.maxMessage), times: p.times,
			handshake: handshakeParams{Version: programVersion()}, log: cfg.log,
		}
		list.report("server", c.try(), cfg.server.String())
		list.clock(c.serverTime, time.Now())
	}
	return list.outcome()
}

// checkBindings reads the file of the bindings: the shared one of --bindings, or own
// without one. It returns what it found, "" for an own file that is not there yet.
func checkBindings(shared, own string) (string, error) {
	path := cmp.Or(shared, own)
	l := &libraries{file: bindingsFile{path: path, busy: make(chan struct{}, 1)}}
	l.apply(nil, true)
	err := l.exclusive(context.Background(), l.read)
	switch {
	case err == nil:
		return fmt.Sprintf("%s, %d libraries", path, len(l.machine)), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s: %w: repair or remove it", path, err)
	case shared == "":
		return "", nil
	}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("%w: --bindings must be in a directory that exists", err)
	}
	return path + " (it will be made)", checkWritable(dir)
}

// checkListen returns where a scheduler would listen, or listens already.
func (p *program) checkListen(cfg *schedulerConfig) (string, error) {
	if path, ok := strings.CutPrefix(cfg.host, unixPrefix); ok {
		if p.healthcheck(cfg) == nil {
			return cfg.host + " (a scheduler is running there)", nil
		}
		return cfg.host, checkWritable(filepath.Dir(path))
	}
	address := net.JoinHostPort(cfg.host, strconv.Itoa(cfg.port))
	l, err := net.Listen("tcp", address)
	if err == nil {
		return address, l.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) && p.healthcheck(cfg) == nil {
		return address + " (a scheduler is running there)", nil
	}
	return "", listenError(err)
}

// checkFreeDisk returns an error if so little of the workspace's disk is free
// that no clone would start.
func checkFreeDisk(cfg *schedulerConfig) error {
	dir := cfg.workspace
	disk, err := statDisk(dir)
	for errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		disk, err = statDisk(dir)
	}
	if err != nil {
		return err
	}
	if free := disk.freePercent(); free < cfg.minFreeDisk {
		return fmt.Errorf("%.1f %% of the disk of %s is free, less than --min-free-disk %v: no clone would start", free, dir, cfg.minFreeDisk)
	}
	return nil
}

// checkDaemonBin returns what the program that runs as the daemon prints for
// --version.
func checkDaemonBin(cfg *schedulerConfig, environ []string) (string, error) {
	bin := cfg.daemonBin
	if bin == "" {
		self, err := openExecutable(slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			return "", err
		}
		defer self.close()
		if bin, err = self.program(); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), cfg.spawnTimeout)
	defer cancel()
	return daemonVersion(ctx, bin, environ)
}
