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
	"os"
	"path/filepath"
	"sync"
)

const (
	// maxLibraries bounds the bindings: the file is written whole each time.
	maxLibraries = 100_000
	// maxLibrariesFile bounds the file: so many bindings of usual names take a tenth.
	maxLibrariesFile = 64 << 20
)

// libraries binds libraries to the machines of users. A library without a
// binding is served by the pool.
type libraries struct {
	path string

	mu      sync.Mutex // guards the field below, and the file
	machine map[string]string
}

// openLibraries reads the bindings of a workspace. A file that cannot be read
// is an error: to begin anew would lose it.
func openLibraries(workspace string) (*libraries, error) {
	l := &libraries{path: filepath.Join(workspace, librariesFile), machine: map[string]string{}}
	f, err := os.OpenFile(l.path, os.O_RDONLY|openNonblock, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	var data []byte
	if err == nil {
		data, err = readRegular(f, maxLibrariesFile)
		_ = f.Close() // only read
	}
	if err != nil {
		return nil, fmt.Errorf("reading the libraries: %s: %w", l.path, err)
	}
	if err := json.Unmarshal(data, &l.machine); err != nil {
		return nil, fmt.Errorf("reading the libraries: %s: %w: repair or remove it", l.path, err)
	}
	if l.machine == nil {
		l.machine = map[string]string{} // the file said null
	}
	return l, nil
}

// get is the machine that a library is bound to.
func (l *libraries) get(libID string) (machineID string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	machineID, ok = l.machine[libID]
	return machineID, ok
}

// of is a library that is bound to the machine, the first by name, else "".
func (l *libraries) of(machineID string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := ""
	for lib, machine := range l.machine {
		if machine == machineID && (first == "" || lib < first) {
			first = lib
		}
	}
	return first
}

// set binds a library, or frees it when machineID is "". The error is a
// *apiError.
func (l *libraries) set(libID, machineID string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := maps.Clone(l.machine)
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
		return badRequest("the bindings take more room than is read of them: free one first")
	}
	if err == nil {
		err = writeFileAtomic(l.path, append(data, '\n'), 0o600)
	}
	if err != nil { // a full disk is for the caller to know
		return &apiError{code: codeInternalError, status: http.StatusInternalServerError, message: "keeping the binding: " + err.Error()}
	}
	l.machine = next
	return nil
}

// childTokens knows which token belongs to which of the pool's daemons.
type childTokens struct {
	mu        sync.Mutex // guards the field below
	byMachine map[string][sha256.Size]byte
}

// issue makes a new token; an earlier one of the same machine is void.
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

// revoke makes the token of a daemon that ended worthless.
func (t *childTokens) revoke(machineID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byMachine, machineID)
}

// machineFor is the machine whose token this is, "" for none.
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
