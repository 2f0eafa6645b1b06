package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
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
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: r.inFlight}}
	defer client.CloseIdleConnections()
	body := []byte(fmt.Sprintf(`{"jsonrpc":"2.0","id":1,%s}`, r.params))
	var mu sync.Mutex
	var all []float64
	var wg sync.WaitGroup
	began, cpu := time.Now(), cpuTime(a.pids)
	for range r.inFlight {
		wg.Go(func() {
			var took []float64
			for time.Since(began) < length {
				start := time.Now()
				response, err := client.Post(a.url, "application/json", bytes.NewReader(body))
				if err != nil {
					log.Fatal(err)
				}
				head := make([]byte, 64)
				n, _ := io.ReadFull(response.Body, head)
				_, err = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close() // read to the end
				if err != nil || response.StatusCode != http.StatusOK || !bytes.Contains(head[:n], []byte(`"result":`)) {
					log.Fatalf("%s: %s %v %s", a.name, response.Status, err, head[:n])
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
