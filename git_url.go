package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxURLLength bounds a remote URL; git hosts accept far less.
	maxURLLength = 4 << 10
	// maxRefLength bounds a ref name from the wire. A clone keeps its refs in one
	// file (gitrepository-layout(5), packed-refs), so a name may be longer than a
	// file name.
	maxRefLength = 1024
	// maxNameSegments and maxSegmentLength bound a repository's name: host, two
	// groups and a project, each short enough for a file name with a suffix.
	maxNameSegments  = 4
	maxSegmentLength = 100
)

// remoteURL is the validated address of a repository, without its credentials.
// It accepts the schemes of git-clone(1), GIT URLS, except git://, which has no
// authentication, and ext::, which runs programs.
type remoteURL struct {
	scheme string // https, http, ssh or file
	host   string // lower case, IPv6 without brackets; "" for file
	port   string // "" for the default of the scheme
	path   string // decoded; starts with a slash unless scp; absolute for file
	raw    string // percent-encoded path as given; only with a scheme and a host
	login  string // ssh user: part of the address, not a secret
	scp    bool   // written as user@host:path, with a path relative to the user's home

	username      string // credentials of http and https; both secret, because either can be a token
	password      secret
	userinfo      bool // the URL had credentials
	passwordGiven bool // also as an empty one, as in https://TOKEN:@host
}

// parseRemoteURL parses a URL from the wire: https, http, ssh, user@host:path,
// file:// or an absolute local path. An error is -32602 for the parameter url
// and never repeats the text, which may contain a token.
func parseRemoteURL(text string) (remoteURL, error) {
	u, err := splitRemoteURL(text)
	if err == nil && len(u.String()) > maxURLLength {
		err = invalidParam("url", "is longer than %d bytes when it is percent-encoded", maxURLLength)
	}
	if err != nil {
		return remoteURL{}, err
	}
	return u, nil
}

// splitRemoteURL parses a URL according to its kind.
func splitRemoteURL(text string) (remoteURL, error) {
	switch {
	case text == "":
		return remoteURL{}, invalidParam("url", "must not be empty")
	case len(text) > maxURLLength:
		return remoteURL{}, invalidParam("url", "is longer than %d bytes", maxURLLength)
	case text[0] == '-':
		return remoteURL{}, invalidParam("url", "must not start with a dash")
	case strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return remoteURL{}, invalidParam("url", "must not contain a control character")
	case text[0] == '/' || filepath.IsAbs(text):
		return parseLocalPath(text)
	}
	scheme, _, ok := strings.Cut(text, "://")
	if !ok {
		return parseSCPLike(text)
	}
	if strings.EqualFold(scheme, "file") {
		return parseFileURL(text)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r <= 0x20 || r >= 0x7f || strings.ContainsRune("\\\"'`<>^{|}", r) }); i >= 0 {
		return remoteURL{}, invalidParam("url", "byte %d must be percent-encoded", i+1)
	}
	parsed, err := url.Parse(text)
	if err != nil { // err repeats the URL
		return remoteURL{}, invalidParam("url", "is not a valid URL: write it as https://host/path")
	}
	return fromURL(parsed)
}

// fromURL checks the parts of a URL with a host.
func fromURL(parsed *url.URL) (remoteURL, error) {
	u := remoteURL{scheme: strings.ToLower(parsed.Scheme), port: parsed.Port()}
	switch {
	case u.scheme != "https" && u.scheme != "http" && u.scheme != "ssh":
		return remoteURL{}, invalidParam("url", "must be an https, http, ssh or file URL, or a local path")
	case parsed.Opaque != "":
		return remoteURL{}, invalidParam("url", "is not a valid URL: write it as https://host/path")
	case parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "":
		return remoteURL{}, invalidParam("url", "must not have a query or a fragment")
	}
	var ok bool
	if u.host, ok = cleanHost(parsed.Hostname()); !ok {
		return remoteURL{}, invalidParam("url", "must have a host name or an IP address as its host")
	}
	if u.port, ok = cleanPort(u.scheme, u.port); !ok || strings.HasSuffix(parsed.Host, ":") {
		return remoteURL{}, invalidParam("url", "must have a port from 1 to 65535")
	}
	u.path, u.raw = parsed.Path, parsed.EscapedPath()
	if err := checkURLPath(u.path); err != nil {
		return remoteURL{}, err
	}
	return u, u.setUserinfo(parsed.User)
}

// setUserinfo stores the credentials of the URL.
func (u *remoteURL) setUserinfo(info *url.Userinfo) error {
	if info == nil {
		return nil
	}
	password, hasPassword := info.Password()
	if hasControl(info.Username()) || hasControl(password) {
		return invalidParam("url", "must not have credentials with a control character")
	}
	if u.scheme == "ssh" {
		if hasPassword {
			return invalidParam("url", "must not have a password with ssh: use a key")
		}
		u.login = info.Username()
		return checkLogin(u.login)
	}
	u.username, u.password = info.Username(), secret(password)
	u.userinfo = u.username != "" || password != ""
	u.passwordGiven = u.userinfo && hasPassword
	return nil
}

