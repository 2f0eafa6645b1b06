package main

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// notifier reports the state of the program to systemd (sd_notify(3)). Without
// NOTIFY_SOCKET it does nothing.
type notifier struct {
	socket   string
	watchdog time.Duration // half of systemd's watchdog timeout, 0 without a watchdog
	log      *slog.Logger
}

func newNotifier(getenv func(string) string, log *slog.Logger) *notifier {
	n := &notifier{socket: getenv("NOTIFY_SOCKET"), log: log}
	if strings.HasPrefix(n.socket, "@") {
		n.socket = "\x00" + n.socket[1:] // an abstract socket
	}
	if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		n.watchdog = time.Duration(usec) * time.Microsecond / 2
	}
	return n
}

// notifyLimit bounds the wait for systemd, whose queue may be full.
const notifyLimit = time.Second

// tell sends one state, such as "READY=1" or "STATUS=…".
func (n *notifier) tell(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		n.log.Debug("notifying systemd failed", "error", err)
		return
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(notifyLimit)) // sockets have deadlines
	if _, err := conn.Write([]byte(state)); err != nil {
		n.log.Debug("notifying systemd failed", "error", err)
	}
}

// beat notifies systemd's watchdog until ctx ends.
func (n *notifier) beat(ctx context.Context) {
	if n.socket == "" || n.watchdog == 0 {
		return
	}
	ticker := time.NewTicker(n.watchdog)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			n.tell("WATCHDOG=1")
		case <-ctx.Done():
			return
		}
	}
}
