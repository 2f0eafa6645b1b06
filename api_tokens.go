package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync/atomic"
)

const (
	// maxTokens bounds a tokens file. It is read whole at each change.
	maxTokens     = 10_000
	maxTokensFile = 4 << 20
	// maxTokenName bounds the name of a token, which is shown in logs and events.
	maxTokenName = 64
)

// rights is a set of what a token allows.
type rights uint8

const (
	rightRead   rights = 1 << iota // the GET routes
	rightCall                      // JSON-RPC calls, except those of rightClone
	rightClone                     // calls of vcs/clone and config/setAuth
	rightManage                    // start, stop and delete daemons, bind libraries
	rightMCP                       // the tools that read; with rightClone and rightCall those that write, too
	rightDaemon                    // to connect as a user's daemon
	allRights   = rightRead | rightCall | rightClone | rightManage | rightMCP | rightDaemon
)

// rightNames returns the names of all rights, as in a tokens file, in their order.
func rightNames() []string { return []string{"read", "call", "clone", "manage", "mcp", "daemon"} }

func (r rights) String() string {
	var names []string
	for i, name := range rightNames() {
		if r&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

func parseRights(text string) (rights, error) {
	var all rights
	for name := range strings.SplitSeq(text, ",") {
		i := slices.Index(rightNames(), name)
		if i < 0 {
			return 0, fmt.Errorf("%.20q is not a right: the rights are %s", name, allRights)
		}
		all |= 1 << i
	}
	return all, nil
}

// apiToken is a line of a tokens file.
type apiToken struct {
	name      string
	caller    string // its name for apiLimits; "" for the API token, and where none is needed
	rights    rights
	machines  []string // patterns of path.Match
	libraries []string
	hash      [sha256.Size]byte // of its text; zero for the API token
}

// equal reports whether two tokens have the same name and allow the same.
func (t *apiToken) equal(u *apiToken) bool {
	return t.name == u.name && t.rights == u.rights && slices.Equal(t.machines, u.machines) && slices.Equal(t.libraries, u.libraries)
}

// unrestricted returns a token without patterns that has all rights.
func unrestricted(name string) *apiToken { return &apiToken{name: name, rights: allRights} }

// label returns the name of the token, "" for nil and for the single API token.
func (t *apiToken) label() string {
	if t == nil {
		return ""
	}
	return t.name
}

// allows reports whether the token has a right.
func (t *apiToken) allows(r rights) bool { return t.rights&r == r }

// restricted reports whether the token is for some machines and libraries only.
func (t *apiToken) restricted() bool { return len(t.machines)+len(t.libraries) > 0 }

// mayUseMachine reports whether the token is for a machine. A token with patterns
// of libraries alone is for no machine: through a machine it could reach every
// library.
func (t *apiToken) mayUseMachine(machineID string) bool {
	return !t.restricted() || matchesAny(t.machines, machineID)
}

// mayUseLibrary reports whether the token is for a library.
func (t *apiToken) mayUseLibrary(libID string) bool {
	return !t.restricted() || matchesAny(t.libraries, libID)
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// tokenSet holds the tokens of a file by their SHA-256 hashes.
//
// A lookup takes no time that depends on a valid token: the map compares hashes,
// which a client cannot choose, and hashes them once more with a key of its own.
type tokenSet map[[sha256.Size]byte]*apiToken

func (s tokenSet) find(text string) *apiToken {
	if text == "" {
		return nil
	}
	return s[sha256.Sum256([]byte(text))]
}

// parseTokens parses a tokens file. Each line is
//
//	NAME sha256:HEX RIGHTS [machines=GLOB,…] [libraries=GLOB,…]
//
// Empty lines and those that begin with # are comments. The last line must end
// with a line end: else the file may be half written.
func parseTokens(data []byte) (tokenSet, error) {
	if len(data) > 0 && data[len(data)-1] != '\n' {
		return nil, errors.New("the last line has no line end: the file may not be complete")
	}
	set, names, number := tokenSet{}, map[string]bool{}, 0
	for line := range bytes.Lines(data) {
		number++
		fields := strings.Fields(string(line))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		t, hash, err := parseToken(fields)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", number, err)
		case names[t.name]:
			return nil, fmt.Errorf("line %d: the name %s is used twice", number, t.name)
		case set[hash] != nil:
			return nil, fmt.Errorf("line %d: %s and %s have the same token", number, set[hash].name, t.name)
		case len(set) == maxTokens:
			return nil, fmt.Errorf("line %d: more than %d tokens", number, maxTokens)
		}
		set[hash], names[t.name] = t, true
	}
	return set, nil
}

// parseToken parses the fields of a line. Its errors quote no field that may hold a
// token by mistake.
func parseToken(fields []string) (*apiToken, [sha256.Size]byte, error) {
	var hash [sha256.Size]byte
	if len(fields) < 3 {
		return nil, hash, errors.New("must be NAME sha256:HEX RIGHTS [machines=GLOB,…] [libraries=GLOB,…]")
	}
	if err := checkTokenName(fields[0]); err != nil {
		return nil, hash, err
	}
	text, ok := strings.CutPrefix(fields[1], "sha256:")
	sum, err := hex.DecodeString(text)
	if !ok || err != nil || len(sum) != sha256.Size {
		return nil, hash, errors.New("the second field must be sha256: and 64 hexadecimal digits: c4a-daemon-scheduler token prints such a line")
	}
	hash = [sha256.Size]byte(sum)
	t := &apiToken{name: fields[0], caller: "token " + fields[0], hash: hash}
	if t.rights, err = parseRights(fields[2]); err != nil {
		return nil, hash, err
	}
	for _, field := range fields[3:] {
		key, value, _ := strings.Cut(field, "=")
		to := &t.machines
		switch {
		case key == "libraries":
			to = &t.libraries
		case key != "machines":
			return nil, hash, fmt.Errorf("%.20q is not machines=GLOB,… or libraries=GLOB,…", key)
		}
		if *to != nil {
			return nil, hash, fmt.Errorf("%s is given twice", key)
		}
		if *to, err = parsePatterns(value); err != nil {
			return nil, hash, fmt.Errorf("%s: %w", key, err)
		}
	}
	return t, hash, nil
}

// parsePatterns parses the patterns of a token. An empty one would match nothing
// or, as an empty list, everything.
func parsePatterns(text string) ([]string, error) {
	patterns := strings.Split(text, ",")
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return nil, fmt.Errorf("%.40q is not a pattern", p)
		}
	}
	return patterns, nil
}

