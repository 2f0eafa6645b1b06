package main

import "net"

// lateReader is never used: a link keeps a buffer.
type lateReader struct{}

func newLateReader(net.Conn, lender) *lateReader { return nil }
func (*lateReader) read() (int, error)           { return 0, nil }
