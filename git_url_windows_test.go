package main

import "testing"

// A local path has several forms on Windows, and one URL and key.
func TestWindowsLocalURL(t *testing.T) {
	for _, text := range []string{`C:\Srv\a b.git`, `c:/srv/A B.git`, `\\?\C:\Srv\a b`, `file:///C:/Srv/a%20b.git`, `file://localhost/c:/srv/.\x\../a%20b`, `C:\Srv\a b\.git`} {
		u, err := parseRemoteURL(text)
		if err != nil {
			t.Errorf("%s: %v, want no error", text, err)
			continue
		}
		if want := "file:///c%3a/srv/a%20b"; u.key() != want {
			t.Errorf("%s: got the key %s, want %s", text, u.key(), want)
		}
	}
	for text, want := range map[string]string{
		`C:\Srv\a b.git`: "file:///C:/Srv/a%20b.git", `\\?\C:\srv\x`: "file:///C:/srv/x", `\\server\share\x`: "file:////server/share/x",
	} {
		if u, err := parseRemoteURL(text); err != nil || u.String() != want {
			t.Errorf("%s: got %s, %v, want %s", text, u, err, want)
		}
	}
	for _, text := range []string{`\srv\x`, `/srv/x`, `C:x`, `C:`, `file:///srv/x`, `file:///C:x`, `file://server/share/x`} {
		if u, err := parseRemoteURL(text); err == nil {
			t.Errorf("%s: got %s, want an error", text, u)
		}
	}
}

// A repository has no name that Windows gives to something else.
func TestWindowsRepoNames(t *testing.T) {
	for name, accepted := range map[string]bool{
		"lib": true, "g/lib.v2": true, "com10": true, "console/nulls": true,
		"NUL": false, "g/con": false, "aux/lib": false, "com1": false, "lib.": false, "g./lib": false,
	} {
		if err := checkRepoName(name); (err == nil) != accepted {
			t.Errorf("checkRepoName(%q) = %v, want it accepted: %v", name, err, accepted)
		}
	}
}
