package main

import "testing"

func TestErrorWithReplacesAFact(t *testing.T) {
	before := gitFailure(gitNetwork, "git fetch: cut off")
	after := before.with("reason", gitTimeout).with("exit_code", 128)
	if after.Data["reason"] != gitTimeout || after.Data["exit_code"] != 128 || after.name() != codeGitFailed {
		t.Errorf("got %v, want the reason timeout and exit code 128", after.Data)
	}
	if before.Data["reason"] != gitNetwork || before.Data["exit_code"] != -1 {
		t.Errorf("the first error has changed: %v, want the reason network and exit code -1", before.Data)
	}
}
