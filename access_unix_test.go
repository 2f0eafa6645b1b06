//go:build unix

package main

import (
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Special files are refused at once: opening a pipe would wait for the other
// end, and reading a device could never end.
func TestAccessSpecialFiles(t *testing.T) {
	dir := realTempDir(t)
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	symlinks(t, map[string]string{dir + "/fifo-link": "fifo"})
	// The path of a socket must be short, and that of the directory may not be.
	t.Chdir(dir)
	listener, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	names := []string{"fifo", "fifo-link", "socket"}
	if syscall.Mknod(dir+"/zero", syscall.S_IFCHR|0o600, 1<<8|5) == nil && runtime.GOOS == "linux" {
		names = append(names, "zero") // only root can create one
	}
	f := fsOn(t, dir)
	for _, name := range names {
		begin := time.Now()
		_, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + "/" + name)})
		if took := time.Since(begin); fsCode(err) != "param path" || took > patience {
			t.Errorf("%s: %v after %v, want an error for the path within %v", name, err, took, patience)
		}
		got, err := f.stat(t.Context(), statParams{pathParam: pathOf(dir + "/" + name)})
		if err != nil || got.Entries[0].Type != "other" {
			t.Errorf("stat of %s: %+v, %v, want the type other", name, got, err)
		}
	}
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); got != nil {
		t.Errorf("glob lists %v, want nothing", got)
	}
}

// unreadable returns a directory that contains a directory and a file that only
// root can read.
func unreadable(t *testing.T) (dir string, f *fsService) {
	t.Helper()
	dir = realTempDir(t)
	writeFiles(t, dir, map[string]string{"closed/f": "", "open/f": "", "file": ""})
	for _, name := range []string{"/closed", "/file"} {
		if err := os.Chmod(dir+name, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir+"/closed", 0o755) })
	return dir, fsOn(t, dir)
}

// checkUnreadable checks that walks skip it and that a direct request reports
// it.
func checkUnreadable(t *testing.T, dir string, f *fsService) {
	t.Helper()
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); len(got) != 2 {
		t.Errorf("glob: %v, want two files", got)
	}
	if _, err := f.repoScan(t.Context(), repoScanParams{}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"/closed/f", "/file"} {
		if _, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + name)}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
			t.Errorf("reading %s: %v, want SOURCE_ACCESS_DENIED", name, err)
		}
	}
	if _, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir + "/closed")}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
		t.Errorf("listing: %v, want SOURCE_ACCESS_DENIED", err)
	}
}

// Walks skip a directory that the daemon's user cannot read.
func TestAccessUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	dir, f := unreadable(t)
	checkUnreadable(t, dir, f)
	if got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "x"}); err != nil || len(got.Matches) != 0 {
		t.Errorf("search: %+v, %v, want no match and no error", got, err)
	}
}

// A daemon's own token file, and the scheduler's files and workspace, are
// denied in the real programs.
func TestDeniedFilesOfThePrograms(t *testing.T) {
	t.Parallel()
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"f": "x", "token": "daemon-token\n", "api": "api-token\n"})
	pair := newTestCA(t).issue("m", nil).write(top)
	certificate := []string{"--client-cert", pair.certFile, "--client-key", pair.keyFile}
	workspace := top + "/ws"
	s := start(t, schedulerName, nil, append(certificate, "--port", "0", "--min-free-disk", "0", "--workspace", workspace, "--allow", top, "--daemon-token-file", top+"/token", "--api-token-file", top+"/api")...)
	address := s.url()
	start(t, daemonName, nil, append(certificate, "--server", strings.Replace(address, "http", "ws", 1), "--machine-id", "m", "--allow", top, "--token-file", top+"/token")...).says("connected")
	authorized := []string{"Authorization", "Bearer api-token"}
	ask := func(route, path string) (string, bool) {
		t.Helper()
		_, body := askHTTP(t, "POST", address+route+"/rpc", `{"jsonrpc":"2.0","id":1,"method":"fs/readFile","params":{"path":"`+path+`"}}`, append(authorized, "Content-Type", "application/json")...)
		return body, strings.Contains(body, string(codeAccessDenied))
	}
	for _, lib := range []string{"a", "b"} {
		if status, body := askHTTP(t, "PUT", address+"/daemons/"+lib, "", authorized...); status != 201 {
			t.Fatal(status, body)
		}
	}
	writeFiles(t, workspace, map[string]string{"a/own": "x", "b/own": "x"})
	for _, test := range []struct {
		route, path string
		denied      bool
	}{
		{"/machines/m", top + "/f", false}, {"/machines/m", top + "/token", true}, {"/machines/m", pair.keyFile, true}, {"/libraries/a", pair.keyFile, true},
		{"/libraries/a", top + "/f", false}, {"/libraries/a", workspace + "/a/own", false}, {"/libraries/a", "own", false}, {"/libraries/a", workspace + "/b/own", true}, {"/libraries/a", workspace + "/b/daemon.log", true},
		{"/libraries/a", top + "/token", true}, {"/libraries/a", top + "/api", true}, {"/libraries/a", workspace + "/none", true},
	} {
		if body, isDenied := ask(test.route, test.path); isDenied != test.denied || !test.denied && !strings.Contains(body, `"content":"x"`) {
			t.Errorf("%s %s: want denied %v, got %s", test.route, test.path, test.denied, body)
		}
	}
}

// A directory with a comma in its name can be allowed, for a daemon and for
// those of a pool.
func TestAllowedDirectoryWithACommaInItsName(t *testing.T) {
	t.Parallel()
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"a,b/f": "x", "c/f": "x", "a,b,d e/f": "x"})
	for _, test := range []struct {
		text string
		want []string
	}{
		{top + "/a,b", []string{top + "/a,b"}},
		{top + "/a,b," + top + "/c", []string{top + "/a,b", top + "/c"}},
		{top + "/c , " + top + "/a,b,d e", []string{top + "/c", top + "/a,b,d e"}},
		{top + "/c," + top + "/none", []string{top + "/c", top + "/none"}},
		{",", nil},
	} {
		var got dirList
		if err := got.Set(test.text); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: want %q, got %q, %v", test.text, test.want, got, err)
		}
	}
	_, address := startSchedulerProcess(t, nil, "--allow", top+"/a,b,"+top+"/c")
	startUserDaemon(t, address, "m", nil, "--allow", top+"/a,b")
	for _, route := range []string{"/machines/m", "/libraries/a"} {
		if status, a := callRPC(t, address+route, "fs/readFile", `{"path":"`+top+`/a,b/f"}`); status != 200 || a.Error != nil {
			t.Errorf("%s: want the file, got %d %v", route, status, a.Error)
		}
	}
}
