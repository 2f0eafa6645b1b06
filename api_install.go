package main

import (
	_ "embed"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
)

// releasesURL is where the releases of all systems are.
const releasesURL = "https://github.com/context4ai/c4a-daemon/releases"

// installScript is the installer. It runs with the address in place of
// installScriptBase.
//
//go:embed install.sh
var installScript string

// installScriptBase is the line of install.sh that a scheduler fills in.
const installScriptBase = "default_base_url=''"

// installAPI serves the installer and this very build, laid out as a release, so
// that a machine gets the daemon that matches its scheduler. The routes are open:
// the program is public, and a machine that has no daemon has no token either.
type installAPI struct {
	program *executable
}

func (i *installAPI) register(a *api) {
	a.handleOpen("GET /install.sh", i.script)
	a.handleOpen("GET /bin/latest", i.latest)
	a.handleOpen("GET /bin/{version}/{file}", i.file)
}

// script serves GET /install.sh: the installer with this server's /bin as its
// source.
func (i *installAPI) script(w http.ResponseWriter, r *http.Request) {
	// The address is written into a shell script.
	if strings.Trim(r.Host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:[]-") != "" || r.Host == "" {
		writeProblem(w, http.StatusBadRequest, codeBadRequest, "the Host header is not a name or an address with a port")
		return
	}
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	base := fmt.Sprintf("default_base_url='%s://%s/bin'", scheme, r.Host)
	i.text(w, "text/x-shellscript; charset=utf-8", strings.Replace(installScript, installScriptBase, base, 1))
}

// latest serves GET /bin/latest: this program's version.
func (i *installAPI) latest(w http.ResponseWriter, _ *http.Request) {
	i.text(w, "text/plain; charset=utf-8", programVersion())
}

// file serves GET /bin/{version}/{file}: SHA256SUMS, or this program under the
// name of either of both, which it is.
func (i *installAPI) file(w http.ResponseWriter, r *http.Request) {
	if version := r.PathValue("version"); version != programVersion() {
		writeProblem(w, http.StatusNotFound, codeNotFound, "this scheduler has version "+programVersion()+" only: other versions are at "+releasesURL)
		return
	}
	system := "_" + runtime.GOOS + "_" + runtime.GOARCH
	switch name := r.PathValue("file"); name {
	case "SHA256SUMS":
		sum, err := i.program.sum()
		if err != nil {
			writeError(w, err)
			return
		}
		i.text(w, "text/plain; charset=utf-8", fmt.Sprintf("%s  %s%s\n%s  %s%s\n", sum, daemonName, system, sum, schedulerName, system))
	case daemonName + system, schedulerName + system:
		w.Header().Set("Content-Length", strconv.FormatInt(i.program.info.Size(), 10))
		i.head(w, "application/octet-stream")
		source, piece := i.program.reader(), make([]byte, sendPiece)
		for {
			n, err := source.Read(piece)
			if n > 0 && send(w, piece[:n]) != nil {
				return // the client is gone
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				panic(http.ErrAbortHandler) // cuts the answer, so that the client notices
			}
		}
	default:
		writeProblem(w, http.StatusNotFound, codeNotFound, "this scheduler has only its own build, for "+runtime.GOOS+" on "+runtime.GOARCH+": other builds are at "+releasesURL)
	}
}

func (i *installAPI) text(w http.ResponseWriter, contentType, text string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	i.head(w, contentType)
	_ = send(w, []byte(text)) // a client that is gone needs no answer
}

func (*installAPI) head(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}
