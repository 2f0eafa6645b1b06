//go:build linux || darwin

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLogJournalStream holds the log to systemd.exec(5): JOURNAL_STREAM counts
// only when it names the file that standard error is.
func TestLogJournalStream(t *testing.T) {
	const withTime = `^time=\S+ level=WARN msg=full disk=7\ntime=\S+ level=INFO msg=fine\n$`
	for _, test := range []struct {
		name, format string
		stream       func(s unix.Stat_t) string
		want         string
	}{
		{"its own", "text", func(s unix.Stat_t) string { return fmt.Sprintf("%d:%d", s.Dev, s.Ino) },
			`^<4>level=WARN msg=full disk=7\n<6>level=INFO msg=fine\n$`},
		{"its own in JSON", "json", func(s unix.Stat_t) string { return fmt.Sprintf("%d:%d", s.Dev, s.Ino) },
			`^<4>\{"level":"WARN","msg":"full","disk":7\}\n<6>\{"level":"INFO","msg":"fine"\}\n$`},
		{"another inode", "text", func(s unix.Stat_t) string { return fmt.Sprintf("%d:%d", s.Dev, s.Ino+1) }, withTime},
		{"another device", "text", func(s unix.Stat_t) string { return fmt.Sprintf("%d:%d", s.Dev+1, s.Ino) }, withTime},
		{"garbage", "text", func(unix.Stat_t) string { return "1" }, withTime},
		{"none", "text", func(unix.Stat_t) string { return "" }, withTime},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			var s unix.Stat_t
			if err := unix.Fstat(int(file.Fd()), &s); err != nil {
				t.Fatal(err)
			}
			p := &program{stderr: file, getenv: func(name string) string {
				if name == "JOURNAL_STREAM" {
					return test.stream(s)
				}
				return ""
			}}
			p.console = newLineQueue(file)
			log, err := (&logFlags{level: "info", format: test.format}).logger(p)
			if err != nil {
				t.Fatal(err)
			}
			log.With("disk", 7).Warn("full")
			log.Info("fine")
			log.Debug("hidden")
			p.console.close(patience)
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(test.want).Match(got) {
				t.Errorf("the log is %q, want %s", got, test.want)
			}
		})
	}
}
