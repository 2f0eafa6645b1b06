package main

import (
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// The rules of Windows for paths (Microsoft, "Naming Files, Paths, and
// Namespaces"). They are plain text, so that their tests run on every system;
// dir_windows.go applies them.

// maxWindowsName is the length of a file name on NTFS, in UTF-16 units.
const maxWindowsName = 255

// windowsPath returns a path from the wire with backslashes and without the
// prefix \\?\. The error is that of a path outside the allowed directories if it
// depends on the current drive or directory of the process (\dir, C:dir) or
// names a device (\\.\pipe\x), and -32602 if an element names no file.
func windowsPath(path string) (string, error) {
	path = plainWindowsPath(path)
	rest := path
	switch share, unc := strings.CutPrefix(path, `\\`); {
	case unc:
		server, below, ok := strings.Cut(share, `\`)
		if !ok || server == "" || server == "." || server == "?" || strings.TrimLeft(below, `\`) != below || below == "" {
			return "", denied()
		}
		rest = share
	case strings.HasPrefix(path, `\`):
		return "", denied()
	case len(path) >= 2 && path[1] == ':' && isDriveLetter(path[0]):
		if rest = path[2:]; !strings.HasPrefix(rest, `\`) {
			return "", denied()
		}
	}
	for name := range strings.SplitSeq(rest, `\`) {
		if fault := windowsNameFault(name); fault != "" {
			return "", invalidParam("path", "has the element %q, which %s", showName(name), fault)
		}
	}
	return path, nil
}

// plainWindowsPath returns path with backslashes and without the prefix \\?\ of
// a path that is longer than 260 characters. All paths are compared without it;
// os adds it again where Windows needs it.
func plainWindowsPath(path string) string {
	path = strings.ReplaceAll(path, "/", `\`)
	rest, ok := strings.CutPrefix(path, `\\?\`)
	switch {
	case !ok:
	case len(rest) >= 4 && strings.EqualFold(rest[:4], `UNC\`):
		return `\\` + rest[4:]
	case len(rest) >= 3 && isDriveLetter(rest[0]) && rest[1:3] == `:\`:
		return rest
	}
	return path
}

func isDriveLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// windowsNameFault says why name cannot be a file's name in a path, or returns
// "". Windows opens another file than the one that such a name shows: a device,
// a data stream of a file (name:stream), or the file without the dots and spaces
// at the end.
func windowsNameFault(name string) string {
	switch {
	case name == "", name == ".", name == "..":
		return ""
	case strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || strings.ContainsRune(`<>:"|?*`, r) }):
		return "has a character that Windows allows in no file name"
	case strings.HasSuffix(name, "."), strings.HasSuffix(name, " "):
		return "ends with a dot or a space, which Windows removes"
	case isWindowsDevice(name):
		return "is the name of a device"
	case len(name) > maxWindowsName && len(utf16.Encode([]rune(name))) > maxWindowsName:
		return "is too long for a file name"
	}
	return ""
}

// isWindowsDevice reports whether name is that of a device. With an extension
// (aux.txt) it is one before Windows 11 and a file since; os knows.
func isWindowsDevice(name string) bool {
	base, _, extension := strings.Cut(name, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return !extension || !filepath.IsLocal(name)
	}
	number, com := strings.CutPrefix(base, "COM")
	if !com {
		var lpt bool
		if number, lpt = strings.CutPrefix(base, "LPT"); !lpt {
			return false
		}
	}
	switch number {
	case "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "¹", "²", "³":
		return !extension || !filepath.IsLocal(name)
	}
	return false
}

// cutWindowsPath removes the directory dir from the front of a path, in upper or
// lower case.
func cutWindowsPath(path, dir string) (rest string, ok bool) {
	if len(path) < len(dir) || !strings.EqualFold(path[:len(dir)], dir) {
		return "", false
	}
	return path[len(dir):], true
}
