package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log"
	"net"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// hubAgents parses NAME=URL=PID,PID arguments.
func hubAgents(args []string) (agents []*agent) {
	for _, arg := range args {
		parts := strings.Split(arg, "=")
		if len(parts) != 3 {
			log.Fatalf("%s: want NAME=URL=PID,PID", arg)
		}
		a := &agent{name: parts[0], url: parts[1]}
		for text := range strings.SplitSeq(parts[2], ",") {
			pid, err := strconv.Atoi(text)
			if err != nil {
				log.Fatal(err)
			}
			a.pids = append(a.pids, pid)
		}
		agents = append(agents, a)
	}
	return agents
}

// measureHub posts requests from inFlight clients for the given time.
func measureHub(a *agent, r row, length time.Duration) figure {
	target, err := url.Parse(a.url)
	if err != nil {
		log.Fatal(err)
	}
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,%s}`, r.params)
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		target.EscapedPath(), target.Host, len(body), body)
	var mu sync.Mutex
	var all []float64
	var wg sync.WaitGroup
	began, cpu := time.Now(), cpuTime(a.pids)
	for range r.inFlight {
		wg.Go(func() {
			client := dialHub(target.Host)
			defer client.close()
			var took []float64
			for time.Since(began) < length {
				start := time.Now()
				if err := client.post(request); err != nil {
					log.Fatalf("%s: %v", a.name, err)
				}
				took = append(took, float64(time.Since(start))/1000)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	seconds := time.Since(began).Seconds()
	cpu = cpuTime(a.pids) - cpu
	slices.Sort(all)
	return figure{rate: float64(len(all)) / seconds, cpu: float64(cpu.Microseconds()) / float64(len(all)), p50: all[len(all)/2]}
}

// hubClient posts requests over one connection. net/http's client would cost more
// than some hubs, and at one request in flight hide their latency.
type hubClient struct {
	conn net.Conn
	r    *bufio.Reader
	text *textproto.Reader
}

func dialHub(address string) *hubClient {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	return &hubClient{conn, r, textproto.NewReader(r)}
}

func (c *hubClient) close() { _ = c.conn.Close() } // every answer was read

// post sends a request and reads the answer, which must be a result.
func (c *hubClient) post(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	status, err := c.text.ReadLine()
	if err != nil {
		return err
	}
	header, err := c.text.ReadMIMEHeader()
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(header.Get("Content-Length"))
	if err != nil {
		return fmt.Errorf("%s: %w", status, err)
	}
	head, _ := c.r.Peek(min(length, 64)) // a read that fails does so again below
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") || !bytes.Contains(head, []byte(`"result":`)) {
		return fmt.Errorf("%s %s", status, head)
	}
	_, err = c.r.Discard(length)
	return err
}

func freePort() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close() // nothing was accepted
	return listener.Addr().(*net.TCPAddr).Port
}

// awaitServers returns when each address accepts connections.
func awaitServers(addresses []string) {
	for _, address := range addresses {
		for limit := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_ = conn.Close() // nothing was sent
				break
			}
			if time.Now().After(limit) {
				log.Fatal(err)
			}
		}
	}
}
