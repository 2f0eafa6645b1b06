package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// The names under which one program is the other (see calledAsDaemon).
const (
	daemonName    = "c4a-daemon"
	schedulerName = "c4a-daemon-scheduler"
)

// developmentVersion is the version of a build that the go command did not stamp:
// one outside a git work tree, or with -buildvcs=false.
const developmentVersion = "0.1.0"

// programVersion returns the version that handshakes, the API and --version
// show, without a leading v. The go command takes it from the tag of the commit,
// otherwise it makes a pseudo-version of the commit and its date
// (https://go.dev/ref/mod#pseudo-versions).
func programVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return developmentVersion
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

// versionText returns the line that --version prints: name, version, commit and
// its date where they are known, system, Go version.
func versionText(name string) string {
	var commit, date string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = s.Value[:min(len(s.Value), 12)]
			case "vcs.time":
				date = s.Value
			}
		}
	}
	source := ""
	if commit != "" {
		source = fmt.Sprintf(" (commit %s of %s)", commit, date)
	}
	return fmt.Sprintf("%s %s%s %s/%s %s\n", name, programVersion(), source, runtime.GOOS, runtime.GOARCH, runtime.Version())
}
