//go:build !linux

package main

// wantNoGit checks nothing where there is no /proc.
func (w *cloneWorld) wantNoGit() {}
