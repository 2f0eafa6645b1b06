package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestServerAnswersPings: each ping gets a pong with its payload, however it
// arrives and whatever is being sent; a wrong one ends the link.
func TestServerAnswersPings(t *testing.T) {
	t.Parallel()
	s := newLinkServer(t, bigMethod("test/big"))
	masked := whole(frameFin|framePing, "hello")
	binary.BigEndian.PutUint32(masked[2:], 0x01020304)
	for i := range 5 {
		masked[6+i] ^= byte(1 + i%4)
	}
	longest := strings.Repeat("p", 125)
	request := whole(frameFin|frameText, markRequest)
	const answer = `{"jsonrpc":"2.0","id":1,"result":`
	for _, test := range []struct {
		name  string
		parts [][]byte // written one after the other
		pongs []string
		says  int // answers of test/mark
	}{
		{"empty", [][]byte{whole(frameFin|framePing, "")}, []string{""}, 0},
		{"masked", [][]byte{masked}, []string{"hello"}, 0},
		{"as long as allowed", [][]byte{whole(frameFin|framePing, longest)}, []string{longest}, 0},
		{"two at once", [][]byte{append(whole(frameFin|framePing, "a"), whole(frameFin|framePing, "b")...)}, []string{"a", "b"}, 0},
		{"in two parts", [][]byte{masked[:7], masked[7:]}, []string{"hello"}, 0},
		{"its header in two parts", [][]byte{masked[:1], masked[1:]}, []string{"hello"}, 0},
		{"before a request", [][]byte{append(whole(frameFin|framePing, "a"), request...)}, []string{"a"}, 1},
		{"behind a request", [][]byte{append(bytes.Clone(request), whole(frameFin|framePing, "a")...)}, []string{"a"}, 1},
		{"between fragments", [][]byte{whole(frameText, markRequest[:9]), whole(frameFin|framePing, "a"), whole(frameFin, markRequest[9:])}, []string{"a"}, 1},
		{"before a part of a request", [][]byte{append(whole(frameFin|framePing, "a"), request[:9]...), request[9:]}, []string{"a"}, 1},
		{"pongs that nobody asked for", [][]byte{append(whole(frameFin|0xa, ""), whole(frameFin|0xa, "1")...), request}, nil, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := dialRaw(t, s.address)
			for _, part := range test.parts {
				c.put(part)
				time.Sleep(time.Millisecond) // most likely another read; none is right in any case
			}
			var pongs []string
			says := 0
			for len(pongs) < len(test.pongs) || says < test.says {
				first, payload, err := c.next()
				switch {
				case err != nil:
					t.Fatalf("got %v after %q and %d answers, want %q and %d", err, pongs, says, test.pongs, test.says)
				case first == finalPong:
					pongs = append(pongs, string(payload))
				case first == finalText && strings.HasPrefix(string(payload), answer):
					says++
				default:
					t.Fatalf("got the frame %#x %.100q, want pongs and answers", first, payload)
				}
			}
			if strings.Join(pongs, ",") != strings.Join(test.pongs, ",") {
				t.Errorf("got the pongs %q, want %q", pongs, test.pongs)
			}
		})
	}
	t.Run("while a long message is sent", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, s.address)
		c.put(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":1,"method":"test/big","params":{"count":900000}}`))
		const pings = 50
		for range pings {
			c.put(whole(frameFin|framePing, "a"))
		}
		size, pongs := 0, 0
		for first := byte(0); pongs < pings || first&frameFin == 0 || size == 0; {
			f, payload, err := c.next()
			if err != nil {
				t.Fatalf("got %v after %d pongs and %d bytes, want %d pongs", err, pongs, size, pings)
			}
			if f == finalPong {
				pongs++
				continue
			}
			first = f
			size += len(payload)
		}
		if size < 900_000 {
			t.Errorf("got a message of %d bytes, want 900,000", size)
		}
	})
	for name, wrong := range map[string][]byte{
		"too long": frame(frameFin|framePing, make([]byte, 126), 126), "reserved bit": whole(frameFin|framePing|frameRSV1, ""),
		"without a mask": {frameFin | framePing, 0, 0, 0, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dialRaw(t, s.address)
			c.put(wrong)
			for {
				first, payload, err := c.next()
				if err != nil {
					return
				}
				if first == finalPong {
					t.Errorf("got the pong %q, want the link closed", payload)
				}
			}
		})
	}
}

