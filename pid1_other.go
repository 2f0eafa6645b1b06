//go:build !linux

package main

// asProcess1 runs a program: only Linux has containers whose process 1 it could
// be.
func asProcess1(run func(*program) int) int { return run(systemProgram()) }
