package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"slices"
	"strings"
	"sync"
)

// maxLibraries bounds the bindings: each costs some 200 bytes of memory.
const maxLibraries = 200_000

// libraries binds libraries to the machines of users. A library without a
// binding is served by the pool. Every operation takes the same time whatever the
// number of bindings, except list.
type libraries struct {
	file bindingsFile

	mu      sync.Mutex          // guards the fields below
	machine map[string]string   // by library
	bound   map[string][]string // the libraries by machine, sorted
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
func (l *libraries) of(machineID string) string {
	if libID, ok := strings.CutPrefix(machineID, cloudPrefix); ok {
		return libID
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if bound := l.bound[machineID]; len(bound) > 0 {
		return bound[0]
	}
	return ""
}

// anyOf reports whether match accepts a library that is bound to the machine.
func (l *libraries) anyOf(machineID string, match func(libID string) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.bound[machineID], match)
}

// watchMachines has changed called with the machines that have a library, now, and
// with those whose libraries may have changed, later. One call ends before the next.
func (l *libraries) watchMachines(changed func(machineID string)) {
	l.file.changed = changed
	l.mu.Lock()
	machines := slices.Collect(maps.Keys(l.bound))
	l.mu.Unlock()
	for _, machineID := range machines {
		changed(machineID)
	}
}

// list returns bindings sorted by library, those after the library of another, and
// reports whether there are more than limit.
func (l *libraries) list(after string, limit int) (list []binding, more bool) {
	all := l.snapshot()
	var names []string
	for libID := range all {
		if libID > after {
			names = append(names, libID)
		}
	}
	slices.Sort(names)
	list = []binding{}
	for _, libID := range names[:min(limit, len(names))] {
		list = append(list, binding{libID, all[libID]})
	}
	return list, len(names) > limit
}

// snapshot returns a copy of all bindings.
func (l *libraries) snapshot() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.machine)
}

// count returns the number of bindings.
func (l *libraries) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.machine)
}

// apply makes changes in their order, of which one without a machine frees its
// library. whole says that they are all bindings. It returns the machines whose
// libraries may be others now.
func (l *libraries) apply(changes []binding, whole bool) (affected []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if whole {
		return l.replaceLocked(changes)
	}
	for _, c := range changes {
		before := l.machine[c.LibID]
		if before == c.MachineID {
			continue
		}
		if before != "" {
			delete(l.machine, c.LibID)
			if rest := l.bound[before]; len(rest) == 1 {
				delete(l.bound, before)
			} else if i, ok := slices.BinarySearch(rest, c.LibID); ok {
				l.bound[before] = slices.Delete(rest, i, i+1)
			}
			affected = append(affected, before)
		}
		if c.MachineID != "" {
			l.machine[c.LibID] = c.MachineID
			bound := l.bound[c.MachineID]
			i, _ := slices.BinarySearch(bound, c.LibID)
			l.bound[c.MachineID] = slices.Insert(bound, i, c.LibID)
			affected = append(affected, c.MachineID)
		}
	}
	return affected
}

func (l *libraries) replaceLocked(changes []binding) (affected []string) {
	affected = slices.Collect(maps.Keys(l.bound))
	l.machine, l.bound = map[string]string{}, map[string][]string{}
	for _, c := range changes {
		if l.machine[c.LibID] = c.MachineID; c.MachineID == "" {
			delete(l.machine, c.LibID)
		}
	}
	for libID, machineID := range l.machine {
		l.bound[machineID] = append(l.bound[machineID], libID)
	}
	for machineID, bound := range l.bound {
		slices.Sort(bound)
		affected = append(affected, machineID)
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
