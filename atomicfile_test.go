//go:build linux || darwin

package main

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// TestUnfinishedFilesAreProtected: the temporary name of a file with secrets has
// the protected prefix, so that no method reads, searches or lists it.
func TestUnfinishedFilesAreProtected(t *testing.T) {
	for name, want := range map[string]string{
		credentialsFileName: credentialsFileName + ".tmp-*", configFileName: configFileName + ".tmp-*",
		librariesFile: secretPrefix + librariesFile + ".tmp-*", pidFileName: secretPrefix + pidFileName + ".tmp-*",
	} {
		if got := tempPattern("/dir/" + name); got != want {
			t.Errorf("the temporary names of %s are %s, want %s", name, got, want)
		}
	}
}

// TestUnfinishedFilesOfKilledProcesses: a start deletes what killed processes left
// of the files that they were writing, and nothing else.
func TestUnfinishedFilesOfKilledProcesses(t *testing.T) {
	t.Parallel()
	workspace := realTempDir(t)
	left := []string{
		"." + librariesFile + ".tmp-123", secretPrefix + librariesFile + ".tmp-124", "demo/" + secretPrefix + pidFileName + ".tmp-6",
		"demo/" + credentialsFileName + ".tmp-1", "demo/." + credentialsFileName + ".tmp-2", "demo/" + configFileName + ".tmp-3",
		"demo/." + pidFileName + ".tmp-4",
	}
	kept := []string{"demo/" + credentialsFileName, "demo/a.tmp-5", "demo/." + librariesFile + ".tmp-6", librariesFile + ".tmp-7/repos/x"}
	files := map[string]string{}
	for _, name := range append(left, kept...) {
		files[name] = ""
	}
	writeFiles(t, workspace, files)
	p := start(t, schedulerName, nil, "--port", "0", "--min-free-disk", "0", "--workspace", workspace)
	if status, body := askHTTP(t, http.MethodPut, p.url()+"/daemons/demo", ""); status != 200 && status != 201 {
		t.Fatalf("starting a daemon: got %d %s, want it ready", status, body)
	}
	for _, name := range left {
		if _, err := os.Lstat(filepath.Join(workspace, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want it deleted", name, err)
		}
	}
	for _, name := range kept {
		if _, err := os.Lstat(filepath.Join(workspace, name)); err != nil {
			t.Errorf("%s: got %v, want it kept", name, err)
		}
	}
}