// parseSCPLike parses user@host:path. The user is required, because host:path
// is easily a Windows drive or a typing error.
func parseSCPLike(text string) (remoteURL, error) {
	login, rest, ok := strings.Cut(text, "@")
	host, tail, colon := strings.Cut(rest, ":")
	if bracketed, ok := strings.CutPrefix(rest, "["); ok {
		host, tail, colon = strings.Cut(bracketed, "]:")
	}
	if !ok || !colon || strings.Contains(login, ":") || strings.Contains(host, "/") {
		return remoteURL{}, invalidParam("url", "must be https://…, http://…, ssh://…, user@host:path, file://… or an absolute path")
	}
	if err := checkLogin(login); err != nil {
		return remoteURL{}, err
	}
	u := remoteURL{scheme: "ssh", login: login, path: tail, scp: true}
	if u.host, ok = cleanHost(host); !ok {
		return remoteURL{}, invalidParam("url", "must have a host name or an IP address as its host")
	}
	if strings.HasPrefix(tail, ":") || strings.ContainsAny(tail, "\\\"'`<>^{|} ") {
		return remoteURL{}, invalidParam("url", "must not have quotes, spaces or other special characters in its path")
	}
	return u, checkURLPath("/" + strings.TrimPrefix(tail, "/"))
}

// parseFileURL parses file:///path. It rejects a host other than localhost.
func parseFileURL(text string) (remoteURL, error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
		return remoteURL{}, invalidParam("url", "is not a valid file URL: write it as file:///path, with %%20 for a space")
	}
	if parsed.Host != "" && !strings.EqualFold(parsed.Host, "localhost") {
		return remoteURL{}, invalidParam("url", "must not name another host in a file URL: write it as file:///path")
	}
	if hasControl(parsed.Path) {
		return remoteURL{}, invalidParam("url", "must not contain a control character")
	}
	local := filepath.FromSlash(parsed.Path)
	if trimmed := strings.TrimPrefix(parsed.Path, "/"); filepath.VolumeName(trimmed) != "" {
		local = filepath.FromSlash(trimmed) // file:///C:/x
	}
	if !filepath.IsAbs(local) {
		return remoteURL{}, invalidParam("url", "must have an absolute path in a file URL")
	}
	return parseLocalPath(local)
}

func parseLocalPath(local string) (remoteURL, error) {
	if !filepath.IsAbs(local) {
		return remoteURL{}, invalidParam("url", "must be an absolute path if it is a local one")
	}
	return remoteURL{scheme: "file", path: filepath.Clean(plainPath(local))}, nil
}

// String returns the URL without credentials, as git gets it. A local path
// becomes a file URL: with a bare path git would copy objects by hard link
// without checking them, and ignore the depth.
func (u remoteURL) String() string {
	host := u.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	switch {
	case u.scheme == "file":
		slashed := filepath.ToSlash(u.path)
		if !strings.HasPrefix(slashed, "/") {
			drive := filepath.VolumeName(slashed) // keeps its colon, as git writes it
			return "file:///" + drive + escapePath(slashed[len(drive):])
		}
		return "file://" + escapePath(slashed)
	case u.scp:
		return u.login + "@" + host + ":" + u.path
	}
	if u.port != "" {
		host += ":" + u.port
	}
	if u.login != "" {
		host = u.login + "@" + host
	}
	return u.scheme + "://" + host + u.raw
}

// escapePath percent-encodes each segment of a path.
func escapePath(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i] = percentEncode(s)
	}
	return strings.Join(segments, "/")
}

// key returns the same string for URLs of the same repository and different
// strings for different ones. It ignores credentials, a trailing slash or .git,
// the case of scheme and host, a default port, and which characters are
// percent-encoded, except for an encoded slash. The user of ssh belongs to the
// address: a path that is not absolute starts at the user's home.
func (u remoteURL) key() string {
	segments := u.segments()
	if last := len(segments) - 1; last >= 0 && segments[last] == ".git" {
		segments = segments[:last]
	} else if last >= 0 {
		segments[last] = strings.TrimSuffix(segments[last], ".git")
	}
	if u.scp && u.path[0] != '/' && u.path[0] != '~' {
		segments = append([]string{"~"}, segments...) // as in ssh://host/~/path
	}
	for n := range segments {
		if u.scheme == "file" {
			segments[n] = sameCase(segments[n])
		}
		segments[n] = percentEncode(segments[n])
	}
	login := ""
	if u.login != "" {
		login = u.login + "@"
	}
	return u.scheme + "://" + login + u.credentialHost() + "/" + strings.Join(segments, "/")
}

