package main

import (
	"net/http"
	"net/url"
	"strings"
)

// redirect answers a call of a library whose machine is not connected here with the
// path of the machine. A proxy that routes by the path sends it to the scheduler that
// has the machine, where nothing is redirected. The caller has checked the rights.
func (h *hubAPI) redirect(w http.ResponseWriter, r *http.Request) bool {
	libID := r.PathValue("lib_id")
	if !h.cluster || libID == "" {
		return false
	}
	machineID, bound := h.libraries.get(libID)
	if !bound {
		return false
	}
	if conn, _ := h.hub.connOf(machineID); conn != nil {
		return false
	}
	to := "/machines/" + url.PathEscape(machineID) + strings.TrimPrefix(r.URL.Path, "/libraries/"+libID)
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true
}
