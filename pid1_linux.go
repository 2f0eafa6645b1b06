package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// runAsInit runs a program. As process 1 of a container it is two processes:
// process 1 inherits every orphan there and has to reap it, and it alone may wait
// for just any child: a wait for all of them would take from os/exec those that
// it waits for. So the work is done by a second process of the same program, to
// which the first hands on the signals, and with whose status it ends.
func runAsInit(run func(*program) int) int {
	if os.Getpid() != 1 {
		return run(systemProgram())
	}
	status, err := reapUntilChildEnds()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: starting the program from process 1: %v\n", os.Args[0], err)
		return exitFailure
	}
	return status
}

func reapUntilChildEnds() (int, error) {
	// A signal is an occasion to look for the dead too: SIGCHLD may be lost where
	// many come at once.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT)
	defer signal.Stop(signals)
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	// A group of its own: what a terminal sends to the foreground group would
	// reach the child twice.
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
			_ = unix.Kill(child.Pid, number) // its zombie would be process 1's to reap, so the pid is its own
		}
	}
	return 0, nil // signals is never closed
}

// reapAll reaps every child that has ended. When the one with the given pid is
// among them it returns its exit status, 128 and the signal's number where one
// ended it, as shells do.
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
