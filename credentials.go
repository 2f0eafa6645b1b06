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
	protocol, host string // host is host[:port]
	username       string
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
	if err := errors.Join(removeUnfinished(c.path), removeUnfinished(c.configPath)); err != nil {
		return nil, err
	}
	// Keep an unchanged file: its inode is on the deny list.
	if have, err := os.ReadFile(c.configPath); err != nil || string(have) != c.gitConfig() {
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

// authEntry is a stored credential in config/get, without the token.
type authEntry struct {
	Protocol string `json:"protocol" enum:"https,http"`
	Host     string `json:"host" doc:"host, with the port if it is not the default"`
	Username string `json:"username"`
}

// list returns the hosts for which a token is stored, sorted by host.
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

// read parses the file. It skips lines that git would ignore.
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

// parseCredential parses one line of the file.
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

// line formats the credential as git-credential-store does.
func (cred credential) line() string {
	return cred.protocol + "://" + percentEncode(cred.username) + ":" + percentEncode(string(cred.token)) + "@" + percentEncode(cred.host) + "\n"
}

// find returns the stored credential for a remote.
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

// set replaces the credential for the protocol and host of cred; an empty token
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
		return invalidParam("host", "the limit of %d stored tokens is reached: remove one first (token null)", maxCredentials)
	}
	var text strings.Builder
	for _, entry := range all {
		text.WriteString(entry.line())
	}
	return c.replace([]byte(text.String()))
}

// replace writes a new file and truncates the old one. A hard link to the old
// file survives the replacement, with an inode that is no longer on the deny
// list, so it must not keep the tokens.
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

// remoteAuth holds the credentials of one git command. config becomes
// command-line arguments, which other users can see, so it contains no secrets;
// env is visible only to this user.
type remoteAuth struct {
	config []string
	env    []string
	redact *redactor
}

// forRemote selects the credentials for u: those in the URL, or else the stored
// ones. Either way git gets a helper that answers "get" and ignores "erase",
// because git would delete a stored token after a single 401.
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
	// A user name without a password is either the name that belongs to a
	// stored token, as in the URLs that hosts offer for copying, or a token
	// itself.
	if u.userinfo && (u.password != "" || !ok || u.username != stored.username) {
		// The helper answers for this host only, not for one it redirects to.
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
	case json.Unmarshal(p.Token, &token) != nil:
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
