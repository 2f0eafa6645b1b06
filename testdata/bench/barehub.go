package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"
)

// bareHub serves a hub on a port of the loopback interface that does nothing but
// carry the requests of measureHub to one daemon, on the same HTTP server and
// WebSocket library as the scheduler. It reads no JSON: it knows how requests and
// answers begin. What it costs is what a hub on net/http costs at least.
func bareHub(port string) {
	const begin = `{"jsonrpc":"2.0","id":`
	var daemon atomic.Pointer[websocket.Conn]
	var waiting sync.Map // of chan []byte, by id
	var last atomic.Int64
	serve := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			conn, err := websocket.Accept(w, r, nil)
			if err != nil {
				log.Fatal(err)
			}
			conn.SetReadLimit(17 << 20)
			for ctx := context.Background(); ; {
				_, message, err := conn.Read(ctx)
				if err != nil {
					return
				}
				id, rest, _ := bytes.Cut(bytes.TrimPrefix(message, []byte(begin)), []byte(","))
				if bytes.HasPrefix(rest, []byte(`"method":"daemon/handshake"`)) {
					daemon.Store(conn)
					if conn.Write(ctx, websocket.MessageText, []byte(begin+string(id)+`,"result":{"accepted":true}}`)) != nil {
						return
					}
				} else if answered, ok := waiting.LoadAndDelete(string(id)); ok {
					answered.(chan []byte) <- rest
				}
			}
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			log.Fatal(err)
		}
		id, rest, _ := bytes.Cut(bytes.TrimPrefix(body, []byte(begin)), []byte(","))
		answered, own := make(chan []byte, 1), strconv.FormatInt(last.Add(1), 10)
		waiting.Store(own, answered)
		if err := daemon.Load().Write(r.Context(), websocket.MessageText, []byte(begin+own+","+string(rest))); err != nil {
			log.Fatal(err)
		}
		head, rest := begin+string(id)+",", <-answered
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(head)+len(rest)))
		_, _ = io.WriteString(w, head) // the client may be gone
		_, _ = w.Write(rest)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(serve)))
}
