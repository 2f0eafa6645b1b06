package main

import "testing"

// TestBufferPool: a lent buffer has the room that was asked for, and one that is
// too large or too small is not kept.
func TestBufferPool(t *testing.T) {
	var p bufferPool
	for _, size := range []int{0, 1, minLent, minLent + 1, 100_000, maxLent - 1, maxLent, maxLent + 1, 16 << 20} {
		for range 3 {
			buf := p.get(size)
			if len(buf) != 0 || cap(buf) < size {
				t.Errorf("get(%d) returned %d bytes with room for %d, want an empty buffer with room for them", size, len(buf), cap(buf))
			}
			p.put(buf)
		}
	}
	p.put(make([]byte, 0, minLent+1)) // rounded down
	for range 2 {
		if got := cap(p.get(2 * minLent)); got < 2*minLent {
			t.Errorf("a buffer of %d bytes was lent for %d", got, 2*minLent)
		}
	}
	p.put(make([]byte, 0, maxLent+1))
	for class := range p.sizes {
		if kept, ok := p.sizes[class].Get().(*[]byte); ok && cap(*kept) > maxLent {
			t.Errorf("a buffer of %d bytes is kept, want at most %d", cap(*kept), maxLent)
		}
	}
}
