package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A program ends together with what it has started, also if it ends first: the
// pipe that they share is closed when the last of them has ended.
func TestWindowsKillGroup(t *testing.T) {
	for name, kill := range map[string]func(*process){
		"group": (*process).kill,
		"first": func(p *process) { _ = p.cmd.Process.Kill() }, // the rest has to follow
	} {
		t.Run(name, func(t *testing.T) {
			input, stdin, err := os.Pipe() // the inner program waits for a line
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			stdout, output, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdout.Close()
			cmd := exec.Command("cmd", "/c", "cmd", "/k")
			cmd.Stdin, cmd.Stdout = input, output
			p, err := startProcess(cmd)
			_, _ = input.Close(), output.Close() // the program has them
			if err != nil {
				t.Fatal(err)
			}
			out := bufio.NewReader(stdout)
			if _, err := out.ReadString('>'); err != nil { // the prompt
				t.Fatal(err)
			}
			kill(p)
			ended := make(chan struct{})
			// Ends with the programs; the test waits for it.
			go func() {
				defer close(ended)
				_, _ = io.Copy(io.Discard, out) // the end is what counts
				<-p.done
			}()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatalf("the programs run %v later, want them to end", patience)
			}
			if p.err == nil {
				t.Error("the program exited with status 0, want another")
			}
		})
	}
}
