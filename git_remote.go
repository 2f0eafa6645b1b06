package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// remoteStall is how long a remote may send nothing before its git command is
// ended. git itself would wait forever.
const remoteStall = 120 * time.Second

// remotes opens remote repositories for the methods that access them.
type remotes struct {
	git         *gitRunner
	access      *access
	credentials *credentials
	allowHosts  []string      // patterns of --allow-git-host; empty allows all
	owner       string        // environment variable "name=value" that marks the git processes; may be empty
	stall       time.Duration // remoteStall, except in tests
}

func newRemotes(g *gitRunner, a *access, c *credentials, allowHosts []string) *remotes {
	return &remotes{git: g, access: a, credentials: c, allowHosts: allowHosts, stall: remoteStall}
}

// remote is a remote repository that this daemon may access.
type remote struct {
	remoteURL
	on     *remotes
	auth   remoteAuth
	newURL string // where the host redirects to, without credentials; "" if unknown
}

// open parses and checks a URL of a request: its form, its host against
// --allow-git-host, or its local path against the allowed directories.
func (r *remotes) open(text string) (*remote, error) {
	u, err := parseRemoteURL(text)
	if err != nil {
		return nil, err
	}
	if u.scheme == "file" {
		if u.path, err = r.checkLocal(u.path); err != nil {
			return nil, err
		}
	} else if !hostAllowed(r.allowHosts, u.host) {
		return nil, invalidParam("url", "the host %s is not allowed by --allow-git-host", u.host)
	}
	auth, err := r.credentials.forRemote(u)
	if err != nil {
		return nil, err
	}
	return &remote{remoteURL: u, on: r, auth: auth}, nil
}

// ignoredFsck returns settings that turn off checks of git-fsck(1) on the form of
// headers, dates, names, modes and sorting. The history of real projects fails
// them and git clone, which checks nothing, accepts it. The remaining checks reject
// paths into .git or out of the work tree, hostile submodules, and objects that git
// cannot parse; nulInHeader and unterminatedHeader cannot be turned off.
func ignoredFsck() []string {
	var config []string
	for _, id := range []string{
		"badDate", "badDateOverflow", "zeroPaddedDate", "badTimezone", "missingSpaceBeforeDate", // dates
		"badEmail", "missingEmail", "missingSpaceBeforeEmail", "badName", "missingNameBeforeEmail", // names and e-mail addresses
		"missingAuthor", "multipleAuthors", "missingCommitter", "missingTaggerEntry", "badTagName", "extraHeaderEntry", "nulInCommit", // headers
		"badFilemode", "zeroPaddedFilemode", "duplicateEntries", "treeNotSorted", // entries of a tree
		"gitattributesLarge", "gitattributesLineLength", // a git that knows these checks ignores such files and lines
	} {
		config = append(config, "fetch.fsck."+id+"=ignore")
	}
	return config
}

// command returns a git command for this remote. Credentials are removed from
// its output.
func (rm *remote) command(args ...string) gitCommand {
	c := gitCommand{
		args: args,
		config: slices.Concat([]string{
			"http.followRedirects=false", // a redirect must not reach a host that was not checked
			"fetch.recurseSubmodules=no",
			"fetch.writeCommitGraph=false",
			"transfer.fsckObjects=true", // rejects trees that contain .git or ../x
			"transfer.bundleURI=false",
			"protocol.version=2",
		}, ignoredFsck(), rm.auth.config),
		env:       slices.Clone(rm.auth.env),
		redact:    rm.auth.redact,
		stall:     rm.on.stall,
		protocols: rm.scheme,
	}
	if rm.on.owner != "" {
		c.env = append(c.env, rm.on.owner)
	}
	if hosts := noProxyFor(rm.on.git.noProxy, cmp.Or(rm.port, defaultPorts()[rm.scheme])); hosts != "" {
		c.env = append(c.env, "no_proxy="+hosts)
	}
	if rm.scheme == "file" {
		c.env = append(c.env, "GIT_NO_LAZY_FETCH=1") // a partial clone must not fetch missing objects from its own remote
	}
	return c
}

