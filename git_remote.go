package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// remoteStall ends a git whose remote sends nothing for so long: git itself
// would wait for ever.
const remoteStall = 120 * time.Second

// remotes opens remote repositories for the methods that talk to them.
type remotes struct {
	git         *gitRunner
	access      *access
	credentials *credentials
	allowHosts  []string      // patterns of --allow-git-host; empty allows all
	owner       string        // "name=value" that marks the processes, "" for none
	stall       time.Duration // remoteStall but in tests
}

func newRemotes(g *gitRunner, a *access, c *credentials, allowHosts []string) *remotes {
	return &remotes{git: g, access: a, credentials: c, allowHosts: allowHosts, stall: remoteStall}
}

// remote is an address that may be talked to.
type remote struct {
	remoteURL
	on   *remotes
	auth remoteAuth
}

// open checks a URL from the wire: its form, its host against the allowed
// ones, a local path against the allowed directories.
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
		return nil, invalidParam("url", "the host %s is not among those that this daemon may reach (--allow-git-host)", u.host)
	}
	auth, err := r.credentials.forRemote(u)
	if err != nil {
		return nil, err
	}
	return &remote{remoteURL: u, on: r, auth: auth}, nil
}

// command prepares a git command that talks to the remote. What git says
// comes back without the remote's credentials.
func (rm *remote) command(args ...string) gitCommand {
	c := gitCommand{
		args: args,
		config: append([]string{
			"http.followRedirects=false", // another host must not be asked in this one's name
			"fetch.recurseSubmodules=no",
			"fetch.writeCommitGraph=false",
			"transfer.fsckObjects=true", // refuses trees with .git or ../x in them
			"fetch.fsck.badTimezone=ignore",
			"fetch.fsck.missingSpaceBeforeDate=ignore",
			"fetch.fsck.zeroPaddedFilemode=ignore", // old but harmless mistakes of real repositories
			"transfer.bundleURI=false",
			"protocol.version=2",
		}, rm.auth.config...),
		env:       slices.Clone(rm.auth.env),
		redact:    rm.auth.redact,
		stall:     rm.on.stall,
		protocols: rm.scheme,
	}
	if rm.on.owner != "" {
		c.env = append(c.env, rm.on.owner)
	}
	if rm.scheme == "file" {
		c.env = append(c.env, "GIT_NO_LAZY_FETCH=1") // a partial clone must not dial for what it lacks
	}
	return c
}

// explain adds to git's no what the caller can do about it.
func (rm *remote) explain(err error) error {
	e, ok := errors.AsType[*gitError](err)
	if !ok {
		return err
	}
	out := e.rpc()
	switch {
	case e.reason == gitAuth && rm.scheme == "ssh" && strings.Contains(e.stderr, hostKeyRefused):
		out.Message += ": the key of this host is unknown, or not the known one: if it is right (ssh-keyscan prints it), put it into " + knownHostsFileName + " in the daemon's work dir"
	case e.reason == gitAuth && rm.scheme == "ssh":
		out.Message += ": the host takes no key that the daemon's user has, in ~/.ssh or in the agent at SSH_AUTH_SOCK"
	case e.reason == gitAuth:
		out.Message += fmt.Sprintf(": call config/setAuth with a valid token for %s://%s", rm.scheme, rm.credentialHost())
	case e.reason == gitForbidden:
		out.Message += ": the token for " + rm.credentialHost() + " may not read this repository, see config/setAuth"
	case e.reason == gitMoved:
		out.Message += ": the repository has moved, ask with its new URL"
	case e.reason == gitNetwork && e.exit != -1 && rm.host != "":
		out.Message += ": " + rm.host + " could not be reached"
	}
	return out
}

// remoteRef is one line of git ls-remote.
type remoteRef struct {
	name   string
	oid    string
	peeled string // the commit of an annotated tag
}

// remoteRefs is what a remote offers; empty for a repository without commits.
type remoteRefs struct {
	head    string // the ref that HEAD names, "" when it is detached or unknown
	headOID string // "" when HEAD names no commit
	refs    []remoteRef
}

// list asks the remote for its refs.
func (rm *remote) list(ctx context.Context) (remoteRefs, error) {
	out, err := rm.on.git.run(ctx, rm.command("ls-remote", "--symref", "--end-of-options", rm.String()))
	if errors.Is(err, errGitOutput) {
		return remoteRefs{}, gitFailure(gitTooLarge, "git ls-remote: the remote has too many refs")
	}
	if err != nil {
		return remoteRefs{}, rm.explain(err)
	}
	list := parseRemoteRefs(string(out))
	if len(list.refs) == 0 && list.headOID == "" {
		return list, rm.confirmEmpty(ctx)
	}
	return list, nil
}

// confirmEmpty tells a repository without refs from a web server that answers
// with something else: git takes a body without a line feed for the empty list
// of a "dumb" server (gitprotocol-http(5)). Only a git server speaks in packets.
func (rm *remote) confirmEmpty(ctx context.Context) error {
	if rm.scheme != "http" && rm.scheme != "https" {
		return nil
	}
	spoke := false
	c := rm.command("ls-remote", "--end-of-options", rm.String())
	c.env = append(c.env, "GIT_TRACE_PACKET=1")
	c.line = func(line string) {
		spoke = spoke || strings.Contains(line, " packet: ") && strings.Contains(line, "< ")
	}
	if _, err := rm.on.git.run(ctx, c); err != nil {
		return rm.explain(err)
	}
	if !spoke {
		return gitFailure(gitOther, "git ls-remote: what %s answers is no git repository", rm.host)
	}
	return nil
}

// parseRemoteRefs reads the output of git ls-remote --symref. Lines of another
// form are left out.
func parseRemoteRefs(out string) remoteRefs {
	var list remoteRefs
	for line := range strings.Lines(out) {
		value, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		if target, ok := strings.CutPrefix(value, "ref: "); ok {
			if name == "HEAD" && strings.HasPrefix(target, "refs/") && checkRef(target) == nil {
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
		} else if checkRef(name) == nil && strings.HasPrefix(name, "refs/") {
			list.refs = append(list.refs, remoteRef{name: name, oid: value})
		}
	}
	return list
}

// find is the ref with this full name.
func (l remoteRefs) find(name string) (remoteRef, bool) {
	for _, ref := range l.refs {
		if ref.name == name {
			return ref, true
		}
	}
	return remoteRef{}, false
}

// checkLocal wants the whole of a repository inside the allowed directories
// and returns its path with the links resolved.
func (r *remotes) checkLocal(path string) (string, error) {
	repo, err := openRepository(r.access, pathParam{PathBase64: base64.StdEncoding.EncodeToString([]byte(path))})
	if err != nil {
		return "", err
	}
	if repo.prefix != "" {
		return "", failure(codeRepoNotFound, "%s is inside a git repository: give the path of its top, %s", showName(path), showName(repo.top.abs))
	}
	return repo.top.abs, nil
}
