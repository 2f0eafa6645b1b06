//go:build unix

package main

// passesDescriptors tells whether a program can get more than the three
// standard ones (os/exec, Cmd.ExtraFiles).
const passesDescriptors = true
