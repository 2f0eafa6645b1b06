package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"sync"
)

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

// holder is the machine whose token this is, "" for none.
func (t *childTokens) holder(token string) string {
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
