package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// The fleet is many idle daemons in one process, without the daemon's own code:
// each makes the handshake, sends heartbeats, pings a server from which nothing
// came for 20 s, and dials again as a daemon does.

const (
	heartbeatTime = 30 * time.Second
	pingTime      = 20 * time.Second
	pongTime      = 10 * time.Second
)

type fleet struct {
	address   string
	dialling  chan struct{} // bounds the first dials
	connected atomic.Int64
	latest    atomic.Int64 // when the last one was accepted, in ns since 1970
	failed    atomic.Int64 // dials that failed
	lost      atomic.Int64 // links that ended
}

// measureLinks prints what idle links cost a hub, which it starts by a command
// with {port} in it: memory, processor time, and how long all need to return
// after the hub was killed.
func measureLinks(args []string) {
	flags := flag.NewFlagSet("links", flag.ExitOnError)
	counts := flags.String("n", "1000,10000", "numbers of links")
	settle := flags.Duration("settle", 70*time.Second, "time from the last handshake to the measurement")
	window := flags.Duration("for", 60*time.Second, "time of the measurement; the runtime collects garbage every 2 min")
	storm := flags.Bool("storm", false, "kill the hub and start it anew")
	_ = flags.Parse(args) // it exits
	fmt.Println("| links | all connected after | PSS of the empty hub | PSS of each link | of a core | links lost | killed: all back after it listens | CPU of the hub for each | dials that failed |\n|---|---|---|---|---|---|---|---|---|")
	for text := range strings.SplitSeq(*counts, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			log.Fatal(err)
		}
		port := freePort()
		f := &fleet{address: fmt.Sprintf("127.0.0.1:%d", port), dialling: make(chan struct{}, 64)}
		hub := startHub(flags.Args(), port)
		awaitServers([]string{f.address})
		time.Sleep(2 * time.Second)
		empty := pss(hub.Process.Pid)
		began := time.Now()
		for i := range n {
			go f.daemon(i) // ends with this process
		}
		f.await(n)
		connecting := time.Since(began)
		time.Sleep(*settle)
		f.lost.Store(0)
		before := cpuTime([]int{hub.Process.Pid})
		time.Sleep(*window)
		cpu := cpuTime([]int{hub.Process.Pid}) - before
		each := float64(pss(hub.Process.Pid)-empty) / float64(n)
		fmt.Printf("| %d | %.2f s | %.1f MB | %.1f kB | %.2f %% | %d |", n, connecting.Seconds(), float64(empty)/1e6, each/1e3, 100*cpu.Seconds()/window.Seconds(), f.lost.Load())
		back := " | "
		f.failed.Store(0)
		if *storm {
			kill(hub)
			for f.connected.Load() > 0 {
				time.Sleep(time.Millisecond) // every daemon notices
			}
			hub = startHub(flags.Args(), port)
			listening := awaitListener(f.address)
			f.await(n)
			cpu := cpuTime([]int{hub.Process.Pid})
			back = fmt.Sprintf("%.2f s | %d µs", time.Unix(0, f.latest.Load()).Sub(listening).Seconds(), cpu.Microseconds()/int64(n))
		}
		fmt.Printf(" %s | %d |\n", back, f.failed.Load())
		kill(hub)
	}
}

func startHub(command []string, port int) *exec.Cmd {
	var args []string
	for _, arg := range command {
		args = append(args, strings.ReplaceAll(arg, "{port}", strconv.Itoa(port)))
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	return cmd
}

func kill(hub *exec.Cmd) {
	_ = hub.Process.Kill()
	_ = hub.Wait() // it was killed
}

// pss returns the proportional set size of a process in bytes
// (proc_pid_smaps(5)).
func pss(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	log.Fatal("smaps_rollup has no Pss")
	return 0
}

// awaitListener returns when the hub listens.
func awaitListener(address string) time.Time {
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_ = conn.Close() // nothing was sent
			return time.Now()
		}
		if time.Now().After(limit) {
			log.Fatal("the hub does not listen")
		}
	}
}

// await returns when n daemons are connected.
func (f *fleet) await(n int) {
	for limit := time.Now().Add(2 * time.Minute); f.connected.Load() < int64(n); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			log.Fatalf("%d of %d links are connected", f.connected.Load(), n)
		}
	}
}

// daemon keeps one daemon connected.
func (f *fleet) daemon(i int) {
	f.dialling <- struct{}{}
	first := func() { <-f.dialling }
	for attempt := 1; ; attempt++ {
		accepted := f.session(i, func() {
			first()
			first = func() {}
		})
		if accepted {
			attempt = 1
			f.connected.Add(-1)
			f.lost.Add(1)
		} else {
			f.failed.Add(1)
		}
		base := float64(min(30*time.Second, time.Second<<min(attempt, 10)))
		time.Sleep(time.Duration(base/2 + rand.Float64()*base/2))
	}
}

