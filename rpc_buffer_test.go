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

// TestBufferGrows: a message keeps its content while its buffer grows from the
// smallest to its limit.
func TestBufferGrows(t *testing.T) {
	t.Parallel()
	var p bufferPool
	const limit = maxLent + 12345
	for range 3 { // with the buffers of the round before
		var message []byte
		for len(message) < limit {
			if message = p.grow(message, limit); len(message) > 0 && cap(message) <= len(message) {
				t.Fatalf("got a buffer of %d bytes for %d, want a larger one", cap(message), len(message))
			}
			for len(message) < min(cap(message), limit) {
				message = append(message, byte(len(message)%251))
			}
		}
		for i, c := range message {
			if c != byte(i%251) {
				t.Fatalf("byte %d is %d, want %d as it was received", i, c, i%251)
			}
		}
		p.put(message)
	}
}
