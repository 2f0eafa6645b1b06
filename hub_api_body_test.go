//go:build linux || darwin

package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// The largest index/readBlobs fits in a request through the hub, and what is
// larger gets an answer under its id.
func TestLargeBodiesThroughTheHub(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"README.md": "hello\n"})
	_, url := startSchedulerProcess(t, nil)
	startUserDaemon(t, url, "laptop", nil, "--allow", repo.dir)

	oids := make([]string, maxBlobsAsked)
	for n := range oids {
		oids[n] = strings.Repeat("ab", 32) // a SHA-256 id is the longest
	}
	oids[len(oids)-1] = repo.git("rev-parse", "HEAD:README.md")
	params, err := json.Marshal(blobsParams{pathParam: at(repo.dir), OIDs: oids})
	if err != nil {
		t.Fatal(err)
	}
	status, got := callRPC(t, url+"/machines/laptop", "index/readBlobs", string(params))
	if status != http.StatusOK || got.Error != nil {
		t.Fatalf("%d ids: got the status %d and %v, want a result", len(oids), status, got.Error)
	}
	var result blobsResult
	if err := json.Unmarshal(got.Result, &result); err != nil {
		t.Fatal(err)
	}
	if len(result.Blobs) != len(oids) || result.Blobs[len(oids)-1].Content == nil || *result.Blobs[len(oids)-1].Content != "hello\n" {
		t.Errorf("got %d blobs, want %d, the last with its content", len(result.Blobs), len(oids))
	}

	long := `"params":{"path":"` + strings.Repeat("x", maxRPCBody) + `"}`
	for _, c := range []struct{ body, want string }{
		{`{"jsonrpc":"2.0","id":"a7","method":"fs/stat",` + long + `}`, `"id":"a7","error":{"code":-32600,`},
		{`{"method":"fs/stat","id":null,` + long + `}`, `"id":null,"error":{"code":-32600,`},
		{`{"jsonrpc":"2.0","method":"fs/stat",` + long + `,"id":"a7"}`, `"code":"BODY_TOO_LARGE"`},
		{`{"jsonrpc":"2.0","id":{"a":1},` + long + `}`, `"code":"BODY_TOO_LARGE"`},
		{`[{"id":1},` + long + `]`, `"code":"BODY_TOO_LARGE"`},
	} {
		status, body := askHTTP(t, http.MethodPost, url+"/machines/laptop/rpc", c.body)
		if status != http.StatusRequestEntityTooLarge || !strings.Contains(body, c.want) {
			t.Errorf("%.60s…: got the status %d and %.200s, want 413 with %s", c.body, status, body, c.want)
		}
	}
}

func FuzzReadID(f *testing.F) {
	for _, seed := range []string{`{"id":1,"params":{`, `{"jsonrpc":"2.0","method":"a","id":"x"`, `{"id":{}}`, `{"id":`, `[{"id":1}]`, ``, `{"a":[1,{"id":2}],"id":-3.5}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, start string) {
		if id := readID([]byte(start)); id != nil && (!json.Valid(id) || !validID(id)) {
			t.Errorf("%q: got the id %s, want an id that can be sent", start, id)
		}
	})
}
