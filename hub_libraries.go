package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
)

const (
	// maxLibraries bounds the bindings: the file is written whole each time.
	maxLibraries = 100_000
	// maxLibrariesFile bounds the file. maxLibraries bindings with names of a usual
	// length take a tenth of it.
	maxLibrariesFile = 64 << 20
)

// libraries binds libraries to the machines of users. A library without a
// binding is served by the pool.
type libraries struct {
	path    string
	writing chan struct{} // holds a token while a binding is written to the file

	mu      sync.Mutex        // guards the fields below
	machine map[string]string // by library; replaced, never changed
	library map[string]string // by machine, the first by name; replaced, never changed
}

// openLibraries reads the bindings of a workspace. A file that cannot be read is
// an error: the next write would overwrite it.
func openLibraries(workspace string) (*libraries, error) {
	l := &libraries{path: filepath.Join(workspace, librariesFile), writing: make(chan struct{}, 1)}
	if err := removeTemporaries(l.path); err != nil {
		return nil, fmt.Errorf("reading the libraries: %w", err)
	}
	data, err := readRegularAt(l.path, maxLibrariesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the libraries: %s: %w", l.path, err)
	}
	var bindings map[string]string
	if err := decodeJSON(data, &bindings); err != nil {
		return nil, fmt.Errorf("reading the libraries: %s: %w: repair or remove it", l.path, err)
	}
	l.replace(bindings)
	return l, nil
}

func (l *libraries) bindings() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine
}

func (l *libraries) replace(next map[string]string) {
	library := map[string]string{}
	for lib, machine := range next {
		if first, ok := library[machine]; !ok || lib < first {
			library[machine] = lib
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.machine, l.library = next, library
}

// machines returns the machines that a library is bound to, with the library.
func (l *libraries) machines() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.library
}

// get returns the machine that a library is bound to.
func (l *libraries) get(libID string) (machineID string, ok bool) {
	machineID, ok = l.bindings()[libID]
	return machineID, ok
}

// of returns the library of a machine: that of a pool's daemon, else one that is
// bound to the machine, the first by name; "" when there is none.
func (l *libraries) of(machineID string) string {
	if libID, ok := strings.CutPrefix(machineID, cloudPrefix); ok {
		return libID
	}
	return l.machines()[machineID]
}

// set binds a library, or frees it when machineID is "". The file is written
// first, so that a binding that was answered for survives a crash. The error is
// an *apiError.
func (l *libraries) set(libID, machineID string) error {
	l.writing <- struct{}{} // a write ends with the disk's answer
	defer func() { <-l.writing }()
	next := map[string]string{}
	maps.Copy(next, l.bindings())
	if machineID == "" {
		delete(next, libID)
	} else {
		next[libID] = machineID
	}
	if len(next) > maxLibraries {
		return badRequest(fmt.Sprintf("more than %d libraries are bound: free one first", maxLibraries))
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if len(data) >= maxLibrariesFile {
		return badRequest("the file of bindings would become too large: free a library first")
	}
	if err == nil {
		err = writeFileAtomic(l.path, append(data, '\n'), 0o600)
	}
	if err != nil { // the caller has to know of a full disk
		return &apiError{code: codeInternalError, status: http.StatusInternalServerError, message: "keeping the binding: " + err.Error()}
	}
	l.replace(next)
	return nil
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
