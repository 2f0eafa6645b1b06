package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const (
	configFileName      = secretPrefix + "config"
	credentialsFileName = secretPrefix + "credentials"
	// knownHostsFileName is the file in which the operator puts ssh host keys,
	// in the format of sshd(8), because the user of a container has no ~/.ssh.
	knownHostsFileName = secretPrefix + "known_hosts"
	// maxToken and maxUsername are far longer than what git hosts issue.
	maxToken    = 4 << 10
	maxUsername = 256
	// minLoneToken is the length from which a user name without a password is
	// taken for a token. A shorter one is a name such as "git", which must not
	// be redacted from every text. No host issues shorter tokens.
	minLoneToken = 12
	// maxCredentials bounds the file, which git reads line by line for each
	// request.
	maxCredentials = 1000
)

// credentials stores the tokens for git remotes in
// <work-dir>/.git-daemon.credentials, in the format of git-credential-store(1):
// one percent-encoded URL per line. Git reads the file itself and never changes
// it.
type credentials struct {
	path       string // "" without a work dir
	configPath string

	mu sync.Mutex // held while the file is changed; readers see the old file or the new one
}

// credential is one line of the file.
type credential struct {
	protocol, host string // host is host[:port] as remoteURL.credentialHost returns it
	path           string // without slashes around it; "" in lines that setAuth writes
	username       string // may be empty, as in https://:TOKEN@host
	token          secret
}

// openCredentials writes git's configuration into the work dir, denies every
// method access to the daemon's files there and makes the runner's network
// commands use them. Without a work dir no credentials can be stored.
func openCredentials(a *access, g *gitRunner) (*credentials, error) {
	if a.workDir == "" {
		return &credentials{}, nil
	}
	c := &credentials{
		path:       filepath.Join(a.workDir, credentialsFileName),
		configPath: filepath.Join(a.workDir, configFileName),
	}
	knownHosts := filepath.Join(a.workDir, knownHostsFileName)
	for _, path := range []string{c.path, c.configPath, knownHosts, filepath.Join(a.workDir, workLockName)} {
		a.keepSecret(path)
	}
	// A git process that was killed while storing leaves its lock file, and
	// each later command would wait a second for it.
	if err := os.Remove(c.path + ".lock"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing a stale lock: %w", err)
	}
	// They hold tokens.
	if err := errors.Join(removeTemporaries(c.path), removeTemporaries(c.configPath)); err != nil {
		return nil, err
	}
	// Keep an unchanged file: its inode is on the deny list.
	if have, err := readRegularAt(c.configPath, maxCredentialsFile); err != nil || string(have) != c.gitConfig() {
		if err := writeFileAtomic(c.configPath, []byte(c.gitConfig()), 0o600); err != nil {
			return nil, err
		}
	}
	g.globalConfig, g.knownHosts = c.configPath, knownHosts
	return c, nil
}

// gitConfig returns the text of .git-daemon.config. The path is quoted twice:
// for the shell that runs the helper, and for the file (git-config(1), SYNTAX).
// safe.directory admits repositories of other users, because the operator
// allowed their directory; git-upload-pack honors this setting only in the
// global configuration.
func (c *credentials) gitConfig() string {
	helper := "store --file " + shellQuote(c.path)
	return "[credential]\n\thelper = " + quoteConfig(helper) + "\n[safe]\n\tdirectory = *\n"
}

// maxCredentialsFile bounds each of the two files: maxCredentials lines with long
// tokens.
const maxCredentialsFile = 16 << 20

// authEntry is a stored credential in config/get, without the token.
type authEntry struct {
	Protocol string `json:"protocol" enum:"https,http"`
	Host     string `json:"host" doc:"host, with the port if it is not the default"`
	Username string `json:"username"`
}

// list returns the hosts for which a token is stored, sorted by host.
func (c *credentials) list() ([]authEntry, error) {
	lines, err := c.lines()
	if err != nil {
		return nil, err
	}
	entries := []authEntry{}
	for _, line := range lines {
		if cred, ok := parseCredential(line); ok && (cred.protocol == "https" || cred.protocol == "http") {
			entries = append(entries, authEntry{Protocol: cred.protocol, Host: cred.host, Username: cred.username})
		}
	}
	sortStableBy(entries, func(x, y authEntry) int {
		return strings.Compare(x.Host+" "+x.Protocol, y.Host+" "+y.Protocol)
	})
	return slices.Compact(entries), nil
}

// lines returns the lines of the file with their line feeds.
func (c *credentials) lines() ([]string, error) {
	if c.path == "" {
		return nil, nil
	}
	data, err := readRegularAt(c.path, maxCredentialsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the stored credentials: %w", err)
	}
	return slices.Collect(strings.Lines(string(data))), nil
}

