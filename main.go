//go:build !scheduler

// C4a-daemon dials a server over WebSocket and answers its JSON-RPC 2.0 requests
// for local files and git repositories. It reads only below its allowed
// directories, clones into its work dir, and reconnects when the link is lost.
//
//	c4a-daemon --server 127.0.0.1:5100 --allow /home/me/projects
//	c4a-daemon --server wss://example.com --allow /srv/src --token-file token
//	c4a-daemon --server example.com --machine-id cloud_demo --work-dir ./demo
//
// Most flags can also be set by an environment variable, such as C4A_WORK_DIR;
// the flag takes precedence.
// The server's token is read from --token-file or C4A_TOKEN. See --help for the
// flags and REFERENCE.md for the methods.
//
// Exit status: 0 stopped by a signal, 1 failed, 2 usage error, 3 gave up
// reconnecting, 4 refused by the server, 5 replaced by another daemon with the
// same machine id. On the first SIGINT, SIGTERM or SIGHUP the daemon waits for
// running requests; on the second it stops at once.
package main

import "os"

func main() { os.Exit(runAsInit(runDaemon)) }
