//go:build scheduler

// C4a-daemon-scheduler keeps a pool of c4a-daemon processes on one host: one
// for each library, started on demand over an HTTP API, ended when idle or when
// another needs the place. Without --server it is the server that they, and
// users' daemons, dial.
//
//	c4a-daemon-scheduler --workspace /var/lib/c4a
//	c4a-daemon-scheduler --server example.com --port 5110 --max-daemons 20
//	c4a-daemon-scheduler call demo vcs/clone url=https://example.com/r.git
//
// It runs itself as the daemon unless --daemon-bin names another program, so
// one file on a server is enough. Every flag has an environment variable, such
// as C4A_MAX_DAEMONS; a flag wins. See --help for the flags and REFERENCE.md for
// the HTTP API.
//
// Exit status: 0 stopped by a signal, 1 failed or stopped by a second signal,
// 2 wrong use. The first SIGINT or SIGTERM ends all daemons, the second kills
// them.
package main

import "os"

func main() { os.Exit(runAsInit(runScheduler)) }
