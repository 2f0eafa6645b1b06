package main

import (
	"context"
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
	// knownHostsFileName is where the operator puts host keys for ssh, in the
	// format of sshd(8); a container's user has no ~/.ssh.
	knownHostsFileName = secretPrefix + "known_hosts"
	// maxToken and maxUsername are far above what git hosts give out.
	maxToken    = 4 << 10
	maxUsername = 256
	// minLoneToken tells a token in the user's place from a name such as "git",
	// which must not be struck out of every text. No host's tokens are shorter.
	minLoneToken = 12
	// maxCredentials bounds the file that git reads line by line for each
	// request.
	maxCredentials = 1000
)

// credentials keeps the tokens for git remotes in <work-dir>/.git-daemon.credentials,
// the format of git-credential-store(1): one URL a line, percent-encoded. Git
// reads it by itself and never changes it.
type credentials struct {
	path       string // "" without a work dir
	configPath string

	mu sync.Mutex // held over a change of the file: readers see the old or the new one
}

// credential is one line of the file.
type credential struct {
	protocol, host string // host is host[:port]
	username       string
	token          secret
}

// openCredentials writes git's configuration into the work dir, denies the
// daemon's files there to every method and points the runner's network commands
// at them.
// Without a work dir nothing can be stored.
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
	// A git that was killed while storing leaves its lock, which makes each
	// later command wait for a second.
	if err := os.Remove(c.path + ".lock"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing a stale lock: %w", err)
	}
	// A file that says the same stays: its identity is what denies hard links.
	if have, err := os.ReadFile(c.configPath); err != nil || string(have) != c.gitConfig() {
		if err := writeFileAtomic(c.configPath, []byte(c.gitConfig()), 0o600); err != nil {
			return nil, err
		}
	}
	g.globalConfig, g.knownHosts = c.configPath, knownHosts
	return c, nil
}

// gitConfig is the text of .git-daemon.config. The path is quoted twice: for
// the shell that runs the helper, and for the file (git-config(1), SYNTAX).
// Repositories of other users are served on purpose: the operator allowed
// their directory, and git-upload-pack honours this setting only from here.
func (c *credentials) gitConfig() string {
	helper := "store --file " + shellQuote(c.path)
	return "[credential]\n\thelper = " + quoteConfig(helper) + "\n[safe]\n\tdirectory = *\n"
}

// authEntry is a stored credential as config/get shows it, without the token.
type authEntry struct {
	Protocol string `json:"protocol" enum:"https,http"`
	Host     string `json:"host" doc:"with the port where it is not the default"`
	Username string `json:"username"`
}

// list tells for which hosts a token is stored, by host.
func (c *credentials) list() ([]authEntry, error) {
	all, err := c.read()
	if err != nil {
		return nil, err
	}
	entries := []authEntry{}
	for _, cred := range all {
		entries = append(entries, authEntry{Protocol: cred.protocol, Host: cred.host, Username: cred.username})
	}
	slices.SortFunc(entries, func(x, y authEntry) int {
		return strings.Compare(x.Host+" "+x.Protocol, y.Host+" "+y.Protocol)
	})
	return entries, nil
}

// read parses the file; lines that git would ignore are left out.
func (c *credentials) read() ([]credential, error) {
	if c.path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the stored credentials: %w", err)
	}
	var all []credential
	for line := range strings.Lines(string(data)) {
		if cred, ok := parseCredential(strings.TrimSuffix(line, "\n")); ok {
			all = append(all, cred)
		}
	}
	return all, nil
}

// parseCredential reads one line of the store.
func parseCredential(line string) (credential, bool) {
	protocol, rest, ok := strings.Cut(line, "://")
	info, host, at := strings.Cut(rest, "@")
	user, token, colon := strings.Cut(info, ":")
	if !ok || !at || !colon || protocol == "" || strings.HasSuffix(line, "\r") {
		return credential{}, false
	}
	cred := credential{protocol: protocol}
	for _, part := range []struct {
		to   *string
		text string
	}{{&cred.username, user}, {&cred.host, strings.TrimSuffix(host, "/")}, {(*string)(&cred.token), token}} {
		text, err := url.PathUnescape(part.text)
		if err != nil || text == "" || hasControl(text) {
			return credential{}, false
		}
		*part.to = text
	}
	return cred, true
}

// line writes the credential as git-credential-store does.
func (cred credential) line() string {
	return cred.protocol + "://" + percentEncode(cred.username) + ":" + percentEncode(string(cred.token)) + "@" + percentEncode(cred.host) + "\n"
}

// find is the stored credential of a remote.
func (c *credentials) find(u remoteURL) (credential, bool, error) {
	all, err := c.read()
	if err != nil {
		return credential{}, false, err
	}
	i := slices.IndexFunc(all, func(cred credential) bool {
		return cred.protocol == u.scheme && cred.host == u.credentialHost()
	})
	if i < 0 {
		return credential{}, false, nil
	}
	return all[i], true, nil
}

// set replaces the credential of one's protocol and host; an empty token
// removes it.
func (c *credentials) set(cred credential) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := c.read()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(old credential) bool {
		return old.protocol == cred.protocol && old.host == cred.host
	})
	if cred.token != "" {
		all = append(all, cred)
	}
	if len(all) > maxCredentials {
		return invalidParam("host", "%d tokens are stored already: remove one first (token null)", maxCredentials)
	}
	var text strings.Builder
	for _, entry := range all {
		text.WriteString(entry.line())
	}
	return c.replace([]byte(text.String()))
}

