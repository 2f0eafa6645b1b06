package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// queuedClone is a clone in a test of clonePlaces.
type queuedClone struct {
	release func()
	err     error
	heard   []string // where it waited
	cancel  context.CancelCauseFunc
}

// enqueue starts clones in order.
func enqueue(t *testing.T, places *clonePlaces, n int) (all []*queuedClone) {
	t.Helper()
	for range n {
		ctx, cancel := context.WithCancelCause(t.Context())
		c := &queuedClone{cancel: cancel}
		all = append(all, c)
		go func() { // ends with its place or the test's context
			c.release, c.err = places.acquire(ctx, func(place string) { c.heard = append(c.heard, place) })
		}()
		synctest.Wait()
	}
	return all
}

// running are the numbers of the clones that have a place.
func running(all []*queuedClone) (numbers []int) {
	for i, c := range all {
		if c.release != nil && c.err == nil {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

// TestClonePlacesOfADaemon: four run, the others follow in order of arrival, and one
// that is cancelled leaves the queue at once.
func TestClonePlacesOfADaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := &clonePlaces{}
		all := enqueue(t, places, 8)
		if got, want := running(all), []int{1, 2, 3, 4}; !slices.Equal(got, want) {
			t.Fatalf("got %v running, want %v", got, want)
		}
		if got, want := strings.Join(all[6].heard, ", "), "3rd of 3 in this daemon"; got != want {
			t.Errorf("the seventh waits as %q, want %q", got, want)
		}
		gone := errors.New("gone")
		all[4].cancel(gone)
		synctest.Wait()
		if !errors.Is(all[4].err, gone) {
			t.Errorf("a cancelled one got %v, want %v", all[4].err, gone)
		}
		all[1].release()
		synctest.Wait()
		if got, want := running(all), []int{1, 2, 3, 4, 6}; !slices.Equal(got, want) {
			t.Errorf("after one has ended: got %v, want %v", got, want)
		}
		if got, want := all[7].heard[len(all[7].heard)-1], "2nd of 2 in this daemon"; got != want {
			t.Errorf("the eighth waits as %q, want %q", got, want)
		}
		all[0].release()
		all[2].release()
		synctest.Wait()
		if got := len(running(all)); got != 7 {
			t.Errorf("got %d with a place, want 7: all but the cancelled", got)
		}
	})
}

// TestClonePlacesOfAPool: a clone runs when the scheduler has given it a place, and
// keeps it.
func TestClonePlacesOfAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		places := &clonePlaces{changed: func() { asked.Add(1) }}
		all := enqueue(t, places, 6)
		if got := running(all); len(got) > 0 || asked.Load() != 6 {
			t.Fatalf("before an answer: got %v running after %d questions, want none after 6", got, asked.Load())
		}
		if got := places.wanted(); fmt.Sprint(got) != "[1 2 3 4]" {
			t.Errorf("got %v wanted, want those with a place in the daemon", got)
		}
		places.update([]clonePlace{{ID: 1}, {ID: 2, Position: 1, Of: 2}, {ID: 3, Position: 2, Of: 2}, {ID: 99}})
		synctest.Wait()
		places.update([]clonePlace{{ID: 1, Position: 1, Of: 1}}) // a place is not taken away
		synctest.Wait()
		if got := running(all); fmt.Sprint(got) != "[1]" {
			t.Errorf("got %v running, want [1]", got)
		}
		if got := fmt.Sprint(all[2].heard); got != "[2nd of 2 in the pool]" {
			t.Errorf("the third waits as %s, want the 2nd of 2", got)
		}
		all[0].release()
		synctest.Wait()
		if got := places.wanted(); fmt.Sprint(got) != "[2 3 4 5]" {
			t.Errorf("after one has ended: got %v wanted, want the next", got)
		}
	})
}

func TestOrdinal(t *testing.T) {
	var got []string
	for _, n := range []int{1, 2, 3, 4, 10, 11, 12, 13, 21, 22, 101, 111, 1002} {
		got = append(got, ordinal(n))
	}
	if want := "1st 2nd 3rd 4th 10th 11th 12th 13th 21st 22nd 101st 111th 1002nd"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, " "), want)
	}
}
