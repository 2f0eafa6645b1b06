package main

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// pipeDelay is how long the pipes of an ended process stay open for descendants
// that still hold them.
const pipeDelay = time.Second

// killTime is how long kill waits for the end of what it kills. A program that a
// signal ends has a second in all.
const killTime = 200 * time.Millisecond

// process is a started program in a process group of its own. The goroutine
// that startProcess starts is the only one that waits for it; it ends when the
// process is reaped and its pipes are closed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when reaped
	err  error         // result of Wait; read it after done

	mu     sync.Mutex
	reaped bool // guarded by mu: send no signal once the pid can be reused
}

// startProcess starts cmd as the leader of a new process group. When it ends,
// the remaining processes of its group are killed.
func startProcess(cmd *exec.Cmd) (*process, error) {
	setProcessGroup(cmd)
	cmd.WaitDelay = pipeDelay
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// While the leader is a zombie, its pid and thus the id of its group
		// cannot be reused: this is the last moment at which the group can be
		// signaled.
		awaitExit(cmd.Process.Pid)
		p.mu.Lock()
		_ = killRest(cmd.Process.Pid)
		p.reaped = true
		p.mu.Unlock()
		p.err = cmd.Wait()
	}()
	return p, nil
}

// processes are the running processes of a program, which can end them all at
// once. A nil one only starts processes.
type processes struct {
	mu      sync.Mutex
	running map[*process]bool
	killed  bool
}

// start is startProcess. What it starts after kill is killed at once.
func (s *processes) start(cmd *exec.Cmd) (*process, error) {
	if s == nil {
		return startProcess(cmd)
	}
	p, err := startProcess(cmd)
	if err != nil {
		return nil, err
	}
	if s.add(p) {
		p.kill()
	}
	go func() { // ends with the process
		<-p.done
		s.remove(p)
	}()
	return p, nil
}

func (s *processes) add(p *process) (killed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		s.running = map[*process]bool{}
	}
	s.running[p] = true
	return s.killed
}

func (s *processes) remove(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, p)
}

// kill ends all processes and those that are started from now on. It waits for
// them up to killTime: what a daemon has started in its session is killed when the
// daemon is reaped.
func (s *processes) kill() {
	s.mu.Lock()
	s.killed = true
	running := slices.Collect(maps.Keys(s.running))
	s.mu.Unlock()
	for _, p := range running {
		p.kill()
	}
	limit := time.After(killTime)
	for _, p := range running {
		select {
		case <-p.done:
		case <-limit:
			return
		}
	}
}

// pid returns the id of the process and of its group.
func (p *process) pid() int { return p.cmd.Process.Pid }

// terminate sends SIGTERM to the group, and SIGCONT so that stopped processes
// receive it.
func (p *process) terminate() { p.signal(terminateGroup) }

// kill ends the group at once.
func (p *process) kill() { p.signal(killGroup) }

func (p *process) signal(send func(pid int) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = send(p.pid()) // an error means that it has ended
	}
}

// stop ends the group with SIGTERM, and after grace with SIGKILL. It returns
// when the process is reaped.
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
