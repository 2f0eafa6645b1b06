package main

import "strconv"

// ownerVariable marks the git processes of a daemon in their environment:
// OWNER-PID:WORK-DIR. Killed itself, a daemon cannot end them, and one with a
// silent remote stays for ever.
const ownerVariable = "C4A_GIT_OWNER"

// ownerMark is that variable for the daemon with the given pid.
func ownerMark(pid int, workDir string) string {
	return ownerVariable + "=" + strconv.Itoa(pid) + ":" + workDir
}