// session runs one link, and reports whether its handshake was accepted.
func (f *fleet) session(i int, onAccepted func()) (accepted bool) {
	conn, err := net.DialTimeout("tcp", f.address, pongTime)
	if err != nil {
		return false
	}
	defer conn.Close() // nothing more is sent
	_ = conn.SetDeadline(time.Now().Add(pongTime))
	fmt.Fprintf(conn, "GET /ws/daemon HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nUser-Agent: c4a-daemon/0.1.0\r\n"+
		"X-C4A-Machine-Id: machine-%d\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", f.address, i)
	r := bufio.NewReaderSize(conn, 512)
	for line := ""; line != "\r\n"; {
		start := line == ""
		if line, err = r.ReadString('\n'); err != nil || start && !strings.Contains(line, " 101 ") {
			return false
		}
	}
	handshake := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"daemon/handshake","params":{"machine_id":"machine-%d","instance_id":"%032x","protocol_version":1,`+
		`"version":"0.1.0","hostname":"host-%d.example.org","os":"linux","arch":"amd64","pid":%d,"allowed_paths":["/home/user-%d/projects"],"work_dir":null,"git_version":"2.39.5",`+
		`"methods":["config/get","config/setAuth","fs/glob","fs/listDir","fs/readFile","fs/repoScan","fs/search","fs/stat","index/diff","index/manifest","index/readBlobs",`+
		`"vcs/blame","vcs/clone","vcs/diff","vcs/info","vcs/log","vcs/refs"],"heartbeat_interval_ms":30000}}`, i, i, i, 1000+i, i)
	if conn.SetDeadline(time.Time{}) != nil || writeMasked(conn, 0x81, handshake) != nil {
		return false
	}
	var beat, ping time.Time // when they are due
	var pinged bool
	for seq := 1; ; {
		due := ping
		if accepted && beat.Before(ping) {
			due = beat
		}
		if !accepted {
			due = time.Now().Add(pongTime)
		}
		_ = conn.SetReadDeadline(due)
		_, err := r.Peek(2)
		now := time.Now()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			switch {
			case !accepted || pinged && !now.Before(ping):
				return accepted
			case !now.Before(beat):
				beat = now.Add(heartbeatTime)
				if writeMasked(conn, 0x81, fmt.Sprintf(`{"jsonrpc":"2.0","method":"daemon/heartbeat","params":{"machine_id":"machine-%d","instance_id":"%032x","seq":%d,"uptime_seconds":%d,"active_requests":0}}`, i, i, seq, 30*seq)) != nil {
					return accepted
				}
				seq++
			default:
				pinged, ping = true, now.Add(pongTime)
				if writeMasked(conn, 0x89, "1") != nil {
					return accepted
				}
			}
			continue
		}
		if err != nil {
			return accepted
		}
		_ = conn.SetReadDeadline(now.Add(pongTime))
		opcode, payload, err := readFrame(r)
		if err != nil {
			return accepted
		}
		pinged, ping = false, time.Now().Add(pingTime)
		switch opcode {
		case 0x1:
			if accepted || !strings.Contains(payload, `"accepted":true`) {
				return accepted // nobody calls these daemons
			}
			accepted = true
			f.latest.Store(time.Now().UnixNano())
			f.connected.Add(1)
			onAccepted()
			beat = time.Now().Add(rand.N(heartbeatTime)) // not all at once
		case 0x9:
			if writeMasked(conn, 0x8a, payload) != nil {
				return accepted
			}
		case 0x8:
			return accepted
		}
	}
}

// writeMasked writes a frame (RFC 6455, section 5.2) whose mask is 0.
func writeMasked(conn net.Conn, first byte, payload string) error {
	frame := []byte{first}
	if len(payload) < 126 {
		frame = append(frame, 0x80|byte(len(payload)))
	} else {
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(len(payload)))
	}
	frame = append(append(frame, 0, 0, 0, 0), payload...)
	_ = conn.SetWriteDeadline(time.Now().Add(pongTime))
	n, err := conn.Write(frame)
	if err == nil && n < len(frame) {
		err = syscall.EPIPE
	}
	return err
}

// readFrame reads a short frame of a server.
func readFrame(r *bufio.Reader) (opcode byte, payload string, err error) {
	header := make([]byte, 2)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, "", err
	}
	size := int(header[1])
	if size == 126 {
		long := make([]byte, 2)
		if _, err := io.ReadFull(r, long); err != nil {
			return 0, "", err
		}
		size = int(binary.BigEndian.Uint16(long))
	}
	data := make([]byte, size)
	_, err = io.ReadFull(r, data)
	return header[0] & 0xf, string(data), err
}
