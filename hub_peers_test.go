//go:build linux || darwin

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// peerAPI is an API with the hub's routes whose --peers are urls.
func peerAPI(t *testing.T, urls ...string) (*api, *hubAPI) {
	t.Helper()
	a := testAPI(t, func(c *apiConfig, _ *poolConfig) { c.token = "s3cret" })
	h := newHub(hubConfig{log: a.log})
	t.Cleanup(h.close)
	p := newPeers(urls, nil)
	if p != nil {
		name := "http://here"
		p.name.Store(&name)
		t.Cleanup(p.client.CloseIdleConnections)
	}
	a.peers, a.events.peers = p, p
	hub := &hubAPI{callRouter: callRouter{hub: h, pool: a.pool, libraries: &libraries{}}, tokens: &childTokens{}, peers: p, log: a.log}
	hub.register(a)
	return a, hub
}

// getList asks for a list and decodes it.
func getList(t *testing.T, a *api, target string, list any) {
	t.Helper()
	w := ask(a, "GET", target, "", "Authorization", "Bearer s3cret")
	if err := json.Unmarshal(w.Body.Bytes(), list); err != nil || w.Code != 200 {
		t.Fatalf("%s: got %d %s, %v, want a list", target, w.Code, w.Body, err)
	}
}

// The machines of several schedulers in pages: each is there once, in order, whatever
// the length of a page and however the schedulers share them.
func TestMachinesOfAllNodes(t *testing.T) {
	t.Parallel()
	b, there := peerAPI(t)
	a, here := peerAPI(t, newHTTPServer(t, b)+"/")
	var want []string
	for i := range 40 {
		id := fmt.Sprintf("machine%02d", i)
		want = append(want, id)
		if i%7 != 0 {
			there.hub.bound(id, "lib")
		}
		if i%3 == 0 || i%7 == 0 || i > 30 {
			here.hub.bound(id, "lib")
		}
	}
	for _, limit := range []int{1, 2, 7, 39, 40, 1000} {
		var got []string
		for cursor, pages := "", 0; ; pages++ {
			var list machineList
			getList(t, a, fmt.Sprintf("/machines?nodes=all&limit=%d&cursor=%s", limit, cursor), &list)
			if len(list.Machines) > limit || len(list.Nodes) != 2 || pages > 50 {
				t.Fatalf("limit %d: got %d machines and the nodes %v, want at most the limit, and two nodes", limit, len(list.Machines), list.Nodes)
			}
			for _, m := range list.Machines {
				got = append(got, m.MachineID)
			}
			if list.NextCursor == nil {
				break
			}
			cursor = *list.NextCursor
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: got %v, want %v", limit, got, want)
		}
	}
	// Without nodes=all, and asked by another scheduler, each lists its own.
	for target, header := range map[string]string{"/machines": "", "/machines?nodes=all": "another"} {
		w := ask(a, "GET", target, "", "Authorization", "Bearer s3cret", peerHeader, header)
		var list machineList
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Nodes) != 0 || len(list.Machines) == len(want) || list.Machines[0].Node != "" {
			t.Errorf("%s asked by %q: got %+v, want the machines of one node", target, header, list)
		}
	}
}

// The daemons of several schedulers, and the one of two views of a machine that is
// shown.
func TestDaemonsOfAllNodes(t *testing.T) {
	t.Parallel()
	early, late := "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
	view := func(id, status, at string) string {
		return fmt.Sprintf(`{"machine_id":%q,"status":%q,"connected_at":%q,"node":"http://liar"}`, id, status, at)
	}
	fake := func(machines ...string) string {
		return newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer s3cret" || r.Header.Get(peerHeader) == "" {
				t.Errorf("got %v %v, want the token and the id of the scheduler that asks", r.URL, r.Header)
			}
			if r.URL.Path == "/daemons" {
				fmt.Fprint(w, `{"daemons":[{"lib_id":"b","status":"ready","node":"http://liar"},{"lib_id":"c","status":"ready"}],"max":5}`)
				return
			}
			fmt.Fprintf(w, `{"machines":[%s],"next_cursor":null}`, strings.Join(machines, ","))
		}))
	}
	first := fake(view("moved", "offline", late), view("online", "online", early), view("twice", "online", early))
	second := fake(view("moved", "offline", early), view("online", "offline", late), view("twice", "online", late))
	a, _ := peerAPI(t, first, second)
	if w := ask(a, "PUT", "/daemons/b", "", "Authorization", "Bearer s3cret"); w.Code != 201 {
		t.Fatalf("starting b: got %d %s, want 201", w.Code, w.Body)
	}
	var daemons daemonList
	getList(t, a, "/daemons?nodes=all", &daemons)
	var got []string
	for _, d := range daemons.Daemons {
		got = append(got, d.LibID+"@"+d.Node)
	}
	if want := []string{"b@http://here", "b@" + first, "b@" + second, "c@" + first, "c@" + second}; !slices.Equal(got, want) || daemons.Max != 12 {
		t.Errorf("got %v of %d, want %v of 12", got, daemons.Max, want)
	}
	// A page has all daemons of its last library.
	getList(t, a, "/daemons?nodes=all&limit=1", &daemons)
	if n := len(daemons.Daemons); n != 3 || daemons.Daemons[2].LibID != "b" || daemons.NextCursor == nil {
		t.Errorf("got %d daemons %v and the cursor %v, want the 3 of b and a cursor", n, daemons.Daemons, daemons.NextCursor)
	}
	var machines machineList
	getList(t, a, "/machines?nodes=all", &machines)
	got = nil
	for _, m := range machines.Machines {
		got = append(got, m.MachineID+"@"+m.Node)
	}
	if want := []string{"moved@" + first, "online@" + first, "twice@" + second}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What other schedulers may answer: each that lies or hangs is marked, and the lists
