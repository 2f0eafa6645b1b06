package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseRemoteRefs(t *testing.T) {
	a, b := strings.Repeat("a", 40), strings.Repeat("b", 40)
	got := parseRemoteRefs("ref: refs/heads/main\tHEAD\n" + a + "\tHEAD\n" + a + "\trefs/heads/main\n" + b + "\trefs/tags/v1\n" + a + "\trefs/tags/v1^{}\n" +
		"garbage\nref: -x\tHEAD\n" + a + "\trefs/heads/-x y\n" + a + "\trefs/heads/--ok\n" + "short\trefs/heads/z\n" + a + "\tother\n")
	want := []remoteRef{{"refs/heads/main", a, ""}, {"refs/tags/v1", b, a}, {"refs/heads/--ok", a, ""}}
	if got.head != "refs/heads/main" || got.headOID != a || !slices.Equal(got.refs, want) {
		t.Errorf("got %+v, want main at %s and %+v", got, a, want)
	}
}

func FuzzParseRemoteRefs(f *testing.F) {
	f.Add("ref: refs/heads/main\tHEAD\n" + strings.Repeat("a", 40) + "\trefs/heads/main\n")
	f.Add("\t\n^{}\t^{}\n")
	f.Fuzz(func(t *testing.T, out string) {
		for _, ref := range parseRemoteRefs(out).refs {
			if !isRefName(ref.name) || !isObjectID(ref.oid) {
				t.Errorf("took %+v, want the name of a ref and an id", ref)
			}
		}
	})
}

// ssh looks for host keys in the work dir first, whatever its path holds.
func TestSSHKnownHosts(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("ssh is not installed: ", err)
	}
	workDir := filepath.Join(realTempDir(t), "we ird's $x 50%h")
	if err := os.Mkdir(workDir, 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := openAccess(nil, workDir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	g := newGitRunner(os.Getenv, "")
	if _, err := openCredentials(a, g); err != nil {
		t.Fatal(err)
	}
	env := g.environment(gitCommand{protocols: "ssh"})
	at := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "GIT_SSH_COMMAND=") })
	// As git does it: the command is a shell's, the host is an argument of its own.
	cmd := exec.Command("sh", "-c", strings.TrimPrefix(env[at], "GIT_SSH_COMMAND=")+` "$@"`, "ssh", "-G", "example.org")
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nuserknownhostsfile " + filepath.Join(workDir, ".git-daemon.known_hosts") + " "; !strings.Contains(string(out), want) {
		t.Errorf("want %q in what ssh says:\n%s", want, out)
	}
	if _, err := a.resolvePath(".git-daemon.known_hosts"); asRPCError(err).name() != codeAccessDenied {
		t.Errorf("a method may read it: %v, want %s", err, codeAccessDenied)
	}
}

// ssh to a server that takes the connection and says nothing ends with the
// stall limit, and leaves no process.
func TestCloneSSHHangs(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	w.remotes.stall = 500 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = w.try(cloneParams{URL: "ssh://git@" + l.Addr().String() + "/x"})
	if e := asRPCError(err); e.name() != codeGitFailed || e.Data["reason"] != gitNetwork {
		t.Errorf("got %v (%v), want GIT_FAILED with %s", err, e.Data, gitNetwork)
	}
	w.wantNoGit()
}

func TestCloneAllowedHosts(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	w.remotes.allowHosts = []string{"*.example.org"}
	_, err := w.try(cloneParams{URL: w.server.address("lib")})
	wantInvalid(t, err, "url")
	if n := len(w.server.requests()); n != 0 {
		t.Errorf("the host was asked %d times, want never", n)
	}
	w.remotes.allowHosts = []string{"127.0.0.1"}
	w.must(cloneParams{URL: w.server.address("lib")}, actionCloned, remote.head())
}

func TestCloneConnectionRefused(t *testing.T) {
	w := newCloneWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, err = w.try(cloneParams{URL: "http://" + address + "/x"})
	wantGitFailure(t, err, gitNetwork)
}