func checkTokenName(name string) error {
	valid := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c)
	}
	if len(name) > maxTokenName || strings.ContainsFunc(name, func(c rune) bool { return !valid(c) }) {
		return fmt.Errorf("a name must have at most %d characters of A-Z a-z 0-9 . _ -", maxTokenName)
	}
	return nil
}

// tokensFile is a tokens file that is read again when it changes.
type tokensFile struct {
	path    string
	watched *fileWatch
	set     atomic.Pointer[tokenSet]
}

func openTokensFile(path string) (*tokensFile, error) {
	f := &tokensFile{path: path, watched: newFileWatch(path)}
	set, err := f.read()
	if err != nil {
		return nil, err
	}
	f.set.Store(&set)
	return f, nil
}

// find returns the token with this text, nil if there is none.
func (f *tokensFile) find(text string) *apiToken { return f.set.Load().find(text) }

// current returns the token with the same text as one that was found before, nil if
// it was removed.
func (f *tokensFile) current(t *apiToken) *apiToken { return (*f.set.Load())[t.hash] }

func (f *tokensFile) read() (tokenSet, error) {
	data, err := readRegularAt(f.path, maxTokensFile)
	var set tokenSet
	if err == nil {
		set, err = parseTokens(data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the tokens file %s: %w", f.path, err)
	}
	return set, nil
}

// watch reads the file again when it changes, and then calls changed, until ctx ends.
// A file that cannot be read or parsed leaves the tokens as they are.
func (f *tokensFile) watch(ctx context.Context, log *slog.Logger, changed func()) {
	f.watched.run(ctx, func() {
		set, err := f.read()
		if err != nil {
			log.Error("the tokens file was not used, the tokens are those of before", "error", err)
			return
		}
		f.set.Store(&set)
		log.Info("read the tokens file", "path", f.path, "tokens", len(set))
		changed()
	})
}

// newTokenLine makes a token and its line for a tokens file. The arguments are those
// of the subcommand: NAME RIGHTS [machines=GLOB,…] [libraries=GLOB,…].
func newTokenLine(args []string) (text, line string, err error) {
	if len(args) < 2 {
		return "", "", fmt.Errorf("token needs NAME RIGHTS [machines=GLOB,…] [libraries=GLOB,…]; the rights are %s", allRights)
	}
	text = randomHex(32)
	sum := sha256.Sum256([]byte(text))
	fields := slices.Concat(args[:1], []string{"sha256:" + hex.EncodeToString(sum[:])}, args[1:])
	line = strings.Join(fields, " ")
	// The line is parsed as the file would be: an argument with a space is two fields.
	if _, err := parseTokens([]byte(line + "\n")); err != nil {
		return "", "", err
	}
	if strings.HasPrefix(line, "#") || strings.ContainsAny(line, "\r\n") {
		return "", "", errors.New("an argument contains a line end or a comment")
	}
	return text, line, nil
}
