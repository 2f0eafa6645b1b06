package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// runAsInit runs a program. As process 1 of a container, the program consists
// of two processes. Process 1 inherits every orphan in the container and has to
// reap it, so it waits for any child, which would take away the children that
// os/exec waits for. So a second process of the same program does the work;
// process 1 forwards signals to it and exits with its status.
func runAsInit(run func(*program) int) int {
	if os.Getpid() != 1 {
		return run(systemProgram())
	}
	status, err := reapUntilChildEnds()
	if err != nil {
		console := newLineQueue(os.Stderr) // process 1 would survive SIGTERM while it waits for a reader
		defer console.close(flushTime)
		fmt.Fprintf(console, "%s: starting the program as a child of process 1: %v\n", os.Args[0], err)
		return exitFailure
	}
	return status
}

func reapUntilChildEnds() (int, error) {
	// Every signal is an occasion to reap, because SIGCHLD can be lost when
	// many signals arrive at once.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append(stopSignals(), syscall.SIGCHLD, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT)...)
	defer signal.Stop(signals)
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	// Use a new process group: otherwise signals from a terminal to the
	// foreground group would reach the child twice.
	attr := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil {
		attr = &syscall.SysProcAttr{Foreground: true, Ctty: int(os.Stdin.Fd())}
	}
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: files, Sys: attr})
	if err != nil {
		return 0, err
	}
	for s := range signals {
		if status, ended := reapAll(child.Pid); ended {
			_ = child.Release() // only frees the handle
			return status, nil
		}
		if number, ok := s.(syscall.Signal); ok && s != syscall.SIGCHLD {
			_ = unix.Kill(child.Pid, number) // the pid cannot be reused, because only process 1 reaps it
		}
	}
	return 0, nil // not reached: signals is never closed
}

// reapAll reaps every child that has ended. If the one with the given pid is
// among them, it returns its exit status, or 128 plus the number of the signal
// that ended it, as shells do.
func reapAll(pid int) (status int, ended bool) {
	for {
		var state unix.WaitStatus
		switch dead, err := unix.Wait4(-1, &state, unix.WNOHANG, nil); {
		case err == unix.EINTR:
		case err != nil || dead <= 0:
			return status, ended
		case dead != pid:
		case state.Signaled():
			status, ended = 128+int(state.Signal()), true
		default:
			status, ended = state.ExitStatus(), true
		}
	}
}
