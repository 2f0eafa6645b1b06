package main

import (
	"flag"
	"log/slog"
	"slices"
	"strings"
)

const variablePrefix = "C4A_"

// variable returns the name of the environment variable for a flag.
func variable(name string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// hasVariable reports whether a flag can be set by an environment variable. The
// others choose what one run does.
func hasVariable(name string) bool {
	return !slices.Contains([]string{
		"check", "healthcheck", "help", "version",
		"all", "bytes", "f", "json", "raw", "timeout", "watch",
	}, name)
}

// setting returns the value of an environment variable, or "" if Kubernetes has
// set it.
func (p *program) setting(name string) string {
	if value := p.getenv(name); !isServiceVariable(name, value) {
		return value
	}
	return ""
}

// isServiceVariable reports whether Kubernetes sets such a variable for a Service
// whose name begins with c4a, as Docker does for a link: C4A_PORT=tcp://…,
// C4A_SERVICE_HOST.
//
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
func isServiceVariable(name, value string) bool {
	name = strings.TrimPrefix(name, strings.TrimSuffix(variablePrefix, "_"))
	if strings.Contains(name, "_SERVICE_") || isPortVariable(name) {
		return true
	}
	protocol, _, isURL := strings.Cut(value, "://")
	return strings.HasSuffix(name, "_PORT") && isURL && slices.Contains([]string{"tcp", "udp", "sctp"}, protocol)
}

// isPortVariable reports whether name ends with a port of a Service, such as
// _PORT_5110_TCP or _PORT_5110_TCP_ADDR.
func isPortVariable(name string) bool {
	words := strings.Split(name, "_")
	if n := len(words); n > 0 && slices.Contains([]string{"PROTO", "PORT", "ADDR"}, words[n-1]) {
		words = words[:n-1]
	}
	n := len(words)
	return n > 3 && words[n-3] == "PORT" && words[n-2] != "" && strings.Trim(words[n-2], "0123456789") == "" && slices.Contains([]string{"TCP", "UDP", "SCTP"}, words[n-1])
}

// knownVariables returns the variables that one of the programs or the installer
// reads.
func (p *program) knownVariables() []string {
	names := []string{
		controlVariable, deniedVariable, clonesVariable, "C4A_TOKEN", "C4A_API_TOKEN", "C4A_DAEMON_TOKEN", "C4A_URL",
		"C4A_BASE_URL", "C4A_VERSION", "C4A_BIN_DIR", // install.sh
	}
	daemon, scheduler := p.newFlagSet("", ""), p.newFlagSet("", "")
	p.daemonFlags(daemon)
	p.schedulerFlags(scheduler)
	add := func(fl *flag.Flag) {
		if hasVariable(fl.Name) {
			names = append(names, variable(fl.Name))
		}
	}
	daemon.VisitAll(add)
	scheduler.VisitAll(add)
	return names
}

// logVariables warns of variables of our prefix that nothing reads: a misspelt one
// would be ignored silently.
func (p *program) logVariables(log *slog.Logger) {
	known := p.knownVariables()
	var services []string
	for _, pair := range p.environ() {
		given, value, _ := strings.Cut(pair, "=")
		name := strings.ToUpper(given) // Windows does not distinguish them; elsewhere it is a mistake
		switch {
		case !strings.HasPrefix(name, variablePrefix) || value == "":
		case isServiceVariable(name, value):
			services = append(services, given)
		case slices.Contains(known, name) && p.getenv(name) == value:
		case !hasVariable(strings.ToLower(strings.TrimPrefix(name, variablePrefix))):
			log.Warn("a variable was ignored: this can be set by the flag only", "variable", cleanText(given))
		default:
			log.Warn("an unknown variable was ignored", "variable", cleanText(given), "nearest", nearest(name, known))
		}
	}
	if len(services) > 0 {
		slices.Sort(services)
		log.Info("variables of Kubernetes Services were ignored", "variables", strings.Join(services, ","))
	}
}
