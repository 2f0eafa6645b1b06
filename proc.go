package main

import (
	"fmt"
	"os/exec"
	"sync"
	"time"
)

// pipeDelay is how long the pipes of an ended process may stay open in the
// hands of what it left behind, before they are closed.
const pipeDelay = time.Second

// process is one started program in a process group of its own. It is waited
// for exactly once, by the goroutine that startProcess began, which ends when
// the process is reaped and its pipes are closed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when reaped
	err  error         // what Wait returned; read it after done

	mu     sync.Mutex
	reaped bool // under mu: no signal goes out once the pid may be another's
}

// startProcess starts cmd as the leader of a new process group. When it ends,
// what is left of its group is killed.
func startProcess(cmd *exec.Cmd) (*process, error) {
	setProcessGroup(cmd)
	cmd.WaitDelay = pipeDelay
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// While the leader is a zombie its pid, and so the group's id, cannot be
		// given to anybody else: the last moment at which to signal the group.
		awaitExit(cmd.Process.Pid)
		p.mu.Lock()
		_ = killRest(cmd.Process.Pid)
		p.reaped = true
		p.mu.Unlock()
		p.err = cmd.Wait()
	}()
	return p, nil
}

// pid is the process's id, which is its group's too.
func (p *process) pid() int { return p.cmd.Process.Pid }

// terminate asks the group to end: SIGTERM, and SIGCONT for the stopped ones.
func (p *process) terminate() { p.signal(terminateGroup) }

// kill ends the group at once.
func (p *process) kill() { p.signal(killGroup) }

func (p *process) signal(send func(pid int) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = send(p.pid()) // an error means that it is gone already
	}
}

// stop ends the group: SIGTERM, after grace SIGKILL. It returns when the
// process is reaped.
func (p *process) stop(grace time.Duration) {
	p.terminate()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.kill()
		<-p.done
	}
}
