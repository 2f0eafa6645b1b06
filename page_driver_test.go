//go:build linux || darwin

package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browser is a real Chromium that a test drives through chromedriver
// (https://www.w3.org/TR/webdriver2/).
type browser struct {
	t       testing.TB
	session string // URL of the session
}

// newBrowser starts a browser without a window. It skips the test where one of the
// two programs is missing.
func newBrowser(t testing.TB) *browser {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	if err != nil {
		t.Skip("chromedriver is not installed: install the packages chromium and chromium-driver")
	}
	var chromium string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if chromium == "" {
			chromium, _ = exec.LookPath(name)
		}
	}
	if chromium == "" {
		t.Skip("chromium is not installed: install the packages chromium and chromium-driver")
	}
	profile := t.TempDir()
	cmd := exec.Command(driver, "--port=0")
	cmd.Env = append(os.Environ(), "HOME="+profile, "TMPDIR="+profile)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("chromedriver cannot be started: " + err.Error())
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b := &browser{t: t}
	var base string
	lines := bufio.NewScanner(out)
	for base == "" && lines.Scan() {
		if _, port, ok := strings.Cut(lines.Text(), "started successfully on port "); ok {
			base = "http://127.0.0.1:" + strings.Trim(port, " .")
		}
	}
	if base == "" {
		t.Fatalf("chromedriver ended: %v, want that it says its port", lines.Err())
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the driver
	var session struct {
		SessionID string `json:"sessionId"`
	}
	b.session = base
	b.do("POST", "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome",
		"goog:chromeOptions": map[string]any{"binary": chromium, "args": []string{
			"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--disable-background-networking", "--user-data-dir=" + filepath.Join(profile, "profile"),
		}},
		"goog:loggingPrefs": map[string]string{"browser": "ALL"},
	}}}, &session)
	b.session = base + "/session/" + session.SessionID
	t.Cleanup(func() { b.do("DELETE", "", nil, nil) })
	b.do("POST", "/timeouts", map[string]int{"script": int(patience.Milliseconds())}, nil)
	return b
}

// do sends a command; a nil result ignores the value.
func (b *browser) do(method, path string, body, result any) {
	b.t.Helper()
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	r, err := http.NewRequest(method, b.session+path, reader)
	if err != nil {
		b.t.Fatal(err)
	}
	status, text := doHTTP(b.t, r)
	if status != http.StatusOK {
		b.t.Fatalf("%s %s: got status %d and %.1000s, want 200", method, path, status, text)
	}
	if result == nil {
		return
	}
	var answer struct {
		Value json.RawMessage `json:"value"`
	}
	err = json.Unmarshal([]byte(text), &answer)
	if err == nil {
		err = json.Unmarshal(answer.Value, result)
	}
	if err != nil {
		b.t.Fatalf("%s %s: %v in %.1000s, want a value of type %T", method, path, err, text, result)
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do("POST", "/url", map[string]string{"url": url}, nil)
}

// run runs a script in the page and returns what it returns.
func (b *browser) run(script string, args ...any) (value any) {
	b.t.Helper()
	b.do("POST", "/execute/sync", map[string]any{"script": script, "args": append([]any{}, args...)}, &value)
	return value
}

// await waits until an expression in the page is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for b.run("return !!("+expression+")") != true {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s is not true after %v, want it to be; the page says\n%s", expression, patience, b.text("body"))
		}
		time.Sleep(50 * time.Millisecond) // the driver has no event for it
	}
}

// text returns the visible text of the first element that a selector names.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return fmt.Sprint(b.run("return (document.querySelector(arguments[0]) || {innerText: ''}).innerText", selector))
}

// find returns the id of an element.
func (b *browser) find(selector string) string {
	b.t.Helper()
	var element map[string]string
	b.do("POST", "/element", map[string]string{"using": "css selector", "value": selector}, &element)
	for _, id := range element {
		return id
	}
	return ""
}

// click clicks as a mouse does: an element that another covers is an error.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.do("POST", "/element/"+b.find(selector)+"/click", map[string]string{}, nil)
}

func (b *browser) typeInto(selector, text string) {
	b.t.Helper()
	b.do("POST", "/element/"+b.find(selector)+"/value", map[string]string{"text": text}, nil)
}

// resize sets the size of the window and the colour scheme.
func (b *browser) resize(width, height int, scheme string) {
	b.t.Helper()
	b.cdp("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false})
	b.cdp("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
}

func (b *browser) cdp(command string, params map[string]any) {
	b.t.Helper()
	b.do("POST", "/goog/cdp/execute", map[string]any{"cmd": command, "params": params}, nil)
}

// consoleErrors returns what the console says, but for what one of the words is in.
func (b *browser) consoleErrors(but ...string) (errors []string) {
	b.t.Helper()
	var entries []struct{ Level, Message string }
	b.do("POST", "/se/log", map[string]string{"type": "browser"}, &entries)
next:
	for _, e := range entries {
		for _, word := range but {
			if strings.Contains(e.Message, word) {
				continue next
			}
		}
		errors = append(errors, e.Level+" "+e.Message)
	}
	return errors
}

// screenshot writes what the window shows to a file of the directory that the
// variable TEST_SCREENSHOTS names, and does nothing without one.
func (b *browser) screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv("TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	var data string
	b.do("GET", "/screenshot", nil, &data)
	image, err := base64.StdEncoding.DecodeString(data)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), image, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}
