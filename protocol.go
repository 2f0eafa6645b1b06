package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// protocolVersion is the version of the protocol; both ends of a link must use
// the same.
const protocolVersion = 1

// Names of the methods and notifications of the protocol itself, and of
// vcs/clone, which the scheduler treats specially.
const (
	handshakeMethod = "daemon/handshake"
	heartbeatMethod = "daemon/heartbeat"
	statusMethod    = "daemon/status"
	progressMethod  = "task/progress"
	cloneMethod     = "vcs/clone"
)

const (
	defaultHeartbeatInterval = 30 * time.Second
	// handshakeTimeout bounds the dial, and the wait for the handshake or its response.
	handshakeTimeout = 10 * time.Second
	// machineIDHeader lets a proxy choose a server by machine id before the handshake.
	machineIDHeader = "X-C4A-Machine-Id"
	// cloudPrefix is the prefix of the machine_id of a daemon that a pool runs.
	cloudPrefix = "cloud_"
	// maxMachineID bounds a machine_id in bytes: the hub keeps and shows it.
	maxMachineID = 255
	// maxHandshake bounds every message before the handshake is accepted, and with
	// it the handshake, which the server keeps and shows. Three hundred allowed
	// paths of a usual length fit.
	maxHandshake = 64 << 10
	// maxHandshakeText and maxHandshakePath bound the other texts of a handshake. No
	// system has longer host names, and Linux has no longer paths.
	maxHandshakeText = 255
	maxHandshakePath = 4096
)

// handshakeParams is the daemon's first request: its identity and its methods.
type handshakeParams struct {
	MachineID           string   `json:"machine_id" doc:"machine id, unique on the server"`
	InstanceID          string   `json:"instance_id" doc:"random id of the daemon process"`
	ProtocolVersion     int      `json:"protocol_version" doc:"always 1"`
	Version             string   `json:"version" doc:"daemon version"`
	Hostname            string   `json:"hostname"`
	OS                  string   `json:"os" doc:"operating system, such as linux"`
	Arch                string   `json:"arch" doc:"processor architecture, such as amd64"`
	PID                 int      `json:"pid"`
	AllowedPaths        []string `json:"allowed_paths" doc:"absolute paths of the allowed directories"`
	WorkDir             *string  `json:"work_dir" doc:"absolute path; null without a work dir"`
	GitVersion          string   `json:"git_version" doc:"empty if git is not installed"`
	Methods             []string `json:"methods" doc:"names of all methods, sorted"`
	HeartbeatIntervalMS int64    `json:"heartbeat_interval_ms" doc:"interval at which the daemon sends heartbeats"`
}

// check returns an error if a text of the handshake is missing or too long. Both
// ends of a link use it. The error does not contain the text.
func (p *handshakeParams) check() error {
	if err := checkMachineID(p.MachineID); err != nil {
		return fmt.Errorf("machine_id: %w", err)
	}
	if p.InstanceID == "" {
		return errors.New("instance_id is missing")
	}
	texts := map[string][]string{
		"instance_id": {p.InstanceID}, "version": {p.Version}, "hostname": {p.Hostname}, "os": {p.OS}, "arch": {p.Arch},
		"git_version": {p.GitVersion}, "methods": p.Methods,
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if slices.ContainsFunc(texts[name], func(text string) bool { return len(text) > maxHandshakeText }) {
			return fmt.Errorf("%s: must have at most %d bytes", name, maxHandshakeText)
		}
	}
	if slices.ContainsFunc(append(p.AllowedPaths, valueOr(p.WorkDir, "")), func(path string) bool { return len(path) > maxHandshakePath }) {
		return fmt.Errorf("allowed_paths and work_dir: a path must have at most %d bytes", maxHandshakePath)
	}
	return nil
}

// bytes estimates the memory that the handshake takes.
func (p *handshakeParams) bytes() int {
	n := 512 // the struct and the short texts
	for _, text := range slices.Concat(p.AllowedPaths, p.Methods) {
		n += len(text) + 16
	}
	return n
}

// checkSize returns an error if the handshake does not fit in the first message
// of a link.
func (p *handshakeParams) checkSize() error {
	message, err := encodeCall(json.RawMessage("1"), handshakeMethod, p)
	if err != nil {
		return fmt.Errorf("encoding the handshake: %w", err)
	}
	if len(message) > maxHandshake {
		return fmt.Errorf("the handshake would have %d bytes, and a server accepts %d: give fewer or shorter --allow and --handler", len(message), maxHandshake)
	}
	return nil
}

// handshakeResult is the server's response to the handshake.
type handshakeResult struct {
	Accepted            bool   `json:"accepted"`
	LibID               string `json:"lib_id,omitempty" doc:"library that is bound to this machine"`
	HeartbeatIntervalMS int64  `json:"heartbeat_interval_ms,omitempty" doc:"overrides the interval of the daemon"`
	Reason              string `json:"reason,omitempty" doc:"why the handshake was refused"`
}

// heartbeat is the params of daemon/heartbeat.
type heartbeat struct {
	MachineID      string `json:"machine_id"`
	InstanceID     string `json:"instance_id"`
	Seq            int64  `json:"seq" doc:"number of this heartbeat in the session, from 1"`
	UptimeSeconds  int64  `json:"uptime_seconds" doc:"seconds since the daemon started"`
	ActiveRequests int    `json:"active_requests" doc:"number of running requests"`
	Stuck          int    `json:"stuck" doc:"number of calls that a file system blocks"`
	Waiting        int    `json:"waiting" doc:"number of requests that wait for a place"`
	DroppedLines   int64  `json:"dropped_lines" doc:"number of log lines that were dropped since the start, because nobody read those before"`
	MemoryBytes    int64  `json:"memory_bytes" doc:"resident memory of the process; 0 where the system does not say"`
}

