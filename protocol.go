package main

import (
	"fmt"
	"time"
	"unicode"
)

// protocolVersion is what both sides of a link must speak.
const protocolVersion = 1

// Methods that the two ends of a link speak beside the daemon's own.
const (
	handshakeMethod = "daemon/handshake"
	heartbeatMethod = "daemon/heartbeat"
	statusMethod    = "daemon/status"
	progressMethod  = "task/progress"
	cloneMethod     = "vcs/clone"
)

const (
	defaultHeartbeatInterval = 30 * time.Second
	// handshakeTimeout bounds dialling, and the wait for the handshake or its answer.
	handshakeTimeout = 10 * time.Second
	// machineIDHeader lets a proxy hash the machine before the handshake.
	machineIDHeader = "X-C4A-Machine-Id"
	// cloudPrefix begins the machine_id of a daemon that a pool runs for a library.
	cloudPrefix = "cloud_"
	// maxMachineID bounds a machine_id, which is kept and shown.
	maxMachineID = 200
)

// handshakeParams is the daemon's first request: who it is and what it can do.
type handshakeParams struct {
	MachineID           string   `json:"machine_id" doc:"name of the machine"`
	InstanceID          string   `json:"instance_id" doc:"random for each process"`
	ProtocolVersion     int      `json:"protocol_version" doc:"1"`
	Version             string   `json:"version" doc:"of the daemon"`
	Hostname            string   `json:"hostname"`
	OS                  string   `json:"os" doc:"such as linux"`
	Arch                string   `json:"arch" doc:"such as amd64"`
	PID                 int      `json:"pid"`
	AllowedPaths        []string `json:"allowed_paths" doc:"absolute"`
	WorkDir             *string  `json:"work_dir" doc:"null without one"`
	GitVersion          string   `json:"git_version" doc:"empty without git"`
	Methods             []string `json:"methods" doc:"sorted"`
	HeartbeatIntervalMS int64    `json:"heartbeat_interval_ms"`
}

// handshakeResult is the server's answer.
type handshakeResult struct {
	Accepted            bool   `json:"accepted"`
	LibID               string `json:"lib_id,omitempty" doc:"the library bound to the machine"`
	HeartbeatIntervalMS int64  `json:"heartbeat_interval_ms,omitempty" doc:"in place of the daemon's own"`
	Reason              string `json:"reason,omitempty" doc:"of a refusal"`
}

// heartbeat is the daemon's regular sign of life.
type heartbeat struct {
	MachineID      string `json:"machine_id"`
	InstanceID     string `json:"instance_id"`
	Seq            int64  `json:"seq" doc:"rises by one"`
	UptimeSeconds  int64  `json:"uptime_seconds"`
	ActiveRequests int    `json:"active_requests"`
}

// machineStatus is the params of daemon/status, told to the server's
// subscribers.
type machineStatus struct {
	MachineID string    `json:"machine_id"`
	LibID     string    `json:"lib_id"`
	Status    string    `json:"status" enum:"online,offline"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
}

// checkMachineID holds for both ends of a link.
func checkMachineID(id string) error {
	if id == "" || len(id) > maxMachineID {
		return fmt.Errorf("must have 1 to %d bytes", maxMachineID)
	}
	for _, r := range id {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return fmt.Errorf("holds a character that cannot be printed")
		}
	}
	return nil
}
