package main

import (
	"strconv"
	"strings"
)

const (
	defaultMaxConcurrent = 64
	maxMaxConcurrent     = 10_000
	minMaxMessage        = 64 << 10 // large enough for a handshake and for any error
	maxMaxMessage        = 1 << 30
	// A tree larger than this is a mistake or an attack, not source code.
	defaultMaxCloneFiles = 200_000
	defaultMaxCloneBytes = 10 << 30
)

// limitFlags holds the flags that limit a daemon. A scheduler has them too, for
// all daemons of its pool.
type limitFlags struct {
	maxMessage    size
	maxConcurrent int
	maxCloneFiles int
	maxCloneBytes size
	allowGitHosts list
}

func defaultLimits() limitFlags {
	return limitFlags{maxMessage: defaultMaxMessage, maxConcurrent: defaultMaxConcurrent, maxCloneFiles: defaultMaxCloneFiles, maxCloneBytes: defaultMaxCloneBytes}
}

func (l *limitFlags) register(f *flagSet) {
	*l = defaultLimits()
	f.Var(&l.maxMessage, "max-message", "maximum `BYTES` of a message in either direction; the server must allow the same size")
	f.IntVar(&l.maxConcurrent, "max-concurrent", l.maxConcurrent, "maximum number `N` of requests that a daemon runs at the same time; others wait")
	f.IntVar(&l.maxCloneFiles, "max-clone-files", l.maxCloneFiles, "maximum number `N` of files in a cloned tree")
	f.Var(&l.maxCloneBytes, "max-clone-bytes", "maximum `BYTES` in a cloned tree")
	f.Var(&l.allowGitHosts, "allow-git-host", "`HOSTS` from which repositories may be cloned, such as github.com or *.example.org; repeatable (default: any host)")
	f.group("Limits")
}

func (l *limitFlags) validate() error {
	for _, n := range []struct {
		name             string
		value, low, most int64
	}{
		{"max-concurrent", int64(l.maxConcurrent), 1, maxMaxConcurrent},
		{"max-message", int64(l.maxMessage), minMaxMessage, maxMaxMessage},
		{"max-clone-files", int64(l.maxCloneFiles), 1, 1 << 30},
		{"max-clone-bytes", int64(l.maxCloneBytes), 1, 1 << 62},
	} {
		if n.value < n.low || n.value > n.most {
			return usage("invalid value %d for --%s: must be %d to %d", n.value, n.name, n.low, n.most)
		}
	}
	for _, host := range l.allowGitHosts {
		if _, ok := cleanHost(strings.TrimPrefix(host, "*.")); !ok {
			return usage("invalid value %q for --allow-git-host: must be a host, without scheme and port, or *. and a domain", shownText(host))
		}
	}
	return nil
}

// args returns the flags as arguments.
func (l *limitFlags) args() []string {
	args := []string{
		"--max-message", l.maxMessage.String(), "--max-concurrent", strconv.Itoa(l.maxConcurrent),
		"--max-clone-files", strconv.Itoa(l.maxCloneFiles), "--max-clone-bytes", l.maxCloneBytes.String(),
	}
	if len(l.allowGitHosts) > 0 {
		args = append(args, "--allow-git-host", l.allowGitHosts.String())
	}
	return args
}
