//go:build !scheduler

// C4a-daemon dials a server over WebSocket and serves it local files and git
// repositories by JSON-RPC 2.0. It reads what lies below its allowed
// directories and nothing else, clones into its work dir, and connects again by
// itself whenever the link is lost.
//
//	c4a-daemon --server 127.0.0.1:5100 --allow /home/me/projects
//	c4a-daemon --server wss://example.com --allow /srv/src --token-file token
//	c4a-daemon --server example.com --machine-id cloud_demo --work-dir ./demo
//
// Every flag has an environment variable, such as C4A_WORK_DIR; a flag wins.
// The server's token is read from --token-file or C4A_TOKEN. See --help for the
// flags and REFERENCE.md for the methods.
//
// Exit status: 0 stopped by a signal, 1 failed, 2 wrong use, 3 gave up
// reconnecting, 4 refused by the server, 5 replaced by another daemon of the
// same machine id. The first SIGINT or SIGTERM lets running requests end, the
// second stops at once.
package main

import "os"

func main() { os.Exit(runAsInit(runDaemon)) }
