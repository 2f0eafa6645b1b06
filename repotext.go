package main

import (
	"bufio"
	"io"
	"path/filepath"
	"strings"
)

// Readers of the text files in a git directory. They run nothing and follow
// nothing: what a hostile file says is data.

// repoConfig is what a listing of repositories needs of a config file.
type repoConfig struct {
	remoteURL string // of origin, else of the first remote
	bare      *bool  // nil where it is not said
	sha256    bool   // object ids are SHA-256
}

// parseRepoConfig reads the syntax of git-config(1), "CONFIGURATION FILE",
// without includes. What does not parse is passed over.
func parseRepoConfig(text string) repoConfig {
	var c repoConfig
	first, section, sub := "", "", ""
	for text != "" {
		var line string
		line, text = configLine(text)
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section, sub, line = configSection(line)
		}
		name, value, given := strings.Cut(line, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "" || name[0] == '#' || name[0] == ';' {
			continue
		}
		value = configValue(value)
		switch {
		case section == "remote" && name == "url" && sub == "origin":
			if c.remoteURL == "" {
				c.remoteURL = value
			}
		case section == "remote" && name == "url" && first == "":
			first = value
		case section == "extensions" && name == "objectformat":
			c.sha256 = strings.EqualFold(value, "sha256")
		case section == "core" && name == "bare":
			// A name alone means true.
			c.bare = new(!given || strings.EqualFold(value, "true") || strings.EqualFold(value, "yes") || strings.EqualFold(value, "on") || value == "1")
		}
	}
	if c.remoteURL == "" {
		c.remoteURL = first
	}
	return c
}

// configLine cuts off the first line, joined with those that a backslash at
// its end continues.
func configLine(text string) (line, rest string) {
	var b strings.Builder
	for {
		part, after, _ := strings.Cut(text, "\n")
		part = strings.TrimSuffix(part, "\r")
		slashes := len(part) - len(strings.TrimRight(part, `\`))
		if slashes%2 == 0 || after == "" {
			b.WriteString(part)
			return b.String(), after
		}
		b.WriteString(part[:len(part)-1])
		text = after
	}
}

// configSection reads `[section]`, `[section "sub"]` or `[section.sub]`; rest
// is what follows on the line.
func configSection(line string) (section, sub, rest string) {
	head := line[1:]
	end := strings.IndexAny(head, "]\"")
	if end < 0 {
		return "", "", ""
	}
	section = strings.ToLower(strings.TrimSpace(head[:end]))
	if head[end] == ']' {
		section, sub, _ = strings.Cut(section, ".")
		return section, sub, strings.TrimSpace(head[end+1:])
	}
	var b strings.Builder
	for i := end + 1; i < len(head); i++ {
		switch c := head[i]; c {
		case '\\':
			if i++; i < len(head) {
				b.WriteByte(head[i])
			}
		case '"':
			_, rest, ok := strings.Cut(head[i+1:], "]")
			if !ok {
				return "", "", ""
			}
			return section, b.String(), strings.TrimSpace(rest)
		default:
			b.WriteByte(c)
		}
	}
	return "", "", ""
}

// configValue takes quotes, escapes and a comment off a value.
func configValue(s string) string {
	s = strings.TrimSpace(s)
	var b strings.Builder
	kept := 0 // bytes that trailing spaces do not belong to
	quoted := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			quoted = !quoted
			kept = b.Len()
			continue
		case c == '\\' && i+1 < len(s):
			i++
			switch c = s[i]; c {
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			case 'b':
				c = '\b'
			}
			b.WriteByte(c)
			kept = b.Len()
			continue
		case !quoted && (c == '#' || c == ';'):
			return b.String()[:kept]
		}
		b.WriteByte(c)
		if quoted || c != ' ' && c != '\t' {
			kept = b.Len()
		}
	}
	return b.String()[:kept]
}

// parseHead reads HEAD or a loose ref: an object id, or the full name of
// another ref (gitrepository-layout(5)). ok is false for anything else.
func parseHead(text string) (oid, ref string, ok bool) {
	text = strings.TrimRight(text, " \t\r\n")
	if name, symbolic := strings.CutPrefix(text, "ref:"); symbolic {
		name = strings.TrimLeft(name, " \t")
		return "", name, isRefPath(name)
	}
	// Git lets words follow the id, as in FETCH_HEAD.
	oid, _, _ = strings.Cut(text, " ")
	return oid, "", isObjectID(oid)
}

// isRefPath tells a full ref name that is safe as a path below a git
// directory.
func isRefPath(name string) bool {
	if !strings.HasPrefix(name, "refs/") || strings.ContainsAny(name, "\x00\n\\:") || hasSecretName(name) {
		return false
	}
	return filepath.IsLocal(filepath.FromSlash(name)) && !strings.Contains(name, "..")
}

// findPackedRef looks up a ref in packed-refs; "" when it is not there.
func findPackedRef(r io.Reader, ref string) (string, error) {
	lines := bufio.NewScanner(r) // lines of at most 64 KiB: a ref name fits a path
	for lines.Scan() {
		oid, name, ok := strings.Cut(lines.Text(), " ")
		if ok && name == ref && isObjectID(oid) {
			return oid, nil
		}
	}
	return "", lines.Err()
}

// parseGitFile reads a `.git` file: the git directory's path, absolute or
// relative to the file's directory.
func parseGitFile(text string) (string, bool) {
	path, ok := strings.CutPrefix(text, "gitdir:")
	path = strings.Trim(path, " \t\r\n")
	return path, ok && path != "" && !strings.ContainsAny(path, "\x00\n")
}

// parseCommitTime reads the committer's time, in seconds since 1970, from the
// text of a commit.
func parseCommitTime(commit string) (seconds int64, ok bool) {
	for line := range strings.Lines(commit) {
		if line == "\n" {
			break // the message follows
		}
		rest, found := strings.CutPrefix(line, "committer ")
		if !found {
			continue
		}
		rest = rest[strings.LastIndexByte(rest, '>')+1:]
		for digit := range strings.SplitSeq(strings.TrimSpace(rest), " ") {
			return parseSeconds(digit)
		}
	}
	return 0, false
}

// parseSeconds reads a decimal number of at most 12 digits, the year 33,658.
func parseSeconds(s string) (n int64, ok bool) {
	if s == "" || len(s) > 12 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}
