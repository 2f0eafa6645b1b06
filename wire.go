package main

import "time"

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
)

// handshakeParams is the daemon's first request: who it is and what it can do.
type handshakeParams struct {
	MachineID           string   `json:"machine_id"`
	InstanceID          string   `json:"instance_id"` // random for each process
	ProtocolVersion     int      `json:"protocol_version"`
	Version             string   `json:"version"`
	Hostname            string   `json:"hostname"`
	OS                  string   `json:"os"`
	Arch                string   `json:"arch"`
	PID                 int      `json:"pid"`
	AllowedPaths        []string `json:"allowed_paths"`
	WorkDir             *string  `json:"work_dir"`
	GitVersion          string   `json:"git_version"`
	Methods             []string `json:"methods"`
	HeartbeatIntervalMS int64    `json:"heartbeat_interval_ms"`
}

// handshakeResult is the server's answer.
type handshakeResult struct {
	Accepted            bool   `json:"accepted"`
	LibID               string `json:"lib_id,omitempty"`
	HeartbeatIntervalMS int64  `json:"heartbeat_interval_ms,omitempty"`
	Reason              string `json:"reason,omitempty"` // of a refusal
}

// heartbeat is the daemon's regular sign of life.
type heartbeat struct {
	MachineID      string `json:"machine_id"`
	InstanceID     string `json:"instance_id"`
	Seq            int64  `json:"seq"`
	UptimeSeconds  int64  `json:"uptime_seconds"`
	ActiveRequests int    `json:"active_requests"`
}

// machineStatus is the params of daemon/status, told to the server's
// subscribers.
type machineStatus struct {
	MachineID string    `json:"machine_id"`
	LibID     string    `json:"lib_id"`
	Status    string    `json:"status"` // "online" or "offline"
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
}
