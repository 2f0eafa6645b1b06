package main

import "context"

// daemonLimits are the bounds that a caller has to keep to (config/get).
type daemonLimits struct {
	MaxMessage    int   `json:"max_message" doc:"bytes of a message"`
	MaxConcurrent int   `json:"max_concurrent" doc:"requests that run at once"`
	MaxQueue      int   `json:"max_queue" doc:"requests that wait"`
	MaxClones     int   `json:"max_clones" doc:"clones at once"`
	MaxCloneFiles int   `json:"max_clone_files" doc:"files of a cloned tree"`
	MaxCloneBytes int64 `json:"max_clone_bytes" doc:"bytes of a cloned tree"`
}

// configResult is config/get's: nothing in it is secret.
type configResult struct {
	Version      string       `json:"version" doc:"of the daemon"`
	MachineID    string       `json:"machine_id"`
	AllowedPaths []string     `json:"allowed_paths" doc:"absolute, links resolved"`
	WorkDir      *string      `json:"work_dir" doc:"null without one"`
	Auth         []authEntry  `json:"auth" doc:"the hosts that a token is stored for"`
	Limits       daemonLimits `json:"limits"`
	GitVersion   string       `json:"git_version" doc:"empty where there is no git"`
}

// config/get tells how the daemon was set up.
func (d *daemon) configGet(context.Context, none) (configResult, error) {
	auth, err := d.credentials.list()
	return configResult{
		Version:      programVersion,
		MachineID:    d.cfg.machineID,
		AllowedPaths: d.access.allowed(),
		WorkDir:      d.workDir(),
		Auth:         auth,
		GitVersion:   d.git.version(),
		Limits: daemonLimits{
			MaxMessage: d.cfg.maxMessage, MaxConcurrent: d.cfg.maxConcurrent, MaxQueue: maxQueue,
			MaxClones: maxClones, MaxCloneFiles: d.cfg.maxCloneFiles, MaxCloneBytes: d.cfg.maxCloneBytes,
		},
	}, err
}
