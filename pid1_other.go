//go:build !linux

package main

// runAsInit runs a program. Only on Linux can it be process 1 of a container.
func runAsInit(run func(*program) int) int { return run(systemProgram()) }