// explain adds advice for the caller to the error of a git command.
func (rm *remote) explain(err error) error {
	e, ok := errors.AsType[*gitError](err)
	if !ok {
		return err
	}
	out := e.rpc()
	switch {
	case e.reason == gitAuth && rm.scheme == "ssh" && strings.Contains(e.stderr, hostKeyRefused):
		out.Message += ": the host key is unknown or has changed: verify it, then add the output of ssh-keyscan to " + knownHostsFileName + " in the daemon's work dir"
	case e.reason == gitAuth && rm.scheme == "ssh":
		out.Message += ": the host accepts no key of the daemon's user, from ~/.ssh or from the agent at SSH_AUTH_SOCK"
	case e.reason == gitAuth:
		out.Message += ": " + rm.authAdvice()
	case e.reason == gitForbidden && httpStatus(e.stderr) == http.StatusUnavailableForLegalReasons:
		out.Message += ": the host refuses access for legal reasons"
	case e.reason == gitForbidden:
		out.Message += ": the token for " + rm.credentialHost() + " may not read this repository: set another one with config/setAuth"
	case e.reason == gitMoved && rm.newURL != "":
		out.Message += ": the repository has moved: use its new URL, " + rm.newURL
	case e.reason == gitMoved:
		out.Message += ": the repository has moved: use its new URL"
	case e.reason == gitOther && httpStatus(e.stderr) == http.StatusProxyAuthRequired:
		out.Message += ": the proxy requires a valid user and password in HTTPS_PROXY"
	case e.reason == gitOther && isTransient(httpStatus(e.stderr)):
		out.Message += ": " + rm.host + " refuses requests at the moment: try again later"
	case e.reason == gitOther && httpStatus(e.stderr) != 0:
		out.Message += ": " + rm.host + " refuses this request: check the URL"
	case e.reason == gitOther && strings.Contains(e.stderr, noSSHUser):
		out.Message += ": ssh works only for a user that /etc/passwd contains: add the daemon's user to it, or use an https URL"
	case e.reason == gitNetwork && strings.Contains(e.stderr, "certificate"):
		out.Message += fmt.Sprintf(": the certificate of %s is not accepted: check the clock of this machine, which shows %s, and its certificate authorities (--ca-file)", rm.host, time.Now().UTC().Format(time.RFC3339))
	case strings.Contains(e.stderr, "not valid: is this a git repository?"):
		out.Message += ": " + rm.host + " returned something else, such as a login page: check the URL and HTTPS_PROXY"
	case e.reason == gitNetwork && e.exit != -1 && rm.host != "":
		out.Message += ": " + rm.host + " could not be reached"
	}
	return out
}

// authAdvice returns what to do so that the host accepts the daemon, in the words
// of config/setAuth.
func (rm *remote) authAdvice() string {
	host := rm.credentialHost()
	switch {
	case rm.scheme == "https":
		return fmt.Sprintf("call config/setAuth with the host %q and a valid token", host)
	case isPrivateHost(rm.host):
		return fmt.Sprintf("call config/setAuth with the host %q, the protocol \"http\" and a valid token", host)
	}
	return "use an https URL: no token is sent to " + host + " over http, which is not encrypted"
}

// remoteRef is one line of git ls-remote.
type remoteRef struct {
	name   string
	oid    string
	peeled string // the commit of an annotated tag
}

// remoteRefs is the refs of a remote; it is empty for a repository without
// commits.
type remoteRefs struct {
	head    string // the ref that HEAD points to; "" if detached or unknown
	headOID string // "" if HEAD points to no commit
	refs    []remoteRef
}

// list runs git ls-remote and returns the refs of the remote. A redirect to the
// same address with .git, as hosts answer to the address in a browser, is followed
// once; rm has the new address from then on.
func (rm *remote) list(ctx context.Context) (remoteRefs, error) {
	for followed := false; ; followed = true {
		list, err := rm.listOnce(ctx)
		e, ok := errors.AsType[*gitError](err)
		if !ok || e.reason != gitMoved {
			return list, rm.explain(err)
		}
		var added bool
		if added, rm.newURL = rm.findRedirect(ctx); !added || followed {
			return list, rm.explain(err)
		}
		rm.path, rm.raw = strings.TrimRight(rm.path, "/")+".git", strings.TrimRight(rm.raw, "/")+".git"
	}
}

func (rm *remote) listOnce(ctx context.Context) (remoteRefs, error) {
	list, err := rm.runList(ctx, rm.command())
	if err == nil && len(list.refs) == 0 && list.headOID == "" {
		return rm.confirmEmpty(ctx)
	}
	return list, err
}

// runList runs c as git ls-remote.
func (rm *remote) runList(ctx context.Context, c gitCommand) (remoteRefs, error) {
	c.args = []string{"ls-remote", "--symref", "--end-of-options", rm.String()}
	out, err := rm.on.git.run(ctx, c)
	if errors.Is(err, errGitOutput) {
		return remoteRefs{}, gitFailure(gitTooLarge, "git ls-remote: the remote has too many refs")
	}
	if err != nil {
		return remoteRefs{}, err
	}
	return parseRemoteRefs(string(out)), nil
}

