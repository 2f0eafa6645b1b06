package main

import (
	"math/bits"
	"sync"
)

const (
	// minLent is the size from which buffers are lent: smaller ones cost little.
	minLent = 4 << 10
	// maxLent is the largest buffer that is kept for the next borrower.
	maxLent = 4 << 20
)

// bufferPool lends buffers for files and messages. The garbage collector frees
// those that nobody borrows. The zero value is ready for use; nil keeps none.
type bufferPool struct {
	sizes [24]sync.Pool // of *[]byte, by the logarithm of the capacity; 2^22 is maxLent
}

// get returns an empty buffer with room for size bytes.
func (p *bufferPool) get(size int) []byte {
	if p == nil || size < minLent || size > maxLent {
		return make([]byte, 0, size)
	}
	class := bits.Len(uint(size - 1))
	if kept, ok := p.sizes[class].Get().(*[]byte); ok {
		return (*kept)[:0]
	}
	return make([]byte, 0, 1<<class)
}

// grow returns a larger buffer with the same content, and takes back the old one.
// The new one is lent up to maxLent, and has room for limit bytes at most above.
func (p *bufferPool) grow(buf []byte, limit int) []byte {
	next := max(2*cap(buf), minLent)
	if next <= maxLent/8 {
		next *= 2 // the content is copied each time
	}
	larger := append(p.get(min(next, limit)), buf...)
	p.put(buf)
	return larger
}

// put takes a buffer back, which nobody may use any more. The buffer may have
// grown since get, or come from elsewhere.
func (p *bufferPool) put(buf []byte) {
	if p == nil || cap(buf) < minLent || cap(buf) > maxLent {
		return
	}
	class := bits.Len(uint(cap(buf))) - 1 // rounded down: the next borrower relies on it
	p.sizes[class].Put(&buf)
}
