//go:build !linux

package main

// runAsInit runs a program: only Linux has containers whose process 1 it could
// be.
func runAsInit(run func(*program) int) int { return run(systemProgram()) }