// replace puts a new file in place of the old one and empties that: a hard link
// that somebody made to it is a file of its own from now on, whose identity
// nobody denies.
func (c *credentials) replace(text []byte) error {
	old, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return writeFileAtomic(c.path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("replacing the stored credentials: %w", err)
	}
	err = writeFileAtomic(c.path, text, 0o600)
	if err == nil {
		err = old.Truncate(0)
	}
	return errors.Join(err, old.Close())
}

// remoteAuth is what one git command gets to authenticate itself. Nothing secret
// is in config, which becomes arguments; env only this user can read.
type remoteAuth struct {
	config []string
	env    []string
	redact *redactor
}

// forRemote chooses the credentials for u: those of the URL, else the stored
// ones. Either way git gets a helper that answers "get" and ignores "erase":
// git would delete a stored token after a single 401.
func (c *credentials) forRemote(u remoteURL) (remoteAuth, error) {
	auth := remoteAuth{config: []string{"credential.helper=", "credential.useHttpPath=false"}, redact: newRedactor()}
	if u.scheme != "https" && u.scheme != "http" {
		return auth, nil
	}
	stored, ok, err := c.find(u)
	if err != nil {
		return auth, err
	}
	if ok {
		auth.redact = auth.redact.withSecret(stored.username, stored.token)
	}
	// A user without a password is either the name that a stored token goes
	// with, as in the URLs that hosts offer for copying, or a token itself.
	if u.userinfo && (u.password != "" || !ok || u.username != stored.username) {
		// The helper is bound to this very host.
		auth.config = append(auth.config, "credential."+u.scheme+"://"+u.credentialHost()+
			`.helper=!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$C4A_GIT_USERNAME" "$C4A_GIT_PASSWORD"; :; }; f`)
		auth.env = []string{"C4A_GIT_USERNAME=" + u.username, "C4A_GIT_PASSWORD=" + string(u.password)}
		auth.redact = auth.redact.withSecret(u.username, u.password)
		if u.password == "" && len(u.username) >= minLoneToken {
			auth.redact = auth.redact.withSecret("", secret(u.username))
		}
		return auth, nil
	}
	if ok {
		auth.config = append(auth.config, `credential.helper=!f() { test "$1" = get && exec git credential-store --file `+shellQuote(c.path)+` get; :; }; f`)
	}
	return auth, nil
}

// methods is what the credentials answer to.
func (c *credentials) methods() []*method {
	return []*method{
		newMethod("config/setAuth", "Store the token that git uses for a host; null removes it. No method reads it back.", c.setAuth).fails(codeNotConfigured),
	}
}

type setAuthParams struct {
	Host     string          `json:"host,omitempty" doc:"host or host:port; host or url must be given"`
	URL      string          `json:"url,omitempty" doc:"a URL of the host, in place of host"`
	Token    json.RawMessage `json:"token" type:"string,null" doc:"a text, or null to remove the stored one"`
	Username string          `json:"username,omitempty" doc:"default oauth2"`
	Protocol string          `json:"protocol,omitempty" enum:"https,http" doc:"default https; http only for loopback and private hosts"`
}

type setAuthResult struct {
	Host     string `json:"host"`
	Username string `json:"username"`
	Stored   bool   `json:"stored" doc:"false when it was removed"`
}

// config/setAuth
func (c *credentials) setAuth(_ context.Context, p setAuthParams) (setAuthResult, error) {
	if c.path == "" {
		return setAuthResult{}, failure(codeNotConfigured, "tokens are kept in the work dir: start the daemon with --work-dir")
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
		return setAuthResult{}, invalidParam("token", "is missing: give the token, or null to remove it")
	case json.Unmarshal(p.Token, &token) != nil:
		return setAuthResult{}, invalidParam("token", "must be a string or null")
	case token != nil && (*token == "" || len(*token) > maxToken || hasControl(*token)):
		return setAuthResult{}, invalidParam("token", "must be 1 to %d bytes without control characters; null removes", maxToken)
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

// takeHost reads protocol and host from host or url.
func (cred *credential) setHost(p setAuthParams) error {
	var u remoteURL
	switch {
	case (p.Host == "") == (p.URL == ""):
		return invalidParam("host", "give host or url, one of the two")
	case p.URL != "":
		text := p.URL
		if u, err := url.Parse(text); err == nil && strings.Trim(u.Path, "/") == "" {
			text = strings.TrimRight(text, "/") + "/any" // a token is for the host: the path may be missing
		}
		parsed, err := parseRemoteURL(text)
		if err != nil {
			return err
		}
		if u = parsed; u.scheme != "https" && u.scheme != "http" {
			return invalidParam("url", "only https and http take a token")
		}
		if cred.protocol != "" && cred.protocol != u.scheme {
			return invalidParam("protocol", "is not the url's")
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
			return invalidParam("host", "must be a host name or IP address, with :port if need be; no scheme, no path")
		}
	}
	if u.scheme == "http" && !isPrivateHost(u.host) {
		return invalidParam("protocol", "http would send the token in the clear: it is for loopback and private hosts only")
	}
	cred.protocol, cred.host = u.scheme, u.credentialHost()
	return nil
}
