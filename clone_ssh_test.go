//go:build linux || darwin

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sshWorld is a cloner, OpenSSH's server on loopback, and an agent with a key
// that the server takes.
type sshWorld struct {
	*cloneWorld
	remote  *testRepo
	url     string
	hostKey string // as a line of known_hosts
}

// newSSHWorld starts the programs in the foreground, so that each is ended by
// its own id.
func newSSHWorld(t *testing.T) *sshWorld {
	t.Helper()
	// sshd runs itself anew for each connection and wants to know where it is.
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Skip("no ssh server is installed: ", err)
	}
	dir := realTempDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"host", "user"} {
		sshTool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", in(key))
	}
	port := freePort(t)
	config := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
		port, in("host"), in("user.pub"))
	if err := os.WriteFile(in("sshd_config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(sshd, "-t", "-f", in("sshd_config")).CombinedOutput(); err != nil {
		t.Skipf("the ssh server does not work here: %v: %s", err, out)
	}
	startCommand(t, "sshd", exec.Command(sshd, "-D", "-e", "-f", in("sshd_config")), nil).says("Server listening on")

	t.Setenv("SSH_AUTH_SOCK", in("agent"))
	startCommand(t, "ssh-agent", exec.Command("ssh-agent", "-D", "-a", in("agent")), nil)
	awaitThat(t, "the agent listens", func() bool {
		_, err := os.Stat(in("agent"))
		return err == nil
	})
	w := &sshWorld{cloneWorld: newCloneWorld(t), remote: newTestRepo(t, map[string]string{"a": "1"})}
	sshTool(t, "ssh-add", "-q", in("user"))
	w.url = fmt.Sprintf("ssh://127.0.0.1:%d%s", port, w.remote.dir)
	public, err := os.ReadFile(in("host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	w.hostKey = fmt.Sprintf("[127.0.0.1]:%d %s", port, public)
	return w
}

// freePort is a port of loopback that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func sshTool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// trust writes the known_hosts of the work dir.
func (w *sshWorld) trust(lines string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.workDir, knownHostsFileName), []byte(lines), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func TestCloneSSH(t *testing.T) {
	skipShort(t, "it clones many times")
	w := newSSHWorld(t)
	w.trust(w.hostKey)
	p := cloneParams{URL: w.url}
	w.must(p, actionCloned, w.remote.head())
	w.remote.commit("second", map[string]string{"a": "2"})
	if r := w.must(p, actionUpdated, w.remote.head()); w.file(r, "a") != "2" {
		t.Errorf("a holds %q", w.file(r, "a"))
	}
	w.must(p, actionUnchanged, w.remote.head())
	_, err := w.try(cloneParams{URL: w.url + "-absent"})
	wantGitFailure(t, err, gitNotFound)
	w.wantNoGit()
}

// A host whose key nobody vouched for is not talked to.
func TestCloneSSHUnknownHost(t *testing.T) {
	w := newSSHWorld(t)
	_, err := w.try(cloneParams{URL: w.url})
	wantGitFailure(t, err, gitAuth)
	if !strings.Contains(err.Error(), knownHostsFileName) {
		t.Errorf("what to do is not said: %v", err)
	}
	host, _, _ := strings.Cut(w.hostKey, " ")
	w.trust(host + " ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJcUmF+yaVcPBYVBSYNBLfZ2MUUJbUfIcQvNoVcDgjS5\n") // another's
	_, err = w.try(cloneParams{URL: w.url})
	wantGitFailure(t, err, gitAuth)
	if !strings.Contains(err.Error(), knownHostsFileName) {
		t.Errorf("what to do is not said: %v", err)
	}
	w.wantNoGit()
}

func TestCloneSSHWithoutAKey(t *testing.T) {
	w := newSSHWorld(t)
	w.trust(w.hostKey)
	sshTool(t, "ssh-add", "-q", "-D")
	_, err := w.try(cloneParams{URL: w.url})
	wantGitFailure(t, err, gitAuth)
	w.wantNoGit()
}

// ssh does not work for a user id that the password database does not have, as
// in many containers.
func TestCloneSSHWithoutPasswdEntry(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip("setpriv is not installed: ", err)
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("ssh is not installed: ", err)
	}
	dir := realTempDir(t)
	writeProgram(t, filepath.Join(dir, "ssh"), "exec "+setpriv+" --reuid 54321 --clear-groups "+ssh+` "$@"`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	w := newCloneWorld(t)
	url := "ssh://git@127.0.0.1:1/x"
	_, err = w.try(cloneParams{URL: url})
	_, err2 := newGitReader(w.cfg.git, w.cfg.access, w.remotes, w.cfg.log).listRefs(t.Context(), refsParams{URL: &url})
	for _, err := range []error{err, err2} {
		wantGitFailure(t, err, gitOther)
		if err != nil && !strings.Contains(err.Error(), "/etc/passwd") {
			t.Errorf("error is %v, want advice about /etc/passwd", err)
		}
	}
}
