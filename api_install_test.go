//go:build linux || darwin

package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// get asks a scheduler and returns status and body.
func getText(t *testing.T, url string, edit func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(r)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return response.StatusCode, string(body)
}

func TestInstallRoutes(t *testing.T) {
	s := newExampleScheduler(t)
	host := strings.TrimPrefix(s.url(), "http://")
	status, script := getText(t, s.url()+"/install.sh", nil)
	if want := "default_base_url='http://" + host + "/bin'"; status != 200 || !strings.Contains(script, want) {
		t.Errorf("GET /install.sh = %d without %s", status, want)
	}
	if !strings.HasSuffix(script, "c4a_install \"$@\"\n") {
		t.Errorf("GET /install.sh ends with %q, want the call of its function", script[max(0, len(script)-40):])
	}
	// Behind a proxy, which needs an API token.
	s = newExampleScheduler(t, func(c *schedulerConfig) { c.apiToken = "api-token" })
	host = strings.TrimPrefix(s.url(), "http://")
	_, script = getText(t, s.url()+"/install.sh", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") })
	if want := "default_base_url='https://" + host + "/bin'"; !strings.Contains(script, want) {
		t.Errorf("GET /install.sh behind TLS has not %s", want)
	}
	if _, latest := getText(t, s.url()+"/bin/latest", nil); latest != programVersion() {
		t.Errorf("GET /bin/latest = %q, want %q", latest, programVersion())
	}

	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	release, system := s.url()+"/bin/"+programVersion()+"/", "_"+runtime.GOOS+"_"+runtime.GOARCH
	sum := fmt.Sprintf("%x", sha256.Sum256(program))
	if _, got := getText(t, release+"SHA256SUMS", nil); got != sum+"  c4a-daemon"+system+"\n"+sum+"  c4a-daemon-scheduler"+system+"\n" {
		t.Errorf("SHA256SUMS = %q, want %s for both names", got, sum)
	}
	for _, name := range []string{"c4a-daemon", "c4a-daemon-scheduler"} {
		if status, got := getText(t, release+name+system, nil); status != 200 || got != string(program) {
			t.Errorf("GET %s%s = %d and %d bytes, want 200 and this program's %d", name, system, status, len(got), len(program))
		}
	}
	for _, url := range []string{release + "c4a-daemon_windows_arm64", release + "SHA256SUMS.sig", s.url() + "/bin/9.9.9/SHA256SUMS"} {
		if status, body := getText(t, url, nil); status != 404 || !strings.Contains(body, releasesURL) {
			t.Errorf("GET %s = %d %s, want 404 with the place of the releases", url, status, body)
		}
	}
}

func TestInstallScriptHost(t *testing.T) {
	a := newAPI(apiConfig{hosts: []string{"a'b", "$(id)", "good-host"}})
	(&installAPI{}).register(a)
	for host, want := range map[string]int{
		"good-host:5110": 200, "[::1]:5110": 200, "127.0.0.1": 200, "a'b": 400, "$(id)": 400, "other": 403,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/install.sh", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		w := &statusOnly{header: http.Header{}}
		a.ServeHTTP(w, r)
		if w.status != want {
			t.Errorf("GET /install.sh with Host: %s = %d, want %d", host, w.status, want)
		}
	}
}

func TestExecutableReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho old\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	e := &executable{path: path, file: file, info: info, log: slog.New(slog.NewTextHandler(&log, nil))}
	if e.replaced() {
		t.Error("the program is replaced at once, want not")
	}
	if got, err := e.program(); got != path || err != nil {
		t.Errorf("program() = %q, %v, want %q", got, err, path)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if !e.replaced() {
			t.Error("the removed program is not replaced, want replaced")
		}
	}
	if n := strings.Count(log.String(), "until a restart"); n != 1 {
		t.Errorf("the log speaks of a restart %d times, want once:\n%s", n, log.String())
	}
	// What systems without runningImage do.
	copied, err := e.copyTo()
	if err != nil {
		t.Fatal(err)
	}
	e.copied = copied
	if got, err := os.ReadFile(filepath.Join(copied.path, daemonName)); err != nil || string(got) != "#!/bin/sh\necho old\n" {
		t.Errorf("the copy holds %q, %v, want the old program", got, err)
	}
	// The copy of a killed scheduler is deleted by the next one, that of a living one is not.
	if name := filepath.Base(copied.path); !isTempName(name) {
		t.Errorf("the copy is in %s, want a name that a sweep knows", name)
	}
	if copied.lock == nil {
		t.Error("the directory of the copy is not locked")
	}
	e.close()
	if _, err := os.Stat(copied.path); !os.IsNotExist(err) {
		t.Errorf("the copy is still there after close: %v", err)
	}
}
