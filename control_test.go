package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

func TestControlLines(t *testing.T) {
	long := `{"event":"status","x":"` + strings.Repeat("x", maxControlLine) + `"}`
	for _, test := range []struct {
		name, in   string
		want       []controlEvent
		unreadable int
	}{
		{"ready", `{"event":"ready","pid":7,"instance_id":"a"}` + "\n", []controlEvent{{Event: "ready", PID: 7, InstanceID: "a"}}, 0},
		{"status, later keys ignored", `{"event":"status","active":2,"idle_ms":5,"quiesced":true,"new":1}` + "\n",
			[]controlEvent{{Event: "status", Active: 2, IdleMS: 5, Quiesced: true}}, 0},
		{"last line without an end", `{"event":"status"}`, []controlEvent{{Event: "status"}}, 0},
		{"carriage return and empty lines", "\n\r\n{\"event\":\"status\"}\r\n", []controlEvent{{Event: "status"}}, 0},
		{"status with clones", `{"event":"status","clones":[3,4]}`, []controlEvent{{Event: "status", Clones: []int64{3, 4}}}, 0},
		{"too many clones", `{"event":"status","clones":[` + strings.Repeat("1,", maxPlacedClones) + `1]}`, nil, 1},
		{"text is rubbish", "hello\n{\"event\":\"status\"}\n", []controlEvent{{Event: "status"}}, 1},
		{"an array is rubbish", "[1]\n", nil, 1},
		{"no event", "{}\n", nil, 1},
		{"a negative count", `{"event":"status","active":-1}` + "\n", nil, 1},
		{"a line too long is skipped whole", long + "\n{\"event\":\"status\"}\n", []controlEvent{{Event: "status"}}, 1},
		{"a line too long without an end", long, nil, 1},
		{"nothing", "", nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []controlEvent
			r := newControlReader(strings.NewReader(test.in), slog.New(slog.DiscardHandler))
			if err := r.events(func(e controlEvent) { got = append(got, e) }); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) || r.unreadable != test.unreadable {
				t.Errorf("got %v and %d unreadable lines, want %v and %d", got, r.unreadable, test.want, test.unreadable)
			}
		})
	}
}

func TestControlTokenThenOps(t *testing.T) {
	r := newControlReader(strings.NewReader("s3cret\n"+`{"op":"quiesce","idle_ms":10,"ask":3}`+"\n"+`{"op":"resume"}`+"\n"), slog.New(slog.DiscardHandler))
	token, err := r.token()
	if err != nil || string(token) != "s3cret" {
		t.Fatalf("got the token %q, %v, want s3cret", string(token), err)
	}
	var got []controlOp
	if err := r.ops(func(op controlOp) { got = append(got, op) }); err != nil {
		t.Fatal(err)
	}
	if want := []controlOp{{Op: opQuiesce, IdleMS: 10, Ask: 3}, {Op: opResume}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := newControlReader(strings.NewReader(""), slog.New(slog.DiscardHandler)).token(); !errors.Is(err, io.EOF) {
		t.Errorf("no token at all: %v, want EOF", err)
	}
}

func TestControlEventHasTheKeysOfItsKind(t *testing.T) {
	for want, event := range map[string]controlEvent{
		`{"event":"ready","pid":4711,"instance_id":"x"}` + "\n":                            {Event: eventReady, PID: 4711, InstanceID: "x"},
		`{"event":"status","active":0,"idle_ms":0,"quiesced":false}` + "\n":                {Event: eventStatus},
		`{"event":"status","active":1,"idle_ms":0,"quiesced":false,"ask":2}` + "\n":        {Event: eventStatus, Active: 1, Ask: 2},
		`{"event":"status","active":2,"idle_ms":0,"quiesced":false,"clones":[1,2]}` + "\n": {Event: eventStatus, Active: 2, Clones: []int64{1, 2}},
	} {
		var out bytes.Buffer
		if err := writeControl(&out, event); err != nil || out.String() != want {
			t.Errorf("wrote %q, %v, want %q", out.String(), err, want)
		}
	}
}

// A program that prints without end must not fill the scheduler's log, and its
// words must not reach it.
func TestControlRubbishIsLoggedABoundedNumberOfTimes(t *testing.T) {
	var out bytes.Buffer
	r := newControlReader(strings.NewReader(strings.Repeat("my secret\n", 1000)), slog.New(slog.NewTextHandler(&out, nil)))
	if err := r.events(func(controlEvent) {}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != maxUnreadableLogged {
		t.Errorf("%d lines logged, want %d", n, maxUnreadableLogged)
	}
	if strings.Contains(out.String(), "my secret") {
		t.Error("got the content in the log, want it left out")
	}
}

// TestCloneEventBounds: what a daemon says of a clone cannot overflow a duration.
func TestCloneEventBounds(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"event":"clone","ok":true,"took_ms":1500}`:                true,
		`{"event":"clone","ok":false,"took_ms":-1}`:                 false,
		`{"event":"clone","ok":true,"took_ms":9223372036854775807}`: false,
	} {
		var e controlEvent
		if err := json.Unmarshal([]byte(text), &e); (err == nil) != ok || ok && (!e.OK || e.TookMS != 1500) {
			t.Errorf("%s: got %+v, %v, want it accepted: %v", text, e, err, ok)
		}
	}
}

func FuzzControlEvents(f *testing.F) {
	for _, seed := range []string{`{"event":"ready","pid":1,"instance_id":""}`, "x\n{\"event\":\"status\",\"active\":1}\n", "\r\n", "{", "\x00\xff\n", `{"event":"status","active":-1}`, `{"event":"status","idle_ms":-1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := newControlReader(bytes.NewReader(data), slog.New(slog.DiscardHandler)).events(func(e controlEvent) {
			if e.Event == "" || e.Active < 0 || e.IdleMS < 0 {
				t.Fatalf("got %+v, want an event without negative numbers", e)
			}
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			var again controlEvent
			if err := json.Unmarshal(line, &again); err != nil {
				t.Fatalf("%s: got %v, want it read as it was written", line, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