// scan decodes params as daemons send them, without the reflection of decodeParams,
// which reads all others: it returns false for those. It leaves out the ids, which
// the link says already.
func (b *heartbeat) scan(params []byte) bool {
	s := jsonScanner{params}
	ok := s.byteAt(0) == '{'
	end := s.object(0, 0, func(name, value []byte) {
		if string(name) == "machine_id" || string(name) == "instance_id" {
			ok = ok && value[0] == '"'
			return
		}
		n, err := strconv.ParseInt(string(value), 10, 64)
		switch string(name) {
		case "seq":
			b.Seq = n
		case "uptime_seconds":
			b.UptimeSeconds = n
		case "active_requests":
			b.ActiveRequests = int(n)
		case "stuck":
			b.Stuck = int(n)
		case "waiting":
			b.Waiting = int(n)
		case "dropped_lines":
			b.DroppedLines = n
		case "memory_bytes":
			b.MemoryBytes = n
		}
		ok = ok && err == nil && int64(int(n)) == n
	})
	return ok && end == len(params)
}

// machineStatus is the params of daemon/status, which the server sends to its
// event subscribers.
type machineStatus struct {
	MachineID string    `json:"machine_id"`
	LibID     string    `json:"lib_id"`
	Status    string    `json:"status" enum:"online,offline"`
	Reason    string    `json:"reason"`
	Token     string    `json:"token,omitempty" doc:"name of the daemon's token, if it is one of the tokens file"`
	At        time.Time `json:"at"`
}

// checkMachineID returns an error unless id is 1 to maxMachineID bytes of UTF-8
// that can be the last part of a path in a URL. Both ends of a link use it.
func checkMachineID(id string) error {
	switch {
	case id == "" || len(id) > maxMachineID:
		return fmt.Errorf("must have 1 to %d bytes", maxMachineID)
	case !utf8.ValidString(id) || strings.ContainsRune(id, unicode.ReplacementChar):
		return errors.New("must be UTF-8")
	case strings.ContainsFunc(id, unicode.IsControl) || strings.ContainsAny(id, "\u2028\u2029"):
		return errors.New("must not contain control characters")
	case strings.Contains(id, "/") || id == "." || id == "..":
		return errors.New("must not contain a slash, or be a dot or two")
	case strings.TrimSpace(id) != id:
		return errors.New("must not begin or end with a space")
	}
	return nil
}

// linkPath is the path at which a server accepts daemons.
const linkPath = "/ws/daemon"

// parseServer parses --server: a ws, wss, http or https URL, or host[:port].
// Without a scheme it chooses wss, or ws if the host is private
// (isPrivateHost). The error names the invalid part and does not contain a
// password.
func parseServer(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("set the address of the server, such as --server 127.0.0.1:5100 or --server wss://example.com")
	}
	u := &url.URL{Host: strings.Replace(text, "%25", "%", 1)} // a zone, escaped as in a URL
	if strings.Contains(text, "://") {
		var err error
		if u, err = parseURL(text); err != nil {
			return nil, errors.New("not a URL") // the error of url.Parse contains the text, and so a password
		}
	} else if i := strings.IndexAny(text, "/?#@"); i >= 0 {
		return nil, fmt.Errorf("%q needs a scheme: write wss://host/path, or only host:port", text[i:i+1])
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	case "":
	default:
		return nil, fmt.Errorf("the scheme %q is not ws, wss, http or https", u.Scheme)
	}
	switch {
	case u.User != nil:
		return nil, errors.New("contains a user or password: set the token with --token-file or C4A_TOKEN")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("contains a query (?…)")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, errors.New("contains a fragment (#…)")
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

// isHostText reports whether text has only characters that a host name or a zone
// may have.
func isHostText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return !unicode.IsPrint(r) || unicode.IsSpace(r) || strings.ContainsRune("\\\"'<>{}[]|^`%,;", r)
	})
}

// parseURL is url.Parse that also accepts the zone of an IPv6 address as it is
// written outside of URLs: http://[fe80::1%eth0]:5110. In a URL the percent sign
// has to be escaped (RFC 6874, section 2).
func parseURL(text string) (*url.URL, error) {
	if scheme, rest, ok := strings.Cut(text, "://["); ok {
		if host, path, ok := strings.Cut(rest, "]"); ok && !strings.Contains(host, "%25") {
			text = scheme + "://[" + strings.Replace(host, "%", "%25", 1) + "]" + path
		}
	}
	return url.Parse(text)
}

// splitServerHost checks the host and port of u and returns the host.
func splitServerHost(u *url.URL) (string, error) {
	if ip, err := netip.ParseAddr(u.Host); err == nil && ip.Is6() {
		u.Host = "[" + u.Host + "]" // ::1 without brackets
	}
	host, port := u.Host, ""
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
	if ip, err := netip.ParseAddr(host); strings.HasPrefix(u.Host, "[") && (err != nil || !ip.Is6()) {
		return "", fmt.Errorf("the host %q in brackets is not an IPv6 address", host)
	} else if err == nil && ip.Zone() != "" && isHostText(ip.Zone()) {
		return host, nil // fe80::1%eth0
	}
	if !isHostText(host) {
		return "", fmt.Errorf("the host %q contains a character that is not allowed in a host name", host)
	}
	return host, nil
}

// isPrivateHost reports whether a host belongs to this machine or its own
// network, judged by its text alone: loopback, private, link-local and
// unspecified addresses, names that never appear in the public DNS (RFC 6762,
// RFC 6761 and .internal of ICANN), and names without a dot. A link to such a
// host uses no TLS by default, and a token may be sent to it over http.
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