// FuzzFrameGuard: what the guard returns is what was sent, whatever the frames and
// the sizes of reads, and one call returns bytes of one frame.
func FuzzFrameGuard(f *testing.F) {
	f.Add(append(whole(frameFin|frameText, "ab"), whole(frameFin|framePing, "")...), 3, 4)
	f.Add(frame(frameFin|frameText, bytes.Repeat([]byte{'x'}, 300), 300), 20, 1)
	f.Add([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5}, 2, 9)
	f.Fuzz(func(t *testing.T, stream []byte, early, size int) {
		early = max(0, min(early, len(stream)))
		size = max(1, min(size, 1<<16))
		guard := newFrameGuard(bytes.NewReader(stream[early:]), stream[:early])
		guard.open.Store(true)
		var got []byte
		p := make([]byte, size)
		for {
			n, err := guard.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				if err != io.EOF {
					t.Errorf("got %v, want %v", err, io.EOF)
				}
				break
			}
			if n == 0 {
				t.Fatalf("got no byte and no error after %d", len(got))
			}
		}
		// A header that is cut short is not returned.
		if rest := stream[len(got):]; !bytes.HasPrefix(stream, got) || len(rest) >= maxFrameHeader {
			t.Errorf("got %d of %d bytes, want all but a cut header", len(got), len(stream))
		} else if header, _ := frameSize(rest); header > 0 {
			t.Errorf("got %d of %d bytes, want the frame %x too", len(got), len(stream), rest)
		}
	})
}

// TestWholeMessages: the guard takes messages that are at hand, and leaves to the
// library what it has to refuse, and everything once the link ends.
func TestWholeMessages(t *testing.T) {
	t.Parallel()
	masked, plain := whole(frameFin|frameText, "hello"), []byte("\x81\x05hello")
	for _, test := range []struct {
		name           string
		frames         []byte
		server, ending bool
		limit          int
		want           string
	}{
		{name: "of a client", frames: masked, server: true, limit: 5, want: "hello"},
		{name: "of a server", frames: plain, limit: 5, want: "hello"},
		{name: "too long", frames: masked, server: true, limit: 4},
		{name: "of a client without a mask", frames: plain, server: true, limit: 5},
		{name: "of a server with a mask", frames: masked, limit: 5},
		{name: "while the link ends", frames: masked, server: true, ending: true, limit: 5},
		{name: "in parts", frames: whole(frameText, "hello"), server: true, limit: 5},
		{name: "compressed", frames: whole(frameFin|frameText|frameRSV1, "hello"), server: true, limit: 5},
		{name: "binary", frames: whole(frameFin|frameBinary, "hello"), server: true, limit: 5},
		{name: "cut short", frames: masked[:len(masked)-1], server: true, limit: 5},
		{name: "with a cut header", frames: masked[:3], server: true, limit: 5},
		{name: "empty", frames: whole(frameFin|frameText, ""), server: true},
	} {
		guard := newFrameGuard(bytes.NewReader(test.frames), nil)
		guard.server, guard.link = test.server, &link{}
		guard.link.ending.Store(test.ending)
		guard.open.Store(true)
		if got := guard.await(test.limit); string(got) != test.want {
			t.Errorf("%s: got the message %q, want %q", test.name, got, test.want)
		}
		if rest, _ := io.ReadAll(guard); test.want == "" && test.name != "empty" && !bytes.Equal(rest, test.frames) {
			t.Errorf("%s: the library gets %q, want all of %q", test.name, rest, test.frames)
		}
	}
}

func FuzzMaskBytes(f *testing.F) {
	f.Add([]byte("hello"), uint32(0x01020304))
	f.Add(bytes.Repeat([]byte("0123456789a"), 20), uint32(0xfffefdfc))
	f.Fuzz(func(t *testing.T, text []byte, key uint32) {
		mask := binary.LittleEndian.AppendUint32(nil, key)
		want := make([]byte, len(text))
		for i, c := range text {
			want[i] = c ^ mask[i%4]
		}
		got := make([]byte, len(text))
		if maskBytes(got, text, key); !bytes.Equal(got, want) {
			t.Errorf("%q with the mask %x: got %q, want %q", text, mask, got, want)
		}
		if maskBytes(got, got, key); !bytes.Equal(got, text) {
			t.Errorf("got %q in place, want %q again", got, text)
		}
	})
}

// TestPingsDoNotHideAClose: the frame behind the pings is the library's.
func TestPingsDoNotHideAClose(t *testing.T) {
	t.Parallel()
	s := newLinkServer(t)
	c := dialRaw(t, s.address)
	c.put(append(whole(frameFin|framePing, "a"), whole(frameFin|frameClose, "\x03\xe8")...))
	c.closes(websocket.StatusNormalClosure)
	if err := s.end(t); err == nil || !strings.Contains(sessionError(err).Error(), "1000") {
		t.Errorf("got %v, want the other side's close code 1000", err)
	}
}
