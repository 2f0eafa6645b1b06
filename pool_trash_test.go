//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestPoolStartsBesideItsTrash: neither the start nor the end of a pool waits
// until the trash of an earlier one is deleted.
func TestPoolStartsBesideItsTrash(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	workspace := realTempDir(t)
	const dirs, files = 40, 50 // deleting them takes some 100 times as long as a start
	for i := range dirs {
		dir := filepath.Join(workspace, trashPrefix+"x", fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for j := range files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(j)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	trash := func() error {
		_, err := os.Lstat(filepath.Join(workspace, trashPrefix+"x"))
		return err
	}
	p, err := newPool(poolConfig{workspace: workspace, daemonBin: "/bin/false", maxDaemons: 1, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := trash(); err != nil {
		t.Errorf("when the pool has started: got %v, want the trash still there", err)
	}
	if err := p.shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := trash(); err != nil {
		t.Errorf("when the pool has ended: got %v, want the rest of the trash still there", err)
	}
	testPoolIn(t, workspace)
	awaitThat(t, "the trash is deleted", func() bool { return errors.Is(trash(), fs.ErrNotExist) })
}
