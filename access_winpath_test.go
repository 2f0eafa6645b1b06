package main

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The rules for the paths of Windows, as text.
func TestWindowsPath(t *testing.T) {
	const outside, element = "SOURCE_ACCESS_DENIED", "param path"
	for path, want := range map[string]string{
		`C:\dir\f`: `C:\dir\f`, `c:/dir/f`: `c:\dir\f`, `dir\f`: `dir\f`, `dir/f`: `dir\f`, `..\f`: `..\f`, `.`: `.`, `C:\`: `C:\`, `C:\dir\.\..\f`: `C:\dir\.\..\f`,
		`\\?\C:\dir\f`: `C:\dir\f`, `//?/C:/dir/f`: `C:\dir\f`, `\\?\UNC\server\share\f`: `\\server\share\f`, `\\?\unc\server\share\f`: `\\server\share\f`,
		`\\server\share\f`: `\\server\share\f`, `//server/share/f`: `\\server\share\f`, `\\server\share`: `\\server\share`, `C:\a~1\b`: `C:\a~1\b`,
		`C:\a b\.git\a..b`: `C:\a b\.git\a..b`, `C:\console\nulls\com\com10\lpt\auxiliary\connect$`: `C:\console\nulls\com\com10\lpt\auxiliary\connect$`,

		`\dir\f`: outside, `/etc/passwd`: outside, `\`: outside, `C:`: outside, `C:f`: outside, `c:dir\f`: outside, `C:..\f`: outside,
		`\\.\PhysicalDrive0`: outside, `\\.\pipe\x`: outside, `\\.\C:\dir`: outside, `//./nul`: outside, `\??\C:\dir`: outside, `\\?\C:`: outside, `\\?\C:dir`: outside,
		`\\?\Volume{0}\f`: outside, `\\?\GLOBALROOT\Device\x`: outside, `\\?\`: outside, `\\server`: outside, `\\server\`: outside, `\\`: outside, `\\\share\f`: outside, `\\server\\f`: outside,

		`C:\dir\f:stream`: element, `C:\dir\f::$DATA`: element, `file:stream`: element, `f:stream`: outside, `C:\dir::$INDEX_ALLOCATION\f`: element, `C:\C:\f`: element, `1:\f`: element,
		`C:\dir\f.`: element, `C:\dir\f `: element, `C:\dir.\f`: element, `C:\dir \f`: element, `f...`: element, `...`: element, `.. `: element,
		`C:\dir\f?`: element, `*`: element, `a<b`: element, `a>b`: element, `a"b`: element, `a|b`: element, "a\tb": element, "a\x1fb": element,
		`CON`: element, `con`: element, `C:\dir\Nul`: element, `C:\PRN\f`: element, `aux`: element, `COM1`: element, `com9`: element, `COM0`: element, `LPT1`: element, `lpt¹`: element, `COM²`: element, `CONIN$`: element, `conout$`: element,
		strings.Repeat("n", 256): element, strings.Repeat("ü", 256): element, strings.Repeat("n", 255): strings.Repeat("n", 255), strings.Repeat("ü", 255): strings.Repeat("ü", 255), strings.Repeat("😀", 128): element,
	} {
		got, err := windowsPath(path)
		if err != nil {
			got = fsCode(err)
		}
		if got != want {
			t.Errorf("windowsPath(%.60q) = %.60q, want %.60q", path, got, want)
		}
	}
	if runtime.GOOS != "windows" { // there os knows whether this version has devices with extensions
		for _, path := range []string{`aux.txt`, `C:\dir\nul.tar.gz`, `COM1.log`} {
			if got, err := windowsPath(path); err != nil || got != path {
				t.Errorf("windowsPath(%q) = %q, %v, want the same path", path, got, err)
			}
		}
	}
}

func TestWindowsPathsIgnoreCase(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path, dir, rest string
		ok              bool
	}{
		{`C:\Dir\f`, `c:\dIR`, `\f`, true},
		{`C:\Dir`, `C:\Dir`, ``, true},
		{`C:\Ümlaut\f`, `c:\ümlaut`, `\f`, true},
		{`C:\Dir`, `C:\Dir\f`, ``, false},
		{`D:\Dir\f`, `C:\Dir`, ``, false},
		{`C:\Dir2`, `C:\dir`, `2`, true}, // isWithin asks for a separator
	} {
		if rest, ok := cutWindowsPath(test.path, test.dir); rest != test.rest || ok != test.ok {
			t.Errorf("cutWindowsPath(%q, %q) = %q, %v, want %q, %v", test.path, test.dir, rest, ok, test.rest, test.ok)
		}
	}
}

// Whatever windowsPath accepts has no form that Windows takes for something else.
func FuzzWindowsPath(f *testing.F) {
	for _, path := range []string{`C:\a/b`, `\\?\UNC\s\h\f`, `\\.\x`, `f:s`, `nul`, `a `, `\\s\h`, `//?/c:/x`} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := windowsPath(path)
		if err != nil {
			return
		}
		if again, err := windowsPath(got); err != nil || again != got {
			t.Errorf("windowsPath(%q) = %q, and of that %q, %v, want the same path", path, got, again, err)
		}
		if strings.Contains(got, "/") || strings.LastIndex(got, ":") > 1 || strings.HasPrefix(got, `\\?`) || strings.HasPrefix(got, `\\.`) {
			t.Errorf("windowsPath(%q) = %q, want no slash, stream or device", path, got)
		}
		for name := range strings.SplitSeq(got, `\`) {
			if name != "." && name != ".." && strings.TrimRight(name, ". ") != name {
				t.Errorf("windowsPath(%q) = %q, want no dot or space at the end of %q", path, got, name)
			}
		}
		if runtime.GOOS == "windows" && filepath.VolumeName(got) == "" && !filepath.IsLocal(got) && !strings.Contains(got, "..") {
			t.Errorf("windowsPath(%q) = %q, which os calls not local, want a local path", path, got)
		}
	})
}
