package main

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchFiles(t *testing.T) {
	t.Parallel()
	first, second := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first, "a")
	write(second, "a")
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var changes atomic.Int64
		watch := newFileWatch(first, second)
		write(second, "ab")
		go watch.run(ctx, func() { changes.Add(1) })
		synctest.Wait()
		after := func(looks int, want int64, what string) {
			t.Helper()
			time.Sleep(time.Duration(looks) * fileWatchInterval)
			synctest.Wait()
			if got := changes.Load(); got != want {
				t.Errorf("%s: got %d changes, want %d", what, got, want)
			}
		}
		after(1, 0, "one was written before the first look")
		after(4, 1, "it was written")
		write(first, "bb")
		after(1, 1, "one of two files was written a moment ago")
		write(second, "bb")
		after(1, 1, "the second was written a moment ago")
		after(1, 2, "both are complete")
		after(5, 2, "nothing more happened")
		replacement := first + ".new"
		write(replacement, "cc")
		if err := os.Rename(replacement, first); err != nil {
			t.Fatal(err)
		}
		after(2, 3, "a file was replaced")
		if err := os.Remove(second); err != nil {
			t.Fatal(err)
		}
		after(2, 4, "a file was removed")
		write(second, "dd")
		after(2, 5, "it is back")
	})
}