// segments returns the parts of the path between slashes, decoded and without
// empty parts at both ends.
func (u remoteURL) segments() []string {
	text := filepath.ToSlash(u.path)
	if u.raw != "" {
		text = u.raw // only here does an encoded slash differ from a separator
	}
	segments := strings.Split(strings.Trim(text, "/"), "/")
	for n, s := range segments {
		if decoded, err := url.PathUnescape(s); err == nil && u.raw != "" {
			segments[n] = decoded
		}
	}
	return segments
}

// credentialHost returns host[:port], the form under which credentials are
// stored.
func (u remoteURL) credentialHost() string {
	switch {
	case u.port != "" && strings.Contains(u.host, ":"):
		return "[" + u.host + "]:" + u.port
	case u.port != "":
		return u.host + ":" + u.port
	case strings.Contains(u.host, ":"):
		return "[" + u.host + "]"
	}
	return u.host
}

// defaultName returns the last segment of the path without .git. The result may
// violate checkRepoName. A segment with an encoded slash stays encoded, because
// the slash does not separate directories.
func (u remoteURL) defaultName() string {
	segments := u.segments()
	if n := len(segments); n > 1 && segments[n-1] == ".git" {
		segments = segments[:n-1]
	}
	name := strings.TrimSuffix(segments[len(segments)-1], ".git")
	if strings.Contains(name, "/") {
		return percentEncode(name)
	}
	return name
}

// checkURLPath returns an error unless the path names something below the root
// of the host.
func checkURLPath(p string) error {
	switch {
	case strings.Trim(p, "/") == "":
		return invalidParam("url", "must have a path to a repository")
	case strings.HasPrefix(strings.TrimLeft(p, "/"), "-"):
		return invalidParam("url", "must not have a path that starts with a dash")
	case hasControl(p):
		return invalidParam("url", "must not have a control character in its path")
	}
	for s := range strings.SplitSeq(p, "/") {
		if s == "." || s == ".." {
			return invalidParam("url", "must not have . or .. in its path")
		}
	}
	return nil
}

//
//go:noinline // each copy counts in the size of a release
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

// checkLogin returns an error for an ssh user name that ssh could take for an
// option or a command.
func checkLogin(login string) error {
	if login == "" || len(login) > maxSegmentLength || login[0] == '-' || strings.ContainsFunc(login, func(r rune) bool { return !isNameRune(r) }) {
		return invalidParam("url", "must have an ssh user of letters, digits, dots, dashes and underscores only")
	}
	return nil
}

// cleanHost returns the host in lower case without a trailing dot, and false if
// it is neither a host name nor an IP address.
func cleanHost(host string) (string, bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), ip.Zone() == ""
	}
	if host == "" || len(host) > 253 { // RFC 1035, 2.3.4
		return "", false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.ContainsFunc(label, func(r rune) bool { return !isNameRune(r) }) {
			return "", false
		}
	}
	return host, true
}

// cleanPort returns the port without leading zeros, or "" if it is the default
// of the scheme.
func cleanPort(scheme, port string) (string, bool) {
	if port == "" {
		return "", true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", false
	}
	if port = strconv.FormatUint(n, 10); port == defaultPorts()[scheme] {
		return "", true
	}
	return port, true
}

func defaultPorts() map[string]string {
	return map[string]string{"https": "443", "http": "80", "ssh": "22"}
}

// checkHostPattern checks one value of --allow-git-host: a host name, an IP
// address, or *.example.org for every host below it.
func checkHostPattern(pattern string) error {
	if _, ok := cleanHost(strings.TrimPrefix(pattern, "*.")); !ok {
		return fmt.Errorf("--allow-git-host %q: must be a host name, an IP address or *.example.org, without a port", pattern)
	}
	return nil
}

// hostAllowed reports whether a host of a remoteURL matches one of the
// patterns. Without patterns every host is allowed.
func hostAllowed(patterns []string, host string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		if domain, ok := strings.CutPrefix(pattern, "*."); ok {
			domain, _ = cleanHost(domain)
			return domain != "" && strings.HasSuffix(host, "."+domain)
		}
		exact, ok := cleanHost(pattern)
		return ok && exact == host
	})
}

// splitHostPort parses host[:port] as given for a credential.
func splitHostPort(scheme, text string) (host, port string, ok bool) {
	if strings.ContainsAny(text, "/@?#\\ ") {
		return "", "", false
	}
	parsed, err := url.Parse(scheme + "://" + text)
	if err != nil || strings.HasSuffix(text, ":") {
		return "", "", false
	}
	if host, ok = cleanHost(parsed.Hostname()); !ok {
		return "", "", false
	}
	port, ok = cleanPort(scheme, parsed.Port())
	return host, port, ok
}
