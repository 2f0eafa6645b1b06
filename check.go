package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// checklist prints the results of --check, a line for each, and remembers whether
// one of them is a failure.
type checklist struct {
	w      io.Writer
	failed bool
}

// report prints a failure, or what was found.
func (c *checklist) report(what string, err error, detail string) {
	if err != nil {
		c.failed = true
		fmt.Fprintf(c.w, "FAIL %s: %v\n", what, err)
		return
	}
	fmt.Fprintf(c.w, "ok   %s: %s\n", what, detail)
}

// note prints an error that is not a failure, because the program can do without.
//
//go:noinline // each copy counts in the size of a release
func (c *checklist) note(err error) {
	if err != nil {
		fmt.Fprintf(c.w, "note %v\n", err)
	}
}

// maxClockError is how far the clock may be from the server's: with more, fresh
// certificates and tokens of git hosts are not valid yet.
const maxClockError = time.Minute

// clock compares the clock with that of the server. A server that does not say its
// time proves nothing.
func (c *checklist) clock(server, now time.Time) {
	if server.IsZero() {
		return
	}
	off := now.Sub(server)
	var err error
	if off.Abs() > maxClockError {
		err = fmt.Errorf("this machine's is %s, the server's %s: set the clock, for example with timedatectl set-ntp true", now.UTC().Format(time.RFC3339), server.UTC().Format(time.RFC3339))
	}
	c.report("clock", err, "as the server's")
}

// outcome returns errPrinted after a failure.
func (c *checklist) outcome() error {
	if c.failed {
		return errPrinted
	}
	return nil
}

// certificate tests the certificate and the key of flags, if they are given.
func (c *checklist) certificate(what string, pair keyPair) {
	if pair == (keyPair{}) {
		return
	}
	cert, err := pair.load()
	if err != nil {
		c.report(what, err, "")
		return
	}
	c.report(what, checkValidity(cert.Leaf, thisMachine), fmt.Sprintf("%s, valid until %s", pair.certFile, cert.Leaf.NotAfter.UTC().Format(time.RFC3339)))
}

// minGitMajor and minGitMinor are the oldest git that is supported (docs/install.md).
const minGitMajor, minGitMinor = 2, 31

// checkGit returns an error that says what to do if there is no git, or one that
// is too old. The version is "" if git could not be run.
func checkGit(version string) error {
	if version == "" {
		if path, err := exec.LookPath("git"); err == nil {
			return fmt.Errorf("%s did not print its version: run it with the argument version to see why, and set TMPDIR if there is no /tmp", path)
		}
		return errors.New("git was not found in the PATH: install git 2.31 or newer")
	}
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errMajor := strconv.Atoi(major)
	b, errMinor := strconv.Atoi(minor)
	if errMajor != nil || errMinor != nil {
		return nil // a version of another form is not known to be too old
	}
	if a < minGitMajor || a == minGitMajor && b < minGitMinor {
		return fmt.Errorf("git %s is too old: install git %d.%d or newer", version, minGitMajor, minGitMinor)
	}
	return nil
}

// checkSSH returns an error if there is no ssh for URLs that need it.
func checkSSH() error {
	if _, err := exec.LookPath("ssh"); err != nil {
		return errors.New("ssh was not found in the PATH: install an ssh client to clone ssh:// URLs")
	}
	return nil
}

// checkAuthorities returns an error if this machine has no certificate
// authorities, so that no TLS server can be trusted.
func checkAuthorities() error {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return fmt.Errorf("reading the system's certificate authorities: %w: install ca-certificates", err)
	}
	if pool.Equal(x509.NewCertPool()) {
		return errors.New("this machine has no certificate authorities: install ca-certificates, or set --ca-file or SSL_CERT_FILE")
	}
	return nil
}

// checkReadable returns an error unless the directory can be listed.
func checkReadable(dir string) error {
	_, err := statInTime(dir)
	if err == nil {
		_, err = os.ReadDir(dir)
	}
	if err != nil {
		return fmt.Errorf("%w: let the user that runs this program read it, or leave it out of --allow", err)
	}
	return nil
}

// checkWritable returns an error unless a file can be created in dir or, if dir
// is missing, in the nearest directory above it, in which dir would be created.
func checkWritable(dir string) error {
	for {
		f, err := os.CreateTemp(dir, ".c4a-check-*")
		if err == nil {
			return errors.Join(f.Close(), os.Remove(f.Name()))
		}
		if info, statErr := os.Stat(dir); statErr == nil && !info.IsDir() {
			return fmt.Errorf("open %s: not a directory: choose another directory", dir)
		} else if statErr == nil || dir == filepath.Dir(dir) {
			return fmt.Errorf("%w: choose another directory", explainOwner(dir, err))
		} else if !errors.Is(statErr, os.ErrNotExist) {
			return explainOwner(dir, statErr)
		}
		dir = filepath.Dir(dir)
	}
}
