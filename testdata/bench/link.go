package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// launcher starts programs that dial its listener.
type launcher struct{ *net.TCPListener }

// startTimeout bounds the wait for a program that cannot start, or does not dial.
const startTimeout = 30 * time.Second

func newLauncher() launcher {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	return launcher{listener.(*net.TCPListener)}
}

// start starts a NAME=COMMAND argument and waits until its handshake is accepted. In
// the command {url} stands for the address to dial.
func (l launcher) start(arg string) *agent {
	name, command, _ := strings.Cut(arg, "=")
	words := strings.Fields(strings.ReplaceAll(command, "{url}", "ws://"+l.Addr().String()+"/"+name))
	a := &agent{name: name, cmd: exec.Command(words[0], words[1:]...)}
	a.cmd.Stderr = os.Stderr
	if os.Getenv("BENCH_QUIET") != "" {
		a.cmd.Stderr = nil
	}
	check(a.cmd.Start())
	a.pids = []int{a.cmd.Process.Pid}
	check(l.SetDeadline(time.Now().Add(startTimeout)))
	socket, err := l.Accept()
	check(err)
	a.conn = accept(socket)
	return a
}

// stop kills the program and returns the CPU time that it took.
func (a *agent) stop() time.Duration {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait() // says that it was killed
	_ = a.conn.file.Close()
	return a.cmd.ProcessState.UserTime() + a.cmd.ProcessState.SystemTime()
}

// measureStarts measures the time from the start of each program to its accepted
// handshake.
func measureStarts(args []string, rounds int) [][]figure {
	l := newLauncher()
	defer l.Close()
	figures := make([][]figure, len(args))
	for round := range rounds + 1 {
		for i := range args {
			i = (i + round) % len(args)
			began := time.Now()
			a := l.start(args[i])
			took := time.Since(began)
			if cpu := a.stop(); round > 0 { // the first one warms up
				figures[i] = append(figures[i], figure{rate: 1 / took.Seconds(), cpu: float64(cpu.Microseconds()), p50: float64(took.Microseconds())})
			}
		}
	}
	return figures
}

func startAgents(args []string) (agents []*agent) {
	l := newLauncher()
	for _, arg := range args {
		agents = append(agents, l.start(arg))
	}
	return agents
}

func stopAgents(agents []*agent) {
	for _, a := range agents {
		a.stop()
	}
}

