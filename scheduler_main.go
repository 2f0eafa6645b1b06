//go:build scheduler

// C4a-daemon-scheduler keeps a pool of c4a-daemon processes on one host, one for
// each library. A daemon is started on demand over an HTTP API, and stopped when
// it is idle or when another library needs its slot. Without --server the
// scheduler is also the server that these daemons and users' daemons dial.
//
//	c4a-daemon-scheduler --workspace /var/lib/c4a
//	c4a-daemon-scheduler --server example.com --port 5110 --max-daemons 20
//	c4a-daemon-scheduler call demo vcs/clone url=https://example.com/r.git
//
// The same executable also runs as the daemon unless --daemon-bin names another
// program, so a server needs only this file. Most flags can also be set by an
// environment variable, such as C4A_MAX_DAEMONS; the flag takes precedence. See
// --help for the flags and REFERENCE.md for the HTTP API.
//
// Exit status: 0 stopped by a signal, 1 failed or stopped by a second signal,
// 2 usage error. The first SIGINT, SIGTERM or SIGHUP stops all daemons, the
// second kills them.
package main

import "os"

func main() { os.Exit(runAsInit(runScheduler)) }
