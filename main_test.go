package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quickRace is the option of the race detector (GORACE) for the programs that the
// tests start.
const quickRace = "atexit_sleep_ms=0"

// TestMain runs this test binary as one of the programs when a test started it by
// that name, so that tests with real processes need no build. After the tests it
// fails the run if they left goroutines, processes or descriptors behind.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) { // a path, where the test started it by a link
	case daemonName:
		os.Exit(runAsInit(atTestClock(runDaemon)))
	case schedulerName:
		os.Exit(runAsInit(atTestClock(runScheduler)))
	case flooderName:
		os.Exit(runFlooder(os.Args[1], os.Args[2]))
	}
	// The tests that need a flag look it up by its name.
	flag.Duration("soak", 0, "how long TestSoakKills goes on, in place of a short time")
	flag.String("cluster", "", "the proxies, nginx,haproxy, that the tests of three nodes run")
	flag.String("cluster-program", "", "the c4a-daemon-scheduler of these tests")
	flag.Bool("update", false, "write REFERENCE.md anew in place of checking it")
	// A program built with the race detector sleeps for a second when it exits; the
	// tests start hundreds.
	if err := os.Setenv("GORACE", quickRace); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Parse()
	if err := errors.Join(overlapWaits(), forgetOpenedFiles()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if signal.Ignored(syscall.SIGHUP) { // as under nohup; the programs that tests start would inherit it
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	descriptors := openDescriptors()
	code := m.Run()
	if left := leftovers(descriptors); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "left behind by the tests:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// overlapWaits raises -parallel above the number of processors, unless it was
// given: most parallel tests wait for processes and clocks, not for a processor.
func overlapWaits() error {
	const waiting = 4 // tests for each processor
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(waiting*runtime.GOMAXPROCS(0)))
}

// forgetOpenedFiles turns off the list of all files that the tests look at. The go
// command hashes each of them after the run to decide whether it may repeat the
// result; the tests look at half a million, and their result depends on git and on
// processes as well.
func forgetOpenedFiles() error { return flag.Set("test.testlogfile", "") }

// testClockVariable holds a number by which the clocks of the link are divided in
// a program that a test starts.
const testClockVariable = "TEST_LINK_CLOCK"

// atTestClock is a program with faster clocks of the link, where the test that
// started it asked for them.
func atTestClock(run func(*program) int) func(*program) int {
	return func(p *program) int {
		if scale, err := strconv.Atoi(p.getenv(testClockVariable)); err == nil {
			p.times = p.times.dividedBy(scale)
		}
		return run(p)
	}
}

// dividedBy makes the clocks of a link run faster.
func (t linkTimes) dividedBy(scale int) linkTimes {
	divisor := time.Duration(scale)
	return linkTimes{ping: t.ping / divisor, pong: t.pong / divisor, piece: t.piece / divisor, wall: t.wall}
}

// skipShort skips a test that needs seconds where -short asks for a quick run; why
// says what takes them, and which quick test has the same subject.
func skipShort(t testing.TB, why string) {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -short: " + why)
	}
}

// underRace reports whether the tests were built with the race detector, which
// costs about ten times the memory and the time.
func underRace() bool {
	info, known := debug.ReadBuildInfo()
	return known && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// eventually is the generous limit of what a test waits for.
const eventually = 20 * time.Second

// awaitThat polls a condition that depends on other processes: nothing announces
// their changes.
func awaitThat(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventually); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v, want within that: %s", eventually, what)
		}
	}
}

// leftovers waits for goroutines, processes and descriptors that are about to end
// and describes those that do not.
func leftovers(descriptors int) string {
	const patience = 10 * time.Second
	var left string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) { // nothing tells of a goroutine's end
		left = ""
		if stacks := otherGoroutines(); len(stacks) > 0 {
			left += fmt.Sprintf("%d goroutines:\n%s\n", len(stacks), strings.Join(stacks, "\n\n"))
		}
		if children := childProcesses(); len(children) > 0 {
			left += fmt.Sprintf("processes: %s\n", strings.Join(children, ", "))
		}
		if n := openDescriptors(); n > descriptors {
			left += fmt.Sprintf("%d descriptors, %d at the start: %s\n", n, descriptors, strings.Join(descriptorNames(), ", "))
		}
		if left == "" {
			return ""
		}
	}
	return left
}

// otherGoroutines returns the stacks of all goroutines except this one and the one
// that os/signal never ends.
func otherGoroutines() []string {
	var text strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&text, 2) // a Builder takes all
	var others []string
	for stack := range strings.SplitSeq(strings.TrimSpace(text.String()), "\n\n") {
		if !strings.Contains(stack, ".otherGoroutines(") && !strings.Contains(stack, "os/signal.loop") {
			others = append(others, stack)
		}
	}
	return others
}

// openDescriptors counts this process's descriptors, except those of the runtime's
// poller and of the count itself; it returns 0 where there is no /proc.
func openDescriptors() int { return len(descriptorNames()) }

func descriptorNames() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.HasSuffix(target, "/fd") {
			continue
		}
		names = append(names, e.Name()+" -> "+target)
	}
	return names
}

// childProcesses lists the children of this process; it returns none where there
// is no /proc.
func childProcesses() []string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var children []string
	for _, e := range entries {
		data, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest)
		if ok && len(fields) > 1 && fields[1] == fmt.Sprint(os.Getpid()) {
			children = append(children, strings.SplitN(string(data), ")", 2)[0]+")")
		}
	}
	return children
}