// parseCredential parses a line as git-credential-store(1) does. ok is false for
// a line that git ignores or that fits no remote.
func parseCredential(line string) (cred credential, ok bool) {
	protocol, rest, found := strings.Cut(strings.TrimSuffix(line, "\n"), "://")
	authority, path := rest, ""
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority, path = rest[:end], strings.Trim(rest[end:], "/")
	}
	info, host, at := strings.Cut(authority, "@")
	user, token, colon := strings.Cut(info, ":")
	if !found || !at || !colon || protocol == "" || host == "" || info == ":" {
		return credential{}, false
	}
	cred.protocol = protocol
	for to, text := range map[*string]string{&cred.username: user, (*string)(&cred.token): token, &cred.host: host, &cred.path: path} {
		text, err := url.PathUnescape(text)
		if err != nil || hasControl(text) {
			return credential{}, false
		}
		*to = text
	}
	name, port, ok := splitHostPort(protocol, cred.host)
	cred.host = remoteURL{host: name, port: port}.credentialHost()
	return cred, ok
}

// line formats the credential as git-credential-store does.
func (cred credential) line() string {
	return cred.protocol + "://" + percentEncode(cred.username) + ":" + percentEncode(string(cred.token)) + "@" + percentEncode(cred.host) + "\n"
}

// find returns the stored credential that fits a remote best. Lines for the
// user in the URL come first, then lines for its path, and then lines without
// a path; git, which ignores the path of a line unless credential.useHttpPath is
// set, takes the first line.
func (c *credentials) find(u remoteURL) (best credential, ok bool, err error) {
	lines, err := c.lines()
	if err != nil {
		return credential{}, false, err
	}
	bestRank := -1
	for _, line := range lines {
		cred, valid := parseCredential(line)
		if !valid || cred.protocol != u.scheme || cred.host != u.credentialHost() {
			continue
		}
		rank := 0
		switch cred.path {
		case strings.Trim(u.path, "/"):
			rank = 2
		case "":
			rank = 1
		}
		if u.userinfo && cred.username == u.username {
			rank += 3
		}
		if rank > bestRank {
			best, bestRank = cred, rank
		}
	}
	return best, bestRank >= 0, nil
}

// set replaces the credential for the protocol and host of cred; an empty token
// removes it. Other lines, which people wrote, stay as they are.
func (c *credentials) set(cred credential) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines, err := c.lines()
	if err != nil {
		return err
	}
	lines = slices.DeleteFunc(lines, func(line string) bool {
		old, ok := parseCredential(line)
		return ok && old.protocol == cred.protocol && old.host == cred.host && old.path == ""
	})
	if cred.token != "" {
		if last := len(lines) - 1; last >= 0 && !strings.HasSuffix(lines[last], "\n") {
			lines[last] += "\n"
		}
		lines = append(lines, cred.line())
	}
	if len(lines) > maxCredentials {
		return invalidParam("host", "the limit of %d lines in the file of tokens is reached: remove a token first (token null)", maxCredentials)
	}
	return c.replace([]byte(strings.Join(lines, "")))
}

// replace writes a new file and truncates the old one. A hard link to the old
// file survives the replacement, with an inode that is no longer on the deny
// list, so it must not keep the tokens.
func (c *credentials) replace(text []byte) error {
	err := emptyReplaced(c.path, func() error { return writeFileAtomic(c.path, text, 0o600) })
	if err != nil {
		return fmt.Errorf("replacing the stored credentials: %w", err)
	}
	return nil
}

// remoteAuth holds the credentials of one git command. config becomes
// command-line arguments, which other users can see, so it contains no secrets;
// env is visible only to this user.
type remoteAuth struct {
	config []string
	env    []string
	redact *redactor
}

// forRemote selects the credentials for u: those in the URL, or else the stored
// ones. Git gets a helper that answers "get" and ignores "erase", because git
// would delete a stored token after a single 401. The helper answers for this host
// only, not for one that it redirects to.
func (c *credentials) forRemote(u remoteURL) (remoteAuth, error) {
	auth := remoteAuth{config: []string{"credential.helper=", "credential.useHttpPath=false"}, redact: newRedactor()}
	if u.scheme != "https" && u.scheme != "http" {
		return auth, nil
	}
	username, token := u.username, u.password
	if !u.passwordGiven {
		stored, ok, err := c.find(u)
		switch {
		case err != nil:
			return auth, err
		case ok:
			token = stored.token
			if !u.userinfo {
				username = stored.username
			}
		case !u.userinfo:
			return auth, nil
		}
	}
	if u.password == "" && len(u.username) >= minLoneToken {
		auth.redact = auth.redact.withSecret("", secret(u.username))
	}
	auth.redact = auth.redact.withSecret(username, token)
	site := u.scheme + "://" + u.credentialHost()
	if username == "" {
		// Git never asks a helper for an empty user, so it gets the header of RFC
		// 7617.
		auth.env = []string{
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http." + site + "/.extraHeader",
			"GIT_CONFIG_VALUE_0=Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(":"+string(token))),
		}
		return auth, nil
	}
	auth.config = append(auth.config, "credential."+site+
		`.helper=!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$C4A_GIT_USERNAME" "$C4A_GIT_PASSWORD"; :; }; f`)
	auth.env = []string{"C4A_GIT_USERNAME=" + username, "C4A_GIT_PASSWORD=" + string(token)}
	return auth, nil
}

