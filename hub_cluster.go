package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	// movedParameter is in the query of a path that a call was redirected to because
	// its machine may be with another scheduler by now: how often.
	movedParameter = "moved"
	// maxMoved bounds it. Most clients follow ten redirects.
	maxMoved = 5
)

// redirect answers a call of a library whose machine is not connected here with the
// path of the machine. A proxy that routes by the path sends it to the scheduler that
// has the machine. A call of a machine that may be on its way to another scheduler is
// redirected to its own path, for the proxy to route again. The caller has checked
// the rights.
func (h *hubAPI) redirect(w http.ResponseWriter, r *http.Request) bool {
	libID, machineID := r.PathValue("lib_id"), r.PathValue("machine_id")
	to, query := r.URL.EscapedPath(), r.URL.RawQuery
	switch {
	case !h.cluster:
		return false
	case machineID != "":
		moved, _ := strconv.Atoi(r.URL.Query().Get(movedParameter)) // 0 without it
		if moved >= maxMoved || !h.hub.moved(machineID) && !h.summon(r, machineID) {
			return false
		}
		before, _, _ := strings.Cut("&"+query, "&"+movedParameter+"=") // it is the last
		query = strings.TrimLeft(before+"&"+movedParameter+"="+strconv.Itoa(moved+1), "&")
	default:
		var bound bool
		if machineID, bound = h.libraries.get(libID); !bound {
			return false
		}
		if conn, _ := h.hub.connOf(machineID); conn != nil {
			return false
		}
		to = "/machines/" + url.PathEscape(machineID) + strings.TrimPrefix(r.URL.Path, "/libraries/"+libID)
	}
	if query != "" {
		to += "?" + query
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true
}