// conn is the server's end of a WebSocket connection, with framing of its own:
// a library would cost more than some agents.
type conn struct {
	file *os.File // keeps fd open
	fd   int      // blocking
	r    *bufio.Reader
	out  []byte
	head [96]byte // of the message that was read last
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := syscall.Read(c.fd, p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// accept answers the upgrade (RFC 6455, section 4.2.2) and the handshake.
func accept(socket net.Conn) *conn {
	file, err := socket.(*net.TCPConn).File()
	if err != nil {
		log.Fatal(err)
	}
	c := &conn{file: file, fd: int(file.Fd())}
	if err := syscall.SetNonblock(c.fd, false); err != nil {
		log.Fatal(err)
	}
	c.r = bufio.NewReaderSize(c, 256<<10)
	request, err := http.ReadRequest(c.r)
	if err != nil {
		log.Fatal(err)
	}
	sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	c.out = append(c.out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n"...)
	c.flush()
	for {
		start, _, call := c.message()
		if call && bytes.Contains(start, []byte("daemon/handshake")) {
			_, id, _ := bytes.Cut(start, []byte(`"id":`))
			c.put(`{"jsonrpc":"2.0","id":` + string(id[:bytes.IndexByte(id, ',')]) + `,"result":{"accepted":true}}`)
			c.flush()
			return c
		}
	}
}

// message reads one message and returns its first bytes and its id, or call for
// a request or notification of the agent. The bytes are valid until the next one.
func (c *conn) message() (start []byte, id int, call bool) {
	for first := true; ; first = false {
		final, opcode, payload, mask := c.header()
		if opcode >= 8 {
			data := make([]byte, payload)
			if _, err := io.ReadFull(c.r, data); err != nil {
				log.Fatal(err)
			}
			if opcode == 9 { // ping
				unmask(data, mask)
				c.out = append(append(c.out, 0x8a, byte(len(data))), data...)
				c.flush()
			}
			first = false
			continue
		}
		if first || start == nil {
			peeked, err := c.r.Peek(min(payload, len(c.head)))
			if err != nil {
				log.Fatal(err)
			}
			start = c.head[:copy(c.head[:], peeked)]
			unmask(start, mask)
		}
		if _, err := c.r.Discard(payload); err != nil {
			log.Fatal(err)
		}
		if final {
			break
		}
	}
	_, after, _ := bytes.Cut(start, []byte(`"id":`))
	end := max(bytes.IndexByte(after, ','), 0)
	id, err := strconv.Atoi(string(after[:end]))
	if err != nil || bytes.Contains(start, []byte(`"method":`)) && !bytes.Contains(start, []byte(`bench/echo`)) {
		return start, 0, true
	}
	if !bytes.HasPrefix(after[end:], []byte(`,"result":`)) && !bytes.Contains(start, []byte(`bench/echo`)) {
		log.Fatalf("not a result: %s", start)
	}
	return start, id, false
}

// whole reads one message and appends it to data.
func (c *conn) whole(data []byte) []byte {
	for {
		final, opcode, payload, mask := c.header()
		begin := len(data)
		data = slices.Grow(data, payload)[:begin+payload]
		if _, err := io.ReadFull(c.r, data[begin:]); err != nil {
			log.Fatal("reading from an agent: ", err)
		}
		unmask(data[begin:], mask)
		if opcode == 9 { // ping
			c.out = append(append(c.out, 0x8a, byte(payload)), data[begin:]...)
			c.flush()
		}
		if opcode >= 8 {
			data = data[:begin]
		} else if final {
			return data
		}
	}
}

func (c *conn) header() (final bool, opcode byte, payload int, mask [4]byte) {
	var head [14]byte
	read := func(p []byte) {
		if _, err := io.ReadFull(c.r, p); err != nil {
			log.Fatal("reading from an agent: ", err)
		}
	}
	read(head[:2])
	payload = int(head[1] & 0x7f)
	switch payload {
	case 126:
		read(head[2:4])
		payload = int(binary.BigEndian.Uint16(head[2:]))
	case 127:
		read(head[2:10])
		payload = int(binary.BigEndian.Uint64(head[2:]))
	}
	if head[1]&0x80 != 0 {
		read(mask[:])
	}
	return head[0]&0x80 != 0, head[0] & 0x0f, payload, mask
}

func unmask(data []byte, mask [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(mask[:])) * (1<<32 + 1)
	for ; len(data) >= 8; data = data[8:] {
		binary.LittleEndian.PutUint64(data, binary.LittleEndian.Uint64(data)^word)
	}
	for i := range data {
		data[i] ^= mask[i%4]
	}
}

// put appends a message to what is sent next.
func (c *conn) put(text string) {
	c.out = append(c.out, 0x81)
	if len(text) < 126 {
		c.out = append(c.out, byte(len(text)))
	} else {
		c.out = binary.BigEndian.AppendUint16(append(c.out, 126), uint16(len(text)))
	}
	c.out = append(c.out, text...)
}

func (c *conn) flush() {
	for len(c.out) > 0 {
		n, err := syscall.Write(c.fd, c.out)
		if err != nil {
			log.Fatal("writing to an agent: ", err)
		}
		c.out = c.out[n:]
	}
	c.out = c.out[:0]
}

// measureAgent keeps inFlight requests under way for the given time.
func measureAgent(a *agent, r row, length time.Duration) figure {
	c := a.conn
	params := r.params
	if a.name == "echo" {
		params = `"method":"bench/echo","params":{}`
	}
	// The requests are made before: what the server does is part of each round trip.
	requests := make([]string, r.inFlight)
	for slot := range requests {
		requests[slot] = `{"jsonrpc":"2.0","id":` + strconv.Itoa(slot+1) + `,` + params + `}`
	}
	sent := make([]time.Time, r.inFlight)
	took := make([]float64, 0, 1<<20)
	put := func(slot int, now time.Time) {
		sent[slot] = now
		c.put(requests[slot])
	}
	began, cpu := time.Now(), cpuTime(a.pids)
	for slot := range r.inFlight {
		put(slot, time.Now())
	}
	for left := r.inFlight; left > 0; {
		c.flush()
		for {
			_, id, call := c.message()
			if !call {
				now := time.Now()
				took = append(took, float64(now.Sub(sent[id-1]))/1000)
				if now.Sub(began) < length {
					put(id-1, now)
				} else if left--; left == 0 {
					break
				}
			}
			if c.r.Buffered() == 0 || len(c.out) > 32<<10 {
				break
			}
		}
	}
	all := time.Since(began).Seconds()
	cpu = cpuTime(a.pids) - cpu
	slices.Sort(took)
	return figure{rate: float64(len(took)) / all, cpu: float64(cpu.Microseconds()) / float64(len(took)), p50: took[len(took)/2]}
}

// echo is the least that an agent on this library does: it dials, sends a
// handshake and returns each message as it came.
func echo(url string) {
	ctx := context.Background()
	c, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	c.SetReadLimit(16 << 20)
	if err := c.Write(ctx, websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"method":"daemon/handshake","params":{}}`)); err != nil {
		log.Fatal(err)
	}
	if _, _, err := c.Read(ctx); err != nil {
		log.Fatal(err)
	}
	for {
		_, data, err := c.Read(ctx)
		if err != nil {
			return
		}
		if err := c.Write(ctx, websocket.MessageText, data); err != nil {
			return
		}
	}
}