// methods returns the credentials' rows of the method table.
func (c *credentials) methods() []*method {
	return []*method{
		newMethod("config/setAuth", "Store the token that git uses for a host, or remove it with null. No method returns it.", c.setAuth).fails(codeNotConfigured),
	}
}

type setAuthParams struct {
	Host     string          `json:"host,omitempty" doc:"host or host:port; either host or url is required"`
	URL      string          `json:"url,omitempty" doc:"a URL on the host, instead of host"`
	Token    json.RawMessage `json:"token" type:"string,null" doc:"the token, or null to remove the stored one"`
	Username string          `json:"username,omitempty" doc:"user name for the token; default oauth2"`
	Protocol string          `json:"protocol,omitempty" enum:"https,http" doc:"default https; http is accepted only for loopback and private hosts"`
}

type setAuthResult struct {
	Host     string `json:"host"`
	Username string `json:"username"`
	Stored   bool   `json:"stored" doc:"true if a token is stored, false if it was removed"`
}

// setAuth implements config/setAuth.
func (c *credentials) setAuth(_ context.Context, p setAuthParams) (setAuthResult, error) {
	if c.path == "" {
		return setAuthResult{}, failure(codeNotConfigured, "tokens are stored in the work dir: start the daemon with --work-dir")
	}
	cred := credential{protocol: p.Protocol, username: p.Username}
	if cred.username == "" {
		cred.username = "oauth2"
	}
	if err := cred.setHost(p); err != nil {
		return setAuthResult{}, err
	}
	var token *string
	switch {
	case len(p.Token) == 0:
		return setAuthResult{}, invalidParam("token", "is required: give the token, or null to remove it")
	case decodeJSON(p.Token, &token) != nil:
		return setAuthResult{}, invalidParam("token", "must be a string or null")
	case token != nil && (*token == "" || len(*token) > maxToken || hasControl(*token)):
		return setAuthResult{}, invalidParam("token", "must be 1 to %d bytes without control characters, or null to remove it", maxToken)
	case len(cred.username) > maxUsername || hasControl(cred.username):
		return setAuthResult{}, invalidParam("username", "must be 1 to %d bytes without control characters", maxUsername)
	case token != nil:
		cred.token = secret(*token)
	}
	if err := c.set(cred); err != nil {
		return setAuthResult{}, err
	}
	return setAuthResult{Host: cred.host, Username: cred.username, Stored: token != nil}, nil
}

// setHost sets protocol and host from the params host or url.
func (cred *credential) setHost(p setAuthParams) error {
	var u remoteURL
	switch {
	case (p.Host == "") == (p.URL == ""):
		return invalidParam("host", "give either host or url")
	case p.URL != "":
		text := p.URL
		if u, err := url.Parse(text); err == nil && strings.Trim(u.Path, "/") == "" {
			text = strings.TrimRight(text, "/") + "/any" // a token applies to a host, so the path may be missing
		}
		parsed, err := parseRemoteURL(text)
		if err != nil {
			return err
		}
		if u = parsed; u.scheme != "https" && u.scheme != "http" {
			return invalidParam("url", "must be an https or http URL")
		}
		if cred.protocol != "" && cred.protocol != u.scheme {
			return invalidParam("protocol", "differs from that of url")
		}
	default:
		if u.scheme = cred.protocol; u.scheme == "" {
			u.scheme = "https"
		}
		if u.scheme != "https" && u.scheme != "http" {
			return invalidParam("protocol", "must be https or http")
		}
		var ok bool
		if u.host, u.port, ok = splitHostPort(u.scheme, p.Host); !ok {
			return invalidParam("host", "must be a host name or IP address, optionally with :port, without a scheme or path")
		}
	}
	if u.scheme == "http" && !isPrivateHost(u.host) {
		return invalidParam("protocol", "http would send the token unencrypted: it is accepted only for loopback and private hosts")
	}
	cred.protocol, cred.host = u.scheme, u.credentialHost()
	return nil
}
