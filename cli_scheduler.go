package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// This file is the commands of the scheduler that ask a running one, but for call
// and status.

// schedulerCommands returns the commands of the scheduler.
func schedulerCommands() []command {
	return append([]command{
		callCommand(),
		statusCommand(),
		{
			name: "machines", about: "list the machines that are or were connected",
			define: askScheduler(func(f *flagSet) func(*clientRun) error {
				asJSON := jsonFlag(f)
				return func(r *clientRun) error {
					machines, err := r.machines()
					if err != nil {
						return err
					}
					if *asJSON {
						return r.sayJSON(machines)
					}
					return r.say(machineTable(machines).text(r.width()))
				}
			}),
		},
		{
			name: "libraries", about: "list the libraries that are bound to machines",
			define: askScheduler(func(f *flagSet) func(*clientRun) error {
				asJSON := jsonFlag(f)
				return func(r *clientRun) error {
					libraries := []binding{}
					err := r.pages("/libraries", "libraries", &libraries)
					if err != nil {
						return err
					}
					if *asJSON {
						return r.sayJSON(libraries)
					}
					table := &textTable{head: []string{"LIBRARY", "MACHINE"}}
					for _, b := range libraries {
						table.add(b.LibID, b.MachineID)
					}
					return r.say(table.text(r.width()))
				}
			}),
		},
		{
			name: "events", about: "print what happens, until interrupted",
			intro: `Examples:
  c4a-daemon-scheduler events
  c4a-daemon-scheduler events --json | jq .percent

Prints the events of the scheduler as they happen: machines that come and go,
daemons of the pool that change, progress. It reconnects by itself.
`,
			define: askScheduler(func(f *flagSet) func(*clientRun) error {
				asJSON := jsonFlag(f)
				return func(r *clientRun) error { return r.followEvents(*asJSON) }
			}),
		},
		{
			name: "logs", words: "LIB_ID", min: 1, most: 1, about: "print the log of a library's daemon",
			intro: `Examples:
  c4a-daemon-scheduler logs demo
  c4a-daemon-scheduler logs -f demo

Prints the end of the daemon's log, also after the daemon has ended.
`,
			define: askScheduler(func(f *flagSet) func(*clientRun) error {
				follow := f.Bool("f", false, "go on with what is added, until interrupted")
				most := size(64 << 10)
				f.Var(&most, "bytes", "print at most the last `BYTES`")
				return func(r *clientRun) error { return r.printLog(r.words[0], int64(most), *follow) }
			}),
		},
		{
			name: "stop", words: "LIB_ID | --all", most: 1, about: "stop a library's daemon, or all, and keep the files",
			intro: `Examples:
  c4a-daemon-scheduler stop demo
  c4a-daemon-scheduler stop --all

The next call starts the daemon again, with the files that it had.
`,
			define: askScheduler(func(f *flagSet) func(*clientRun) error {
				all := f.Bool("all", false, "stop all daemons of the pool")
				return func(r *clientRun) error {
					switch {
					case *all == (len(r.words) == 1):
						return usage("stop needs a LIB_ID or --all")
					case *all:
						return r.send(r.ctx, http.MethodPost, "/stop", nil, nil)
					}
					return r.send(r.ctx, http.MethodPost, "/daemons/"+url.PathEscape(r.words[0])+"/stop", nil, nil)
				}
			}),
		},
		{
			name: "delete", words: "LIB_ID", min: 1, most: 1, about: "stop a library's daemon and delete its files",
			intro: `Example:
  c4a-daemon-scheduler delete demo

Deletes the clones, credentials and log of the library. There is no way back.
`,
			define: askScheduler(func(*flagSet) func(*clientRun) error {
				return func(r *clientRun) error {
					return r.send(r.ctx, http.MethodDelete, "/daemons/"+url.PathEscape(r.words[0]), nil, nil)
				}
			}),
		},
		{
			name: "bind", words: "LIB_ID MACHINE_ID", min: 2, most: 2, about: "serve a library from a user's machine",
			intro: `Examples:
  c4a-daemon-scheduler bind demo laptop
  c4a-daemon-scheduler bind demo ""

Calls to the library go to that machine from now on. An empty MACHINE_ID removes
the binding: the pool serves the library again.
`,
			define: askScheduler(func(*flagSet) func(*clientRun) error {
				return func(r *clientRun) error {
					path := "/libraries/" + url.PathEscape(r.words[0])
					if r.words[1] == "" {
						return r.send(r.ctx, http.MethodDelete, path, nil, nil)
					}
					return r.send(r.ctx, http.MethodPut, path, map[string]string{"machine_id": r.words[1]}, nil)
				}
			}),
		},
		{
			name: "token", words: "NAME RIGHTS [machines=GLOB,…] [libraries=GLOB,…]", min: 2, most: 4, about: "make a token with rights for --tokens-file",
			intro: `Examples:
  c4a-daemon-scheduler token ci read,call libraries=demo*
  c4a-daemon-scheduler token laptops daemon machines=lap-*

Prints a new token, and the line for --tokens-file with its hash. RIGHTS is a list
of ` + allRights.String() + `.
`,
			define: func(p *program, f *flagSet) func() error {
				return func() error {
					text, line, err := newTokenLine(f.words)
					if err != nil {
						return usage("%v", err)
					}
					_, err = fmt.Fprintf(p.stdout, "The token, which is shown only now:\n  %s\nIts line for --tokens-file:\n  %s\n", text, line)
					return err
				}
			},
		},
	}, commonCommands(schedulerName, func(p *program) *flagSet {
		f, _ := p.schedulerFlagSet()
		return f
	}, schedulerCommands)...)
}

