package main

import "strconv"

// ownerVariable is an environment variable of the daemon's git processes:
// OWNER-PID:WORK-DIR. A daemon that is killed cannot end its git processes, and
// one that waits for a silent remote would run forever. The next daemon in the
// work dir finds them by this mark.
const ownerVariable = "C4A_GIT_OWNER"

// ownerMark returns the variable for the daemon with the given pid.
func ownerMark(pid int, workDir string) string {
	return ownerVariable + "=" + strconv.Itoa(pid) + ":" + workDir
}