// of the others are shown.
func TestNodesThatFail(t *testing.T) {
	t.Parallel()
	skipShort(t, "one node hangs")
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	machine := func(id, rest string) http.HandlerFunc {
		return answer(200, fmt.Sprintf(`{"machines":[{"machine_id":%q,"status":"online"}],"next_cursor":%s}`, id, rest))
	}
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc // nil refuses connections
		want    string           // in the error
	}{
		{"nothing listens", nil, "refused"},
		{"it hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 2s"},
		{"it hangs in the answer", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "no answer within 2s"},
		{"another token", answer(401, "{}"), "401"},
		{"a redirect", answer(307, "{}"), "307"},
		{"no JSON", answer(200, "hello"), "not that of a scheduler"},
		{"another shape", answer(200, `{"machines":5,"daemons":5}`), "not that of a scheduler"},
		{"too large", answer(200, strings.Repeat(" ", maxPeerAnswer+1)), "larger than"},
		{"a name that no machine may have", machine("a/b", "null"), "not that of a scheduler"},
		{"a cursor that does not advance", machine("m", `""`), "not that of a scheduler"},
		{"a cursor before all machines", answer(200, `{"machines":[],"next_cursor":"AAAA"}`), "not that of a scheduler"},
		{"a cursor behind its page", machine("m", `"bmV2ZXI"`), "not that of a scheduler"},
		{"it says that it is the one that asks", answer(421, "{}"), "421"},
		{"a cursor that is not base64", machine("m", `"%"`), "not that of a scheduler"},
		{"a status that does not exist", answer(200, `{"machines":[{"machine_id":"m","status":"on fire"}]}`), "not that of a scheduler"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			address := "http://127.0.0.1:1"
			if test.handler != nil {
				address = newHTTPServer(t, test.handler)
			}
			a, hub := peerAPI(t, address)
			hub.hub.bound("mine", "lib")
			for _, target := range []string{"/machines?nodes=all", "/daemons?nodes=all"} {
				var list machineList
				begin := time.Now()
				getList(t, a, target, &list)
				if took := time.Since(begin); took > 5*peerTimeout {
					t.Errorf("%s took %v, want about %v at most", target, took, peerTimeout)
				}
				if len(list.Nodes) != 2 || list.Nodes[0] != (nodeView{URL: "http://here", Status: "ok"}) || list.Nodes[1].URL != address || list.Nodes[1].Status != "failed" ||
					!strings.Contains(list.Nodes[1].Error, test.want) && target != "/daemons?nodes=all" {
					t.Errorf("%s: got the nodes %+v, want the second one failed with %q", target, list.Nodes, test.want)
				}
				if target == "/machines?nodes=all" && (len(list.Machines) != 1 || list.Machines[0].MachineID != "mine" || list.NextCursor != nil) {
					t.Errorf("got %+v, want the machine of this node", list)
				}
			}
		})
	}
}

