// A module of its own: go build, vet and test of the programs leave it out.
module bench

go 1.26

require github.com/coder/websocket v1.8.15
