package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// openBindings opens the bindings at path as one of several schedulers does.
func openBindings(t testing.TB, path string, shared bool) *libraries {
	t.Helper()
	l, err := openLibraries(path, shared, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustSet(t testing.TB, l *libraries, libID, machineID string) {
	t.Helper()
	if err := l.set(libID, machineID); err != nil {
		t.Fatalf("binding %s to %q: %v", libID, machineID, err)
	}
}

func putFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a file may hold when it is opened.
func TestBindingsFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text, want string // the bindings as fmt prints a map, or the error
	}{
		{"none", "", "map[]"},
		{"spaces", "\n\n", "map[]"},
		{"an earlier version's", "{\n  \"a\": \"m\",\n  \"b\": \"Ann's Mac\"\n}\n", "map[a:m b:Ann's Mac]"},
		{"without a line end", `{"a":"m"}`, "map[a:m]"},
		{"with changes", "{\"a\":\"m\",\"c\":\"m\"}\n{\"b\":\"n\"}\n{\"a\":null}\n{\"c\":\"n\"}\n", "map[b:n c:n]"},
		{"an unfinished change", "{\"a\":\"m\"}\n{\"b\":\"n\"}\n{\"a\":nu", "map[a:m b:n]"},
		{"a change of zeros", "{\"a\":\"m\"}\n\x00\x00\x00\x00", "map[a:m]"},
		{"a change with zeros", "{\"a\":\"m\"}\n{\"b\x00\x00\x00\n", "map[a:m]"},
		{"half a file", "{\n  \"a\": \"m\",\n  \"b\"", "error"},
		{"half of one line", `{"a":"m`, "error"},
		{"a broken line between changes", "{\"a\":\"m\"}\n{\"b\":\n{\"c\":\"m\"}\n", "error"},
		{"a foreign line", "{\"a\":\"m\"}\nhello\n", "error"},
		{"no JSON", "hello", "error"},
		{"a list", `["a"]`, "error"},
		{"a machine that is a number", `{"a":5}`, "error"},
		{"a change to a number", "{\"a\":\"m\"}\n{\"a\":5}", "error"},
		{"a name that a library may not have", `{"../a":"m"}`, "error"},
		{"a machine with a slash", `{"a":"m/n"}`, "error"},
		{"a daemon of the pool", `{"a":"cloud_b"}`, "error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), librariesFile)
			putFile(t, path, test.text)
			l, err := openLibraries(path, false, slog.New(slog.NewTextHandler(t.Output(), nil)))
			if err != nil {
				if test.want != "error" || !strings.Contains(err.Error(), path) {
					t.Errorf("got the error %v, want %s and the path", err, test.want)
				}
				return
			}
			if got := fmt.Sprint(l.snapshot()); got != test.want {
				t.Fatalf("got %s, want %s", got, test.want)
			}
			// A change is kept beside the others.
			mustSet(t, l, "new", "x")
			want := l.snapshot()
			if got := openBindings(t, path, false).snapshot(); !maps.Equal(got, want) || got["new"] != "x" {
				t.Errorf("after a change: got %v from the file, want %v", got, want)
			}
			// An earlier version can read the file after the end of this one.
			l.close()
			var old map[string]string
			data, err := os.ReadFile(path)
			if err == nil {
				err = decodeJSON(data, &old)
			}
			if err != nil || !maps.Equal(old, want) {
				t.Errorf("after the end: got %v, %v, want %v in one object", old, err, want)
			}
		})
	}
}

// A shared file must be in a directory; a link to it stays a link.
func TestSharedBindingsOpen(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	if _, err := openLibraries(filepath.Join(dir, "none", "shared"), true, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "a directory that exists") || strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v without a directory, want an error that says what is missing", err)
	}
	if runtime.GOOS == "windows" {
		t.Skip("the scheduler does not run on Windows")
	}
	path, link := filepath.Join(dir, "shared"), filepath.Join(dir, "link")
	openBindings(t, path, true)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	l := openBindings(t, link, true)
	l.file.objects = minBindingsLog + 1 // the next change writes it anew
	mustSet(t, l, "a", "m")
	info, err := os.Lstat(link)
	if got := openBindings(t, path, true).snapshot(); err != nil || info.Mode().IsRegular() || got["a"] != "m" {
		t.Errorf("got %v in the file and %v, %v for the link, want the binding and a link", got, info, err)
	}
}

