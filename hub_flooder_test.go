package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// flooderName is the name by which the test binary runs as a flooder (BenchmarkFlood).
const flooderName = "c4a-flooder"

func handshakeOf(machineID, instanceID string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"daemon/handshake","params":{"machine_id":%q,"instance_id":%q,"protocol_version":1}}`, machineID, instanceID)
}

// runFlooder floods the scheduler at url until it is killed.
func runFlooder(kind, url string) int {
	f := &flooder{url: url, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10_000}}}
	var err error
	switch kind {
	case "requests": // 10,000 in flight, to a machine that does not answer
		err = f.daemon("stuck", nil)
		f.many(10_000, func() { f.call("stuck", "application/json", true) })
	case "answers":
		err = f.daemon("big", []byte(strings.Repeat("x", 15<<20)))
		f.many(64, func() { f.call("big", "application/json", true) })
	case "readers":
		err = f.daemon("big", []byte(strings.Repeat("x", 15<<20)))
		f.many(200, func() { f.call("big", "text/event-stream", false) })
	case "handshakes", "silent":
		go f.dial(kind == "silent")
	case "progress", "long-progress":
		text := "x"
		if kind == "long-progress" {
			text = strings.Repeat("x", 10<<20)
		}
		err = f.talk([]byte(`{"jsonrpc":"2.0","method":"task/progress","params":{"task_id":"T","method":"m","percent":1,"message":"` + text + `"}}`))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "flooding")
	for {
		time.Sleep(time.Second)
		fmt.Fprintln(os.Stderr, f.done.Load(), "done", f.refused.Load(), "refused")
	}
}

type flooder struct {
	url           string
	client        *http.Client
	done, refused atomic.Int64
}

// many repeats a task in n goroutines.
func (f *flooder) many(n int, task func()) {
	for range n {
		go func() {
			for {
				task()
			}
		}()
	}
}

// call makes one call, and waits as long as a refusal says.
func (f *flooder) call(machineID, accept string, reads bool) {
	r, _ := http.NewRequest(http.MethodPost, f.url+"/machines/"+machineID+"/rpc", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{}}`))
	r.Header.Set("Accept", accept)
	response, err := f.client.Do(r)
	if err != nil {
		time.Sleep(100 * time.Millisecond)
		return
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusTooManyRequests {
		f.refused.Add(1)
		_, _ = io.Copy(io.Discard, response.Body)
		time.Sleep(time.Second)
		return
	}
	f.done.Add(1)
	if !reads {
		time.Sleep(5 * time.Second)
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
}

// connect opens a link and makes the handshake.
func (f *flooder) connect(machineID string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(context.Background(), f.url+linkPath, &websocket.DialOptions{HTTPClient: f.client})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1)
	if err := conn.Write(context.Background(), websocket.MessageText, []byte(handshakeOf(machineID, machineID))); err != nil {
		return nil, err
	}
	_, _, err = conn.Read(context.Background())
	return conn, err
}

// daemon connects one that answers each request with the text; nil gives no answer.
func (f *flooder) daemon(machineID string, text []byte) error {
	conn, err := f.connect(machineID)
	go func() {
		for err == nil {
			var data []byte
			if _, data, err = conn.Read(context.Background()); err != nil || text == nil {
				continue
			}
			var m struct{ ID json.RawMessage }
			if json.Unmarshal(data, &m) == nil && m.ID != nil {
				err = conn.Write(context.Background(), websocket.MessageText, slices.Concat([]byte(`{"jsonrpc":"2.0","id":`), m.ID, []byte(`,"result":"`), text, []byte(`"}`)))
			}
		}
		fmt.Fprintln(os.Stderr, "the link has ended:", err)
	}()
	return err
}

// talk connects a daemon that repeats a message.
func (f *flooder) talk(message []byte) error {
	conn, err := f.connect("talker")
	go func() {
		for err == nil {
			err = conn.Write(context.Background(), websocket.MessageText, message)
			f.done.Add(1)
		}
		fmt.Fprintln(os.Stderr, "the link has ended:", err)
	}()
	go func() {
		for err == nil {
			_, _, err = conn.Read(context.Background())
		}
	}()
	return err
}

// dial opens 500 links in a second. A silent one makes no handshake, any other
// closes after it.
func (f *flooder) dial(silent bool) {
	for n := 0; ; n++ {
		time.Sleep(2 * time.Millisecond)
		go func() {
			if silent {
				conn, _, err := websocket.Dial(context.Background(), f.url+linkPath, &websocket.DialOptions{HTTPClient: f.client})
				if err != nil {
					f.refused.Add(1)
					return
				}
				f.done.Add(1)
				_, _, _ = conn.Read(context.Background()) // until the hub closes it
				return
			}
			conn, err := f.connect(fmt.Sprint("m", n%1000))
			if err != nil {
				f.refused.Add(1)
				return
			}
			f.done.Add(1)
			_ = conn.Close(websocket.StatusGoingAway, "")
		}()
	}
}
