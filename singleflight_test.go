package main

import (
	"context"
	"testing"
	"testing/synctest"
)

// TestStoppedCallIsNotRemembered: when the last caller leaves, it gets the result
// of a run that ends well all the same, but that result is not kept. The next
// caller of the key starts a new run.
func TestStoppedCallIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := newFlightGroup(t.Context(), taskKeep, maxTaskKept)
		runs := 0
		run := func(ctx context.Context) (any, error) {
			runs++
			if runs == 1 {
				<-ctx.Done() // the caller has left, and the work is done all the same
			}
			return runs, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got any
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, err = group.do(ctx, "key", "", run)
		}()
		synctest.Wait()
		cancel()
		if <-done; err != nil || got != 1 {
			t.Errorf("the caller that left got %v, %v, want the result 1 of the run that ended well", got, err)
		}
		if got, err := group.do(t.Context(), "key", "", run); err != nil || got != 2 {
			t.Errorf("the next caller got %v, %v, want the result 2 of a second run", got, err)
		}
		group.wait()
	})
}

// TestCallerWaitsForStoppingRun: a caller that comes while a stopped run still
// cleans up does not get that run's error. It waits and starts a new one.
func TestCallerWaitsForStoppingRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := newFlightGroup(t.Context(), taskKeep, maxTaskKept)
		cleanedUp := make(chan struct{})
		runs := 0
		run := func(ctx context.Context) (any, error) {
			runs++
			if runs > 1 {
				return "second run", nil
			}
			<-ctx.Done()
			<-cleanedUp
			return nil, context.Cause(ctx)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := group.do(ctx, "key", "", run)
			left <- err
		}()
		synctest.Wait()
		cancel()
		synctest.Wait() // the run is cleaning up
		type outcome struct {
			value any
			err   error
		}
		second := make(chan outcome, 1)
		go func() {
			value, err := group.do(t.Context(), "key", "", run)
			second <- outcome{value, err}
		}()
		synctest.Wait()
		if runs != 1 {
			t.Errorf("%d runs while the first one cleans up, want 1", runs)
		}
		close(cleanedUp)
		if err := <-left; err != context.Canceled {
			t.Errorf("the caller that left got %v, want %v", err, context.Canceled)
		}
		if got := <-second; got.err != nil || got.value != "second run" {
			t.Errorf("the caller that came meanwhile got %v, %v, want the result of a second run", got.value, got.err)
		}
		group.wait()
	})
}
