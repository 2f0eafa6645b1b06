package main

import "testing"

// Messages as git, libcurl and ssh write them, and the reasons they mean.
func TestClassifyGit(t *testing.T) {
	for stderr, want := range map[string]gitReason{
		"fatal: Authentication failed for 'http://h/x/'":                                                                        gitAuth,
		"fatal: could not read Username for 'http://h': terminal prompts disabled":                                              gitAuth,
		"git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.":                                  gitAuth,
		"Host key verification failed.\nfatal: Could not read from remote repository.":                                          gitAuth,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 403":                                          gitForbidden,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 302":                                          gitMoved,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 308":                                          gitMoved,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 401":                                          gitAuth,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 407":                                          gitOther,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 410":                                          gitNotFound,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 429":                                          gitOther,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 451":                                          gitForbidden,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 500":                                          gitOther,
		"error: RPC failed; HTTP 503 curl 22 The requested URL returned error: 503\nfatal: the remote end hung up unexpectedly": gitOther,
		"remote: The requested URL returned error: 404\nfatal: unable to access 'http://h/x/': Connection reset":                gitNetwork,
		"No user exists for uid 54321\nfatal: Could not read from remote repository.":                                           gitOther,
		"error: unable to write file 'big'\nfatal: unable to checkout":                                                          gitDiskFull,
		"error: unable to create file xxx: File name too long":                                                                  gitOther,
		"fatal: repository 'http://h/x/' not found":                                                                             gitNotFound,
		"fatal: '/x' does not appear to be a git repository\nfatal: Could not read from remote repository.":                     gitNotFound,
		"kex_exchange_identification: read: reset\nfatal: Could not read from remote repository.":                               gitNetwork,
		"Received disconnect: Too many authentication failures\nfatal: Could not read from remote repository.":                  gitAuth,
		"fatal: couldn't find remote ref refs/heads/x":                                                                          gitNotFound,
		"fatal: remote error: upload-pack: not our ref 1234":                                                                    gitNotFound,
		"fatal: remote error: No space left on device":                                                                          gitOther,
		"fatal: remote error: Connection timed out, Authentication failed":                                                      gitOther,
		"fatal: remote error: Repository not found.":                                                                            gitNotFound,
		"fatal: unable to access 'http://h/x/': The requested URL returned error: 304":                                          gitOther,
		"fatal: unable to access 'http://h/x/': Could not resolve host: h":                                                      gitNetwork,
		"fatal: unable to access 'http://h/x/': Failed to connect to h port 80 after 0 ms: Couldn't connect to server":          gitNetwork,
		"error: RPC failed; curl 18 transfer closed with outstanding read data remaining\nfatal: early EOF":                     gitNetwork,
		"ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.":                     gitNetwork,
		"ssh: connect to host h port 22: Connection timed out\nfatal: Could not read from remote repository.":                   gitTimeout,
		"fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output":                             gitDiskFull,
		"fatal: write error: File too large\nfatal: fetch-pack: invalid index-pack output":                                      gitTooLarge,
		"error: object 1234: hasDotgit: contains '.git'\nfatal: fsck error in packed object":                                    gitCorrupt,
		"fatal: not a git repository: '/x/.git'":                                                                                gitCorrupt,
		"fatal: index file smaller than expected":                                                                               gitCorrupt,
		"fatal: bad object HEAD": gitCorrupt,
		"remote: error: 403 No space left on device\nfatal: transport 'ext' not allowed":                                 gitOther,
		"remote: Authentication failed\nremote: not found\nfatal: unable to access 'http://h/': Empty reply from server": gitNetwork,
		"": gitOther,
	} {
		if got := classifyGit(stderr + "\n"); got != want {
			t.Errorf("%q is %s, want %s", stderr, got, want)
		}
	}
}

func TestSummarizeGit(t *testing.T) {
	for stderr, want := range map[string]string{
		"Cloning…\nfatal: repository 'http://h/x/' not found\nfatal: more":                                                                                                      "fatal: repository 'http://h/x/' not found",
		"Warning: x\ngit@h: Permission denied (publickey).\nfatal: Could not read from remote repository.\n\nMake":                                                              "git@h: Permission denied (publickey).",
		"fatal: '/x' does not appear to be a git repository\nfatal: Could not read from remote repository.":                                                                     "fatal: '/x' does not appear to be a git repository",
		"remote: \nremote: =====\nremote: \nremote: ERROR: The project could not be found.\nremote: \nremote: =====\nremote: \nfatal: Could not read from remote repository.\n": "remote: ERROR: The project could not be found.",
		"fatal: Could not read from remote repository.\n":                                                                                                                       "fatal: Could not read from remote repository.",
		"only this\n\n": "only this",
		"\n":            "failed without a message",
	} {
		if got := summarizeGit(stderr); got != want {
			t.Errorf("%q is told as %q, want %q", stderr, got, want)
		}
	}
}
