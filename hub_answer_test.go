package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestAnswersInLentBuffers: every answer of many at once has its own content to the
// last byte, short and long, as JSON and as a stream, with any id.
func TestAnswersInLentBuffers(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		t.Fatal(err)
	}
	b := newHubBenchOn(t, listener, nil)
	type textParams struct {
		Text  string `json:"text"`
		Count int    `json:"count"`
	}
	b.daemonVia(client, nil, newMethod("fs/readFile", "", func(_ context.Context, p textParams) (string, error) { return strings.Repeat(p.Text, p.Count), nil }))
	b.online("m")
	api := newAPI(apiConfig{events: newEvents(b.log), log: b.log})
	(&hubAPI{callRouter: callRouter{hub: b.hub}, log: slog.New(slog.DiscardHandler)}).register(api)
	server := httptest.NewServer(api)
	defer server.Close()

	var calls sync.WaitGroup
	for caller := range 8 {
		calls.Go(func() {
			text, id := fmt.Sprintf("%d\t", caller), fmt.Sprintf(`"%d-%s"`, caller, strings.Repeat("i", 20*caller))
			for round, count := range []int{1, minLent / 2, minLent, 3 * minLent, 100 * caller, 20_000 * caller, minLent/2 - 1} {
				body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"fs/readFile","params":{"text":%s,"count":%d}}`, id, strconv.Quote(text), count)
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/machines/m/rpc", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				want := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, strconv.Quote(strings.Repeat(text, count)))
				if (caller+round)%3 == 0 {
					request.Header.Set("Accept", "text/event-stream")
					want = "event: result\ndata: " + want + "\n\n"
				}
				response, err := server.Client().Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || string(got) != want {
					t.Errorf("caller %d, %d times: got %d bytes, %.80q … %q, %v, want %d bytes", caller, count, len(got), got, got[max(0, len(got)-80):], err, len(want))
				}
			}
		})
	}
	calls.Wait()
}

// TestCallAnswer: the answer has the result and one bracket, wherever in the
// daemon's message the result is.
func TestCallAnswer(t *testing.T) {
	t.Parallel()
	result := json.RawMessage(`"` + strings.Repeat("x", 2*minLent) + `"`)
	for _, message := range []string{string(result) + "}", `{"result":` + string(result) + "}", `{"result":` + string(result) + `,"id":1}`, ""} {
		c := &call{id: json.RawMessage("7"), message: []byte(message)}
		at := bytes.Index(c.message, result)
		kept := result
		if at >= 0 {
			kept = c.message[at : at+len(result)]
		}
		head, rest := callAnswer(c, kept, nil)
		if got, want := string(head)+string(rest), `{"jsonrpc":"2.0","id":7,"result":`+string(result)+`}`; got != want {
			t.Errorf("%.20s…: got %d bytes, %.60s…, want %d bytes", message, len(got), got, len(want))
		}
	}
}