// Two schedulers change one file in turns. Whatever the byte at which one is killed,
// the next to open the file has every change that was answered.
func TestBindingsSurviveACutAtEveryByte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "shared")
	nodes := []*libraries{openBindings(t, path, true), openBindings(t, path, true)}
	want := map[string]string{}
	random := rand.New(rand.NewPCG(1, 2))
	cut := filepath.Join(dir, "cut")
	for range 12 {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		old := maps.Clone(want)
		libID, machineID := fmt.Sprint("lib", random.IntN(4)), fmt.Sprint("machine <", random.IntN(3), ">")
		if random.IntN(3) == 0 {
			machineID = ""
		}
		if want[libID] = machineID; machineID == "" {
			delete(want, libID)
		}
		mustSet(t, nodes[random.IntN(2)], libID, machineID)
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for end := len(before); end <= len(after); end++ {
			for _, tail := range []string{"", strings.Repeat("\x00", len(after)-end)} { // a crash of the machine may leave zeros
				putFile(t, cut, string(after[:end])+tail)
				got := openBindings(t, cut, false)
				if s := got.snapshot(); !maps.Equal(s, want) && (!maps.Equal(s, old) || end >= len(after)-1) {
					t.Fatalf("%q cut at byte %d: got %v, want %v", after, end, s, want)
				}
				state := got.snapshot()
				mustSet(t, got, "next", "m")
				state["next"] = "m"
				if s := openBindings(t, cut, false).snapshot(); !maps.Equal(s, state) {
					data, _ := os.ReadFile(cut)
					t.Fatalf("%q cut at byte %d, after another change: got %v, want %v (%q)", after, end, s, state, data)
				}
			}
		}
	}
}

// Several schedulers change one file at the same time, while it is written anew.
func TestBindingsOfSeveralWriters(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shared")
	putFile(t, path, "{}"+strings.Repeat("\n{\"old\":\"m\"}", minBindingsLog-10)+"\n")
	var wg sync.WaitGroup
	nodes := make([]*libraries, 3)
	for i := range nodes {
		nodes[i] = openBindings(t, path, true)
		wg.Go(func() {
			for n := range 20 {
				mustSet(t, nodes[i], fmt.Sprintf("lib%d-%d", i, n%5), fmt.Sprint("machine", n))
			}
		})
	}
	wg.Wait()
	want := openBindings(t, path, false).snapshot()
	if len(want) != len(nodes)*5+1 || want["lib2-4"] != "machine19" {
		t.Errorf("got the bindings %v, want 5 of each scheduler", want)
	}
	for i, l := range nodes {
		if err := l.exclusive(t.Context(), l.read); err != nil || !maps.Equal(l.snapshot(), want) {
			t.Errorf("scheduler %d: got %v, %v, want %v", i, l.snapshot(), err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 10_000 {
		t.Errorf("got a file of %v bytes, %v, want one that was written anew", info.Size(), err)
	}
}

// What happens to a shared file while it is used: the bindings that were read last
// stay in force, a change is refused, and the file is used again once it is repaired.
func TestBindingsFileIsDamaged(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		damage func(path string) error
	}{
		{"removed", os.Remove},
		{"a directory", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }},
		{"foreign", func(path string) error { return os.WriteFile(path, []byte("hello, this is no JSON\n"), 0o600) }},
		{"half written", func(path string) error { return os.WriteFile(path, []byte("{\n\"a\":"), 0o600) }},
		{"too large", func(path string) error { return os.Truncate(path, maxBindingsFile+1) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "shared")
			l := openBindings(t, path, true)
			mustSet(t, l, "a", "m")
			data, err := os.ReadFile(path)
			if err == nil {
				err = test.damage(path)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := l.set("b", "n"); err == nil {
				t.Error("got a change of a damaged file, want an error")
			}
			if err := l.exclusive(t.Context(), l.read); err == nil {
				t.Error("got no error for a damaged file")
			}
			if got := fmt.Sprint(l.snapshot()); got != "map[a:m]" {
				t.Errorf("got the bindings %s, want map[a:m]", got)
			}
			if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, data, 0o600)); err != nil {
				t.Fatal(err)
			}
			mustSet(t, l, "b", "n")
			if got := openBindings(t, path, true).snapshot(); len(got) != 2 {
				t.Errorf("after the repair: got %v, want two bindings", got)
			}
		})
	}
}

// A scheduler sees what another one writes, and which machines it affects.
func TestBindingsOfAnotherScheduler(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shared")
	here, there := openBindings(t, path, true), openBindings(t, path, true)
	mustSet(t, there, "a", "m")
	if err := here.exclusive(t.Context(), here.read); err != nil {
		t.Fatal(err)
	}
	affected := make(chan string, 100)
	here.watchMachines(func(machineID string) { affected <- machineID + "=" + here.of(machineID) })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { here.watch(ctx) })
	defer wg.Wait()
	defer cancel()
	next := func(want ...string) {
		t.Helper()
		var got []string
		for range want {
			select {
			case one := <-affected:
				got = append(got, one)
			case <-time.After(20 * time.Second):
				t.Fatalf("got the machines %v, want %v", got, want)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("got the machines %v, want %v", got, want)
		}
	}
	next("m=a")
	mustSet(t, there, "b", "n")
	next("n=b")
	mustSet(t, there, "a", "n")
	next("m=", "n=a")
	mustSet(t, there, "a", "")
	next("n=b")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the file to be missed", here.file.broken.Load)
	putFile(t, path, `{"c":"m"}`)
	next("m=c", "n=")
	awaitThat(t, "the file to count as repaired", func() bool { return !here.file.broken.Load() })
}

