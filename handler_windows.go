package main

// passesDescriptors is false: os/exec does not support Cmd.ExtraFiles here, so
// a handler runs without reports of progress.
const passesDescriptors = false
