package main

import "sync"

const (
	// minPooled is the size from which a message is received in a lent buffer. Most
	// messages are shorter, and cost less than the pool.
	minPooled = 32 << 10
	// minFreeHeap is how much a hub allocates between two collections at least. Its heap
	// is small, and most of it lives for one call: with the default settings it would
	// be collected dozens of times a second.
	minFreeHeap = 16 << 20
	// maxSpare bounds the bytes of a pool that wait for the next message. Beyond it a
	// buffer is left to the garbage collector.
	maxSpare = 8 << 20
)

// messagePool lends buffers to long messages, so that they are neither allocated nor
// grown step by step. A buffer that is never given back costs nothing but that.
type messagePool struct {
	mu    sync.Mutex // guards the fields below
	spare [][]byte
	bytes int  // the capacity of spare
	used  bool // since the last trim
}

// grow returns a larger buffer with the same content, and takes back the old one.
// Its capacity is at most limit, which is more than that of the old one.
func (p *messagePool) grow(old []byte, limit int) []byte {
	next := p.take(cap(old))
	if next == nil {
		// By half, and not double: most of the answers of a load are of one size, and
		// the half of each buffer would be empty.
		next = make([]byte, 0, min(max(2*minPooled, cap(old)+cap(old)/2), limit))
	}
	next = append(next, old...)
	p.give(old)
	return next
}

// take returns the largest spare buffer, nil if it does not hold more than least.
func (p *messagePool) take(least int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = true
	largest := -1
	for i, b := range p.spare {
		if cap(b) > least && (largest < 0 || cap(b) > cap(p.spare[largest])) {
			largest = i
		}
	}
	if largest < 0 {
		return nil
	}
	b := p.spare[largest]
	last := len(p.spare) - 1
	p.spare[largest], p.spare[last] = p.spare[last], nil
	p.spare = p.spare[:last]
	p.bytes -= cap(b)
	return b
}

// give takes a buffer back. Its content must not be used any more.
func (p *messagePool) give(b []byte) {
	if cap(b) < 2*minPooled {
		return // not one of the pool
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes+cap(b) <= maxSpare {
		p.spare = append(p.spare, b[:0])
		p.bytes += cap(b)
	}
}

// trim frees the spare buffers of a pool that was not used since the last trim.
func (p *messagePool) trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.used {
		p.spare, p.bytes = nil, 0
	}
	p.used = false
}

// paceCollector makes the garbage collector of a hub run after minFreeHeap at least,
// and otherwise when the heap has doubled, which is the default. The percentage of
// the daemon (setMemory) would not do: the heap of a hub grows with its links. The
// result must be kept alive: it is memory that counts as heap and that is never
// written, so that the system never provides it. GOGC and GOMEMLIMIT from the
// operator take precedence.
func paceCollector(getenv func(string) string) (ballast []byte) {
	if getenv("GOGC") != "" || getenv("GOMEMLIMIT") != "" {
		return nil
	}
	return make([]byte, minFreeHeap)
}