// A file system that does not answer blocks a change for bindingsTimeout, and no
// lookup.
func TestBindingsOnADeadFileSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shared")
	synctest.Test(t, func(t *testing.T) {
		l := openBindings(t, path, true)
		mustSet(t, l, "a", "m")
		blocked := make(chan struct{})
		begin := time.Now()
		if err := l.exclusive(t.Context(), func() error { <-blocked; return nil }); !errors.Is(err, errNoAnswer) {
			t.Errorf("got %v, want %v", err, errNoAnswer)
		}
		if err := l.set("b", "m"); err == nil || !strings.Contains(err.Error(), errNoAnswer.Error()) {
			t.Errorf("got %v, want %v", err, errNoAnswer)
		}
		if took := time.Since(begin); took != 2*bindingsTimeout {
			t.Errorf("two changes took %v, want %v", took, 2*bindingsTimeout)
		}
		if got, _ := l.get("a"); got != "m" || l.of("m") != "a" {
			t.Errorf("got the binding %q, want m", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), bindingsPoll+time.Second)
		begin = time.Now()
		l.watch(ctx) // the scheduler stops meanwhile
		if cancel(); time.Since(begin) != bindingsPoll+time.Second {
			t.Errorf("the watch ended after %v, want it to end with the scheduler's work", time.Since(begin))
		}
		close(blocked)
		mustSet(t, l, "b", "m")
	})
}

// FuzzBindings: what is read of any file is valid, and no change is lost behind it.
func FuzzBindings(f *testing.F) {
	for _, seed := range []string{"{}", "{\"a\":\"m\"}\n{\"a\":null}\n{\"b", "{}\n\x00\x00", "[]", "", "{}{}", "{\"a\":\"m\"}\n\n{\"a\":\"\\u0041\"}\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		changes, _, end, err := parseBindings(data, true)
		if err != nil {
			return
		}
		l := &libraries{}
		l.apply(changes, true)
		for libID, machineID := range l.snapshot() {
			if checkLibID(libID) != nil || checkMachineID(machineID) != nil {
				t.Fatalf("got the binding of %q to %q", libID, machineID)
			}
		}
		whole := append(bytes.Clone(data[:end]), "\n{\"new\":\"m\"}\n"...)
		if changes, _, _, err = parseBindings(whole, true); err != nil || changes[len(changes)-1] != (binding{"new", "m"}) {
			t.Fatalf("%q: got %v, %v, want the new binding last", whole, changes, err)
		}
	})
}

// The time of a change and of a lookup does not grow with the bindings.
//
//	go test -run '^$' -bench Bindings .
func BenchmarkBindings(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		path := filepath.Join(b.TempDir(), librariesFile)
		var text bytes.Buffer
		text.WriteString(`{"first":"machine"`)
		for i := range n {
			fmt.Fprintf(&text, ",\n\"lib%d\":\"machine%d\"", i, i)
		}
		text.WriteString("}\n")
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
		for _, shared := range []bool{false, true} {
			l := openBindings(b, path, shared)
			b.Run(fmt.Sprintf("put/%d/shared=%v", n, shared), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					mustSet(b, l, "lib5", fmt.Sprint("other", i%2))
				}
			})
			h := newHub(hubConfig{libraryOf: l.of, publish: func(string, any) {}, log: slog.New(slog.DiscardHandler)})
			l.watchMachines(func(machineID string) { h.bound(machineID, l.of(machineID)) })
			b.Run(fmt.Sprintf("handshake/%d/shared=%v", n, shared), func(b *testing.B) {
				for b.Loop() {
					c := &hubConn{hub: h}
					params := handshakeParams{MachineID: "machine7"}
					if !c.setHandshake(&params) || h.register(c, params) != "" {
						b.Fatal("the machine was refused")
					}
					if got := h.machines["machine7"].view.LibID; got != "lib7" {
						b.Fatalf("got the library %q, want lib7", got)
					}
					h.drop(c, errLinkLost)
				}
			})
		}
		b.Run(fmt.Sprintf("look/%d", n), func(b *testing.B) {
			l := openBindings(b, path, true)
			for b.Loop() {
				if err := l.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
					b.Fatal(err)
				}
			}
		})
	}
}

// The bindings are bounded: of too many the next one is refused, and a bound library
// can still be bound anew and freed.
func TestTooManyBindings(t *testing.T) {
	t.Parallel()
	l := openBindings(t, filepath.Join(t.TempDir(), librariesFile), false)
	all := make([]binding, maxLibraries)
	for i := range all {
		all[i] = binding{fmt.Sprint("lib", i), "m"}
	}
	l.apply(all, true)
	if err := l.set("another", "m"); err == nil || !strings.Contains(err.Error(), "free one first") {
		t.Errorf("got %v for library %d, want an error that says what to do", err, maxLibraries+1)
	}
	mustSet(t, l, "lib7", "n")
	mustSet(t, l, "lib8", "")
	mustSet(t, l, "another", "m")
	if got := openBindings(t, l.file.path, false); len(got.snapshot()) != maxLibraries || got.of("n") != "lib7" {
		t.Errorf("got %d bindings from the file, want %d", len(got.snapshot()), maxLibraries)
	}
}
