package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// protocolVersion is what both sides of a link must speak.
const protocolVersion = 1

// Methods that the two ends of a link speak beside the daemon's own.
const (
	handshakeMethod = "daemon/handshake"
	heartbeatMethod = "daemon/heartbeat"
	statusMethod    = "daemon/status"
	progressMethod  = "task/progress"
	cloneMethod     = "vcs/clone"
)

const (
	defaultHeartbeatInterval = 30 * time.Second
	// handshakeTimeout bounds dialling, and the wait for the handshake or its answer.
	handshakeTimeout = 10 * time.Second
	// machineIDHeader lets a proxy hash the machine before the handshake.
	machineIDHeader = "X-C4A-Machine-Id"
	// cloudPrefix begins the machine_id of a daemon that a pool runs for a library.
	cloudPrefix = "cloud_"
	// maxMachineID bounds a machine_id, which is kept and shown.
	maxMachineID = 200
)

// handshakeParams is the daemon's first request: who it is and what it can do.
type handshakeParams struct {
	MachineID           string   `json:"machine_id" doc:"name of the machine"`
	InstanceID          string   `json:"instance_id" doc:"random for each process"`
	ProtocolVersion     int      `json:"protocol_version" doc:"1"`
	Version             string   `json:"version" doc:"of the daemon"`
	Hostname            string   `json:"hostname"`
	OS                  string   `json:"os" doc:"such as linux"`
	Arch                string   `json:"arch" doc:"such as amd64"`
	PID                 int      `json:"pid"`
	AllowedPaths        []string `json:"allowed_paths" doc:"absolute"`
	WorkDir             *string  `json:"work_dir" doc:"null without one"`
	GitVersion          string   `json:"git_version" doc:"empty without git"`
	Methods             []string `json:"methods" doc:"sorted"`
	HeartbeatIntervalMS int64    `json:"heartbeat_interval_ms"`
}

// handshakeResult is the server's answer.
type handshakeResult struct {
	Accepted            bool   `json:"accepted"`
	LibID               string `json:"lib_id,omitempty" doc:"the library bound to the machine"`
	HeartbeatIntervalMS int64  `json:"heartbeat_interval_ms,omitempty" doc:"in place of the daemon's own"`
	Reason              string `json:"reason,omitempty" doc:"of a refusal"`
}

// heartbeat is the daemon's regular sign of life.
type heartbeat struct {
	MachineID      string `json:"machine_id"`
	InstanceID     string `json:"instance_id"`
	Seq            int64  `json:"seq" doc:"rises by one"`
	UptimeSeconds  int64  `json:"uptime_seconds"`
	ActiveRequests int    `json:"active_requests"`
}

// machineStatus is the params of daemon/status, told to the server's
// subscribers.
type machineStatus struct {
	MachineID string    `json:"machine_id"`
	LibID     string    `json:"lib_id"`
	Status    string    `json:"status" enum:"online,offline"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
}

// checkMachineID holds for both ends of a link.
func checkMachineID(id string) error {
	if id == "" || len(id) > maxMachineID {
		return fmt.Errorf("must have 1 to %d bytes", maxMachineID)
	}
	for _, r := range id {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return fmt.Errorf("holds a character that cannot be printed")
		}
	}
	return nil
}

// linkPath is where a server takes daemons (REFERENCE.md).
const linkPath = "/ws/daemon"

// parseServer reads --server: a ws, wss, http or https URL, or host[:port],
// which is dialled with TLS unless the host is of this machine or network. The
// error says which part is wrong.
func parseServer(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("give the server's address, such as --server 127.0.0.1:5100 or --server wss://example.com")
	}
	u := &url.URL{Host: text}
	if strings.Contains(text, "://") {
		var err error
		if u, err = url.Parse(text); err != nil {
			return nil, errors.New("it is not a URL") // the parser's own error shows the whole text, a password too
		}
	} else if i := strings.IndexAny(text, "/?#@"); i >= 0 {
		return nil, fmt.Errorf("%q needs a scheme in front: write wss://host/path or host:port alone", text[i:i+1])
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	case "":
	default:
		return nil, fmt.Errorf("the scheme %q is none of ws, wss, http, https", u.Scheme)
	}
	switch {
	case u.User != nil:
		return nil, errors.New("it holds a user or password: give the token with --token-file or C4A_TOKEN")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("it holds a query (?…)")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, errors.New("it holds a fragment (#…)")
	}
	host, err := splitServerHost(u)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "" {
		u.Scheme = "wss"
		if isPrivateHost(host) {
			u.Scheme = "ws"
		}
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = linkPath
	}
	return u, nil
}

// splitServerHost checks host and port of u and returns the host alone.
func splitServerHost(u *url.URL) (string, error) {
	host, port := u.Host, ""
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		u.Host = "[" + host + "]" // ::1 without brackets
		return host, nil
	}
	if h, p, err := net.SplitHostPort(u.Host); err == nil {
		host, port = h, p
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return "", fmt.Errorf("the port %q is not a number from 1 to 65535", port)
		}
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	} else if strings.Contains(host, ":") {
		return "", fmt.Errorf("the host %q is not host:port", host)
	}
	if host == "" {
		return "", errors.New("the host is empty")
	}
	if strings.ContainsAny(host, " \t\r\n\\\"'<>{}|^`%,;") {
		return "", fmt.Errorf("the host %q holds a character that no host name has", host)
	}
	return host, nil
}

// isPrivateHost tells a host of this machine or its own network by its text
// alone: loopback, private, link-local and unspecified addresses, names that
// are never in the public DNS (RFC 6762, RFC 6761, ICANN's .internal) and
// single labels. It decides where a link needs no TLS by itself, and where a
// token may go over http.
func isPrivateHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()
	}
	for _, suffix := range []string{".local", ".localhost", ".internal"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return host != "" && !strings.Contains(host, ".")
}