// findRedirect asks once more and returns where the host redirects to, and
// whether that is the same address with .git. Only a trace of git has the header.
func (rm *remote) findRedirect(ctx context.Context) (added bool, address string) {
	base, err := url.Parse(strings.TrimRight(rm.String(), "/") + "/info/refs")
	if err != nil {
		return false, ""
	}
	c := rm.command()
	c.env = append(c.env, "GIT_TRACE_CURL=1", "GIT_TRACE_CURL_NO_DATA=1")
	c.redact = newRedactor() // a short password would spoil the trace; only address is kept
	c.line = func(line string) {
		_, header, _ := strings.Cut(line, "<= Recv header: ")
		name, value, _ := strings.Cut(header, ":")
		if !strings.EqualFold(name, "location") {
			return
		}
		to, err := base.Parse(strings.TrimSpace(value)) // it may be relative (RFC 9110, 10.2.2)
		if err != nil || to.Scheme != "http" && to.Scheme != "https" {
			return
		}
		to.User, to.RawQuery, to.Fragment = nil, "", ""
		to = to.JoinPath() // cleans the path
		to.Path, to.RawPath = strings.TrimSuffix(to.Path, "/info/refs"), strings.TrimSuffix(to.RawPath, "/info/refs")
		moved, err := parseRemoteURL(to.String())
		added = err == nil && moved.scheme == rm.scheme && moved.credentialHost() == rm.credentialHost() &&
			moved.path == strings.TrimRight(rm.path, "/")+".git"
		address = rm.auth.redact.text(to.String())
	}
	_, _ = rm.runList(ctx, c) // it fails like the first time
	return added, address
}

// confirmEmpty lists the refs again, after an empty list, and returns an error
// unless the list comes from a git server. git takes a response body without a line
// feed for the empty list of a "dumb" HTTP server (gitprotocol-http(5)), so any web
// page, and any connection that is cut in time, looks like an empty repository.
// Only a git server sends packets, which GIT_TRACE_PACKET shows.
func (rm *remote) confirmEmpty(ctx context.Context) (remoteRefs, error) {
	if rm.scheme != "http" && rm.scheme != "https" {
		return remoteRefs{}, nil
	}
	sawPacket := false
	c := rm.command()
	c.env = append(c.env, "GIT_TRACE_PACKET=1")
	c.line = func(line string) {
		sawPacket = sawPacket || strings.Contains(line, " packet: ") && strings.Contains(line, "< ")
	}
	list, err := rm.runList(ctx, c)
	if err == nil && !sawPacket {
		err = gitFailure(gitOther, "git ls-remote: %s did not respond with a git repository", rm.host)
	}
	return list, err
}

// parseRemoteRefs parses the output of git ls-remote --symref. It ignores lines
// in any other form.
func parseRemoteRefs(out string) remoteRefs {
	var list remoteRefs
	for line := range strings.Lines(out) {
		value, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		if target, ok := strings.CutPrefix(value, "ref: "); ok {
			if name == "HEAD" && isRefName(target) {
				list.head = target
			}
			continue
		}
		if !isObjectID(value) {
			continue
		}
		if tag, ok := strings.CutSuffix(name, "^{}"); ok {
			if n := len(list.refs); n > 0 && list.refs[n-1].name == tag {
				list.refs[n-1].peeled = value
			}
			continue
		}
		if name == "HEAD" {
			list.headOID = value
		} else if isRefName(name) {
			list.refs = append(list.refs, remoteRef{name: name, oid: value})
		}
	}
	return list
}

// find returns the ref with this full name.
func (l remoteRefs) find(name string) (remoteRef, bool) {
	for _, ref := range l.refs {
		if ref.name == name {
			return ref, true
		}
	}
	return remoteRef{}, false
}

// checkLocal returns the path of a local repository with symbolic links
// resolved. It returns an error unless the whole repository is inside the
// allowed directories and path is its top.
func (r *remotes) checkLocal(path string) (string, error) {
	given := pathParam{PathBase64: base64.StdEncoding.EncodeToString([]byte(path))}
	repo, err := openRepository(r.access, given)
	if err != nil {
		return "", err
	}
	if err := repo.checkGitDir(); err != nil {
		return "", err
	}
	at, err := r.access.resolve(given)
	if err != nil {
		return "", err
	}
	if at.abs != repo.top.abs {
		return "", failure(codeRepoNotFound, "%s is inside a git repository: use the path of its top directory, %s", showName(path), showName(repo.top.abs))
	}
	return repo.top.abs, nil
}