func jsonFlag(f *flagSet) *bool { return f.Bool("json", false, "print JSON") }

// maxPages bounds how many pages of a list are read: a million entries.
const maxPages = 1000

// pages reads a list of the API to its end into the slice that all points to.
func (r *clientRun) pages(path, key string, all any) error {
	items := []json.RawMessage{} // not null
	cursor := ""
	for range maxPages {
		var page map[string]json.RawMessage
		if err := r.send(r.ctx, http.MethodGet, path+"?nodes=all&cursor="+url.QueryEscape(cursor), nil, &page); err != nil {
			return err
		}
		var some []json.RawMessage
		var next *string
		if err := errors.Join(decodeJSON(page[key], &some), decodeJSON(page["next_cursor"], &next)); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		items = append(items, some...)
		if next == nil || *next == cursor {
			var nodes []nodeView
			_ = decodeJSON(page["nodes"], &nodes) // absent, or fewer warnings
			for _, node := range nodes {
				if node.Error != "" {
					fmt.Fprintf(r.p.console, "%s is missing here: %s\n", shownText(node.URL), shownText(node.Error))
				}
			}
			break
		}
		cursor = *next
	}
	array, err := json.Marshal(items)
	if err == nil {
		err = decodeJSON(array, all)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func (r *clientRun) machines() (all []machineView, err error) {
	all = []machineView{}
	return all, r.pages("/machines", "machines", &all)
}

// printLog prints the end of a daemon's log, and with follow what is added.
func (r *clientRun) printLog(libID string, most int64, follow bool) error {
	path := "/daemons/" + url.PathEscape(libID) + "/log?bytes=" + strconv.FormatInt(most, 10)
	if follow {
		path += "&follow=1"
	}
	response, err := r.do(r.ctx, http.MethodGet, path, nil, "Accept", "text/plain")
	if err != nil {
		return interrupted(r.ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return r.refusal(response)
	}
	_, onTerminal := terminalWidth(r.p.stdout)
	lines := bufio.NewReader(response.Body)
	for {
		line, cut, err := readUntil(lines, '\n', maxLogLine)
		if len(line) > 0 || err == nil {
			text := string(line)
			if onTerminal { // in a file it stays as the daemon wrote it
				text = cleanText(text)
			}
			if cut {
				text += "…"
			}
			if err := r.say(text + "\n"); err != nil {
				return interrupted(r.ctx, err)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		default:
			return interrupted(r.ctx, fmt.Errorf("reading the log: %w", causeOr(r.ctx, err)))
		}
	}
}

// maxLogLine bounds one line of a log that is printed.
const maxLogLine = 1 << 20

// interrupted returns nil for the end of a command that goes on until it is
// interrupted, and err for any other.
func interrupted(ctx context.Context, err error) error {
	if stopped, ok := errors.AsType[*signalError](err); ok && ctx.Err() != nil && stopped.signal != nil {
		return nil
	}
	return err
}

// eventsPause is the pause before events are asked for again after the connection
// was lost.
const eventsPause = time.Second

// followEvents prints events until the command is interrupted. When the connection
// is lost it resumes after the last event.
func (r *clientRun) followEvents(asJSON bool) error {
	lastID := ""
	for first := true; ; first = false {
		err := r.readEventStream(&lastID, asJSON)
		switch {
		case r.ctx.Err() != nil:
			return interrupted(r.ctx, context.Cause(r.ctx))
		case first && lastID == "", errors.Is(err, errPrinted):
			return err
		}
		fmt.Fprintf(r.p.console, "the connection was lost and is made again: %v\n", err)
		timer := time.NewTimer(eventsPause)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
		}
	}
}

// readEventStream prints events until the stream ends, and keeps the id of the
// last one.
func (r *clientRun) readEventStream(lastID *string, asJSON bool) error {
	header := []string{"Accept", "text/event-stream"}
	if *lastID != "" {
		header = append(header, "Last-Event-ID", *lastID)
	}
	response, err := r.do(r.ctx, http.MethodGet, "/events?nodes=all", nil, header...)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return r.refusal(response)
	}
	name := ""
	lines := bufio.NewReader(response.Body)
	for {
		line, _, err := readUntil(lines, '\n', 2*maxEvent)
		if err != nil {
			return err
		}
		field, value, _ := bytes.Cut(line, []byte(": "))
		switch string(field) {
		case "id":
			*lastID = string(value)
		case "event":
			name = string(value)
		case "data":
			text := string(value)
			if !asJSON {
				text = eventText(name, value)
				if width := r.width(); width > 0 {
					text = cutColumns(text, width)
				}
			}
			if err := r.say(text + "\n"); err != nil {
				return errors.Join(errPrinted, err)
			}
		}
	}
}

// eventText returns an event as a line for people: its name and the values that are
// not empty.
func eventText(name string, data []byte) string {
	text := time.Now().Format(time.TimeOnly) + " " + cleanText(name)
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return text
	}
	for d.More() {
		key, err := d.Token()
		var value any
		if err != nil || d.Decode(&value) != nil {
			break
		}
		shown := shownText(fmt.Sprint(value))
		if number, ok := value.(float64); ok {
			shown = strconv.FormatFloat(number, 'f', -1, 64)
		}
		if shown == "" || value == nil || value == false {
			continue
		}
		if strings.ContainsAny(shown, " \t") {
			shown = strconv.Quote(shown)
		}
		text += " " + shownText(fmt.Sprint(key)) + "=" + shown
	}
	return text
}