// A scheduler that --peers names too is not shown twice, and has its name there.
func TestNodeFindsItself(t *testing.T) {
	t.Parallel()
	var target *url.URL
	proxy := newHTTPServer(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	a, _ := peerAPI(t, proxy)
	a.access = apiAccess{}
	var err error
	if target, err = url.Parse(newHTTPServer(t, a)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var list machineList
		if getList(t, a, "/machines?nodes=all", &list); len(list.Nodes) != 1 || list.Nodes[0] != (nodeView{URL: proxy, Status: "ok"}) {
			t.Errorf("got the nodes %+v, want this one alone, as %s", list.Nodes, proxy)
		}
	}
	lines := openStreamAt(t, target.String()+"/events?nodes=all", "")
	a.events.publish("daemon/status", map[string]string{"machine_id": "m"})
	if _, name, data := nextEvent(t, lines); name != "daemon/status" || data != `{"machine_id":"m","node":"`+proxy+`"}` {
		t.Errorf("got %s %s, want the event with the node %s", name, data, proxy)
	}
}

// The events of several schedulers in one stream: with ids of its own and the node
// of each. A stream that was cut is resumed where it was, one that lies is not shown.
func TestEventsOfAllNodes(t *testing.T) {
	t.Parallel()
	streams := make(chan string, 10) // the Last-Event-ID of each stream
	next := make(chan string)
	peer := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		streams <- r.Header.Get("Last-Event-ID")
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case text := <-next:
				if text == "" {
					return
				}
				fmt.Fprint(w, text)
			case <-r.Context().Done():
				return
			}
		}
	}))
	a, _ := peerAPI(t, peer)
	a.access = apiAccess{}
	address := newHTTPServer(t, a)
	defer a.events.close()
	lines := openStreamAt(t, address+"/events?nodes=all", "")
	if id := <-streams; id != "" {
		t.Errorf("got the Last-Event-ID %q for the first stream, want none", id)
	}
	last := ""
	want := func(name, data string) {
		t.Helper()
		id, gotName, gotData := nextEvent(t, lines)
		if gotName != name || gotData != data || len(id) < len(last) || len(id) == len(last) && id <= last {
			t.Errorf("got %s %s %s after %s, want %s %s and a higher id", id, gotName, gotData, last, name, data)
		}
		last = id
	}
	here, there := `"node":"http://here"}`, `"node":"`+peer+`"}`
	a.events.publish("daemon/status", map[string]string{"machine_id": "m"})
	want("daemon/status", `{"machine_id":"m",`+here)
	next <- ": welcome\nid: 41\n\nid: 42\nevent: pool/entry\ndata: {\"lib_id\":\"x\",\"node\":\"http://liar\"}\n\n:\n\nid: 43\nevent: unknown\ndata: {}\n\n"
	want("pool/entry", `{"lib_id":"x","node":"http://liar",`+there) // the last member counts
	next <- ""                                                      // cut
	if id := <-streams; id != "43" {
		t.Errorf("got the Last-Event-ID %q after the cut, want 43", id)
	}
	next <- "event: reset\ndata: {}\n\n"
	want("reset", `{`+there)
	next <- "event: daemon/status\ndata: hello\n\n" // the stream ends
	if id := <-streams; id != "43" {
		t.Errorf("got the Last-Event-ID %q after a lie, want 43", id)
	}
	next <- "event: task/progress\ndata: {\"task_id\":\"t\"}\n\n"
	want("task/progress", `{"task_id":"t",`+there)
	// A client that comes back may have missed events.
	lines, last = openStreamAt(t, address+"/events?nodes=all", last), ""
	if _, name, data := nextEvent(t, lines); name != "reset" || data != "{}" {
		t.Errorf("got %s %s for a client that comes back, want reset", name, data)
	}
}

// A client that does not read ends with its streams to the other schedulers.
func TestStreamsOfAllNodesEnd(t *testing.T) {
	t.Parallel()
	begun, ended := make(chan struct{}), make(chan struct{})
	peer := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		defer close(ended)
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, "event: daemon/status\ndata: {}\n\n"); err != nil {
				return
			}
		}
	}))
	a, _ := peerAPI(t, peer)
	a.access = apiAccess{}
	server := httptest.NewServer(a)
	openStreamAt(t, server.URL+"/events?nodes=all", "")
	<-begun
	server.CloseClientConnections()
	server.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Errorf("the stream of the other scheduler is open after %v, want it to end", patience)
	}
}

// The tables of the commands have a column for the scheduler if there are several.
func TestTablesOfAllNodes(t *testing.T) {
	t.Parallel()
	for node, want := range map[string]string{"": "MACHINE STATE REQUESTS VERSION SYSTEM LIBRARY ALLOWED m online 0 - - /src", "http://b": "MACHINE STATE REQUESTS VERSION SYSTEM LIBRARY NODE ALLOWED m online 0 - - http://b /src"} {
		m := machineView{handshakeParams: handshakeParams{MachineID: "m", AllowedPaths: []string{"/src"}}, Status: "online", Node: node}
		if got := strings.Join(strings.Fields(machineTable([]machineView{m}).text(0)), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		text := daemonTable([]poolEntry{{LibID: "x", Status: statusReady, LastError: "died", Node: node}}, time.Now()).text(0)
		if strings.Contains(text, "NODE") != (node != "") || !strings.Contains(text, node+"  died") {
			t.Errorf("got %q, want the node %q before the error", text, node)
		}
	}
}
