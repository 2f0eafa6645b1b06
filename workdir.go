package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// workLockName is the file that a daemon locks in its work dir.
const workLockName = secretPrefix + "lock"

// lockWorkDir makes this process the work dir's only daemon, until the file is
// closed: a second one would remove the clones that the first is making. died
// reports whether the previous daemon was killed. On a file system without locks
// it goes on without one: the file is nil, and died is true, for it may have.
func lockWorkDir(workDir string, log *slog.Logger) (f *os.File, died bool, err error) {
	root, err := os.OpenRoot(workDir)
	if err != nil {
		return nil, false, fmt.Errorf("locking the work dir: %w", err)
	}
	defer root.Close()
	f, died, err = lockFile(root, workLockName)
	switch held, ok := errors.AsType[*heldError](err); {
	case ok:
		return nil, false, fmt.Errorf("locking the work dir: %s is used by another daemon: stop it or choose another --work-dir: %w", workDir, held)
	case errors.Is(err, errors.ErrUnsupported):
		log.Warn("the work dir cannot be locked here: start no second daemon in it", "file", filepath.Join(workDir, workLockName), "error", err)
		return nil, true, nil
	case err != nil:
		return nil, false, fmt.Errorf("locking the work dir %s: %w", workDir, err)
	}
	return f, died, nil
}
