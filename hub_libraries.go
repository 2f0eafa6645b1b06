package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"slices"
	"strings"
	"sync"
)

// maxLibraries bounds the bindings: each costs up to a kilobyte of memory, with its
// machine.
const maxLibraries = 100_000

// libraries binds libraries to the machines of users. A library without a
// binding is served by the pool. The time of a lookup and of a change does not
// depend on the number of bindings.
type libraries struct {
	file bindingsFile

	mu      sync.Mutex          // guards the fields below
	machine map[string]string   // by library
	bound   map[string][]string // the libraries by machine; most have one
}

// get returns the machine that a library is bound to.
func (l *libraries) get(libID string) (machineID string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	machineID, ok = l.machine[libID]
	return machineID, ok
}

// of returns the library of a machine: that of a pool's daemon, else one that is
// bound to the machine, the first by name; "" when there is none.
func (l *libraries) of(machineID string) (first string) {
	if libID, ok := strings.CutPrefix(machineID, cloudPrefix); ok {
		return libID
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, libID := range l.bound[machineID] {
		if first == "" || libID < first {
			first = libID
		}
	}
	return first
}

// anyOf reports whether match accepts a library that is bound to the machine.
func (l *libraries) anyOf(machineID string, match func(libID string) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.bound[machineID], match)
}

// list returns the bindings that match accepts, sorted by library: of those after
// the library of another, the first limit ones. next is the last of them, "" if
// there are no more.
func (l *libraries) list(after string, limit int, match func(libID string) bool) (list []binding, next string) {
	all := l.snapshot()
	var names []string
	for libID := range all {
		if libID > after {
			names = append(names, libID)
		}
	}
	slices.Sort(names)
	if len(names) > limit {
		names = names[:limit]
		next = names[limit-1]
	}
	list = []binding{}
	for _, libID := range names {
		if match(libID) {
			list = append(list, binding{libID, all[libID]})
		}
	}
	return list, next
}

// snapshot returns a copy of all bindings.
func (l *libraries) snapshot() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.machine)
}

// watchMachines has changed called with the machines that have a library, now, and
// with those whose libraries may have changed, later. One call ends before the next.
func (l *libraries) watchMachines(changed func(machineID string)) {
	l.file.changed = changed
	for _, machineID := range l.snapshot() {
		changed(machineID)
	}
}

// apply makes changes in their order, of which one without a machine frees its
// library. whole says that they are all bindings. It returns the machines whose
// libraries may be others now.
func (l *libraries) apply(changes []binding, whole bool) (affected []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if whole {
		for machineID := range l.bound {
			affected = append(affected, machineID)
		}
		l.machine, l.bound = map[string]string{}, map[string][]string{}
	}
	for _, c := range changes {
		before := l.machine[c.LibID]
		if before == c.MachineID {
			continue
		}
		if before != "" {
			rest := l.bound[before]
			last := len(rest) - 1
			rest[slices.Index(rest, c.LibID)] = rest[last]
			l.bound[before] = rest[:last]
			if last == 0 {
				delete(l.bound, before)
			}
			delete(l.machine, c.LibID)
			affected = append(affected, before)
		}
		if c.MachineID != "" {
			l.machine[c.LibID] = c.MachineID
			l.bound[c.MachineID] = append(l.bound[c.MachineID], c.LibID)
			affected = append(affected, c.MachineID)
		}
	}
	return affected
}

// childTokens holds the tokens of the pool's daemons, as hashes.
type childTokens struct {
	mu        sync.Mutex // guards the field below
	byMachine map[string][sha256.Size]byte
}

// issue makes a new token; an earlier one of the same machine is no longer valid.
func (t *childTokens) issue(machineID string) secret {
	token := randomHex(32)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byMachine == nil {
		t.byMachine = map[string][sha256.Size]byte{}
	}
	t.byMachine[machineID] = sha256.Sum256([]byte(token))
	return secret(token)
}

// revoke invalidates the token of a daemon that has ended.
func (t *childTokens) revoke(machineID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byMachine, machineID)
}

// machineFor returns the machine whose token this is, "" for none. It compares
// with every token, so that its time says nothing about them.
func (t *childTokens) machineFor(token string) string {
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	found := ""
	for machine, want := range t.byMachine {
		if subtle.ConstantTimeCompare(sum[:], want[:]) == 1 {
			found = machine
		}
	}
	return found
}
