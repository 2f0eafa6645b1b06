//go:build linux || darwin

package main

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	p := &program{getenv: func(string) string { return "" }}
	known := p.knownVariables()
	for name, want := range map[string]string{
		"C4A_SERVR": "C4A_SERVER", "C4A_WORKDIR": "C4A_WORK_DIR", "C4A_MAX_DEAMONS": "C4A_MAX_DAEMONS", "C4A_TOKENS": "C4A_TOKEN", "C4A_LOGLEVEL": "C4A_LOG_LEVEL",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("nearest to %s: got %s, want %s", name, got, want)
		}
	}
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"abc", "abc", 0}, {"ab", "ba", 2}} {
		if got := editDistance(test.a, test.b); got != test.want {
			t.Errorf("from %q to %q: got %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestServiceVariables(t *testing.T) {
	for _, test := range []struct {
		name, value string
		want        bool
	}{
		{"C4A_PORT", "tcp://10.0.0.1:5110", true},
		{"C4A_PORT", "udp://10.0.0.1:5110", true},
		{"C4A_PORT", "5110", false},
		{"C4A_PORT", "", false},
		{"C4A_SERVICE_HOST", "10.0.0.1", true},
		{"C4A_SERVICE_PORT", "5110", true},
		{"C4A_SERVICE_PORT_HTTP", "5110", true},
		{"C4A_PORT_5110_TCP", "tcp://10.0.0.1:5110", true},
		{"C4A_PORT_5110_TCP_PROTO", "tcp", true},
		{"C4A_PORT_5110_TCP_PORT", "5110", true},
		{"C4A_PORT_5110_TCP_ADDR", "10.0.0.1", true},
		{"C4A_SCHEDULER_PORT", "tcp://10.0.0.1:5110", true},
		{"C4A_SCHEDULER_SERVICE_HOST", "10.0.0.1", true},
		{"C4A_SERVER", "tcp://10.0.0.1:5110", false},
		{"C4A_PORT_X", "5110", false},
	} {
		if got := isServiceVariable(test.name, test.value); got != test.want {
			t.Errorf("%s=%s: got %v, want %v", test.name, test.value, got, test.want)
		}
	}
}

// TestVariablesOfKubernetes: a Service named c4a does not keep a program from
// starting, and its variables make one line.
func TestVariablesOfKubernetes(t *testing.T) {
	t.Parallel()
	service := []string{
		"C4A_PORT=tcp://10.0.0.1:5110", "C4A_SERVICE_HOST=10.0.0.1", "C4A_SERVICE_PORT=5110", "C4A_PORT_5110_TCP=tcp://10.0.0.1:5110",
		"C4A_PORT_5110_TCP_PROTO=tcp", "C4A_PORT_5110_TCP_PORT=5110", "C4A_PORT_5110_TCP_ADDR=10.0.0.1", "C4A_VERSION=1.2.3", "C4A_BIN_DIR=/x",
	}
	p, _ := startSchedulerProcess(t, service)
	log := p.stderr.String()
	if strings.Count(log, "Kubernetes Services were ignored") != 1 || strings.Contains(log, "level=WARN") || !strings.Contains(log, "C4A_PORT,") {
		t.Errorf("got the log\n%s, want one line about Kubernetes and no warning", log)
	}
	d := start(t, daemonName, service, "--server", "127.0.0.1:1")
	d.says("trying again")
	if strings.Count(d.stderr.String(), "Kubernetes Services were ignored") != 1 {
		t.Errorf("got the log\n%s, want one line about Kubernetes", d.stderr)
	}
}

// TestUnknownVariables: a variable that nothing reads is warned of.
func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	env := []string{
		"C4A_SERVR=x", "c4a_log_level=debug", "C4A_CHECK=true", "C4A_HELP=1", "C4A_MAX_DAEMONS=3", "C4A_URL=http://127.0.0.1:1", "C4A_EMPTY=",
	}
	for _, name := range []string{daemonName, schedulerName} {
		args := []string{"--server", "127.0.0.1:1"}
		if name == schedulerName {
			args = append(args, "--port", "0", "--workspace", realTempDir(t))
		}
		p := start(t, name, env, args...)
		for _, want := range []string{
			"variable=C4A_SERVR nearest=C4A_SERVER", "variable=c4a_log_level nearest=C4A_LOG_LEVEL",
			"flag only\" variable=C4A_CHECK", "flag only\" variable=C4A_HELP",
		} {
			p.says(want)
		}
		if name == daemonName {
			p.says("trying again")
		} else {
			p.says("msg=listening")
		}
		if got := strings.Count(p.stderr.String(), "variable="); got != 4 {
			t.Errorf("%s: got %d warnings, want 4:\n%s", name, got, p.stderr)
		}
	}
}

// TestTokenVariable: a token in a variable is read like one in a file.
func TestTokenVariable(t *testing.T) {
	for _, test := range []struct{ value, want, says string }{
		{"t0ken", "t0ken", ""}, {"t0ken\n", "t0ken", ""}, {"t0ken\r\n", "t0ken", ""}, {"  t0ken \nsecond line\n", "t0ken", ""}, {"", "", ""},
		{"\n", "", "is empty"}, {"a b\n", "", "contains a space"}, {"caf\xc3\xa9", "", "non-ASCII"},
	} {
		p := &program{getenv: func(string) string { return test.value }}
		got, err := p.readSecret("token-file", "", "C4A_TOKEN")
		if string(got) != test.want || (err == nil) != (test.says == "") || err != nil && (!strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "C4A_TOKEN")) {
			t.Errorf("%q: got %q and %v, want %q and an error with %q", test.value, string(got), err, test.want, test.says)
		}
	}
}

// linkLocal returns a link-local address of this machine with its zone.
func linkLocal(t *testing.T) string {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range addresses {
			if n, ok := address.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
				return n.IP.String() + "%" + i.Name
			}
		}
	}
	t.Skip("this machine has no link-local IPv6 address")
	return ""
}

// TestZoneOfAnAddress: an IPv6 address with a zone is accepted wherever a program
// takes an address.
func TestZoneOfAnAddress(t *testing.T) {
	t.Parallel()
	host := linkLocal(t)
	port := strconv.Itoa(freePort(t))
	token := []string{"C4A_API_TOKEN=api", "C4A_DAEMON_TOKEN=daemon", "C4A_TOKEN=daemon"}
	listen := []string{"--host", host, "--port", port, "--min-free-disk", "0"}
	scheduler := start(t, schedulerName, token, append(listen, "--workspace", realTempDir(t))...)
	scheduler.says("msg=listening")
	for i, address := range []string{"[" + host + "]:" + port, "ws://[" + host + "]:" + port} {
		start(t, daemonName, token, "--server", address, "--machine-id", "m"+strconv.Itoa(i)).says("msg=connected")
	}
	for _, args := range [][]string{
		append(listen, "--healthcheck"),
		{"call", "--host", host, "--port", port, "demo", "config/get"},
		{"call", "--host", "[" + host + "]", "--port", port, "demo", "config/get"},
		{"call", "--url", "http://[" + host + "]:" + port, "demo", "config/get"},
	} {
		if p := start(t, schedulerName, token, args...); p.exit() != exitStopped {
			t.Errorf("%q: got %s, want success", args, p.stderr)
		}
	}
}
