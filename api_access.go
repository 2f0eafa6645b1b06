package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// apiAccess decides what a request may do. The single API token may do everything;
// a token of the tokens file has its rights, and patterns of machines and libraries.
type apiAccess struct {
	single secret      // "" without one
	file   *tokensFile // nil without one
}

// open reports whether no token is needed.
func (a *apiAccess) open() bool { return a.single == "" && a.file == nil }

// identify returns the token of a request, and nil if it has none that is valid.
func (a *apiAccess) identify(r *http.Request) *apiToken {
	given := bearerOf(r)
	switch {
	case a.open():
		return unrestricted("")
	case a.single != "" && equalSecrets(given, a.single):
		return unrestricted("")
	case a.file != nil:
		return a.file.find(given)
	}
	return nil
}

// withToken adds the name of a token to the attributes of a log line. The single API
// token and a request without one have none.
func withToken(args []any, name string) []any {
	if name == "" {
		return args
	}
	return append(args, "token", name)
}

// equalSecrets compares a token with a valid one in constant time.
func equalSecrets(given string, valid secret) bool {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(valid))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// bearerOf returns the token that r carries, "" for none (RFC 6750, section 2.1).
func bearerOf(r *http.Request) string {
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(given)
}

// routeRight returns the right that a route needs, by its pattern. A JSON-RPC
// route needs none of its own: the method decides (methodRight).
func routeRight(pattern string) rights {
	method, path, _ := strings.Cut(pattern, " ")
	switch {
	case method == http.MethodGet:
		return rightRead
	case strings.HasSuffix(path, "/rpc"), strings.HasSuffix(path, "/release"):
		return 0
	case strings.Contains(path, "/mcp"):
		return rightMCP
	}
	return rightManage
}

// methodRight returns the right that a JSON-RPC method needs: those that write
// need another than those that read. A method added with --handler is a call.
func methodRight(method string) rights {
	if method == "vcs/clone" || method == "config/setAuth" {
		return rightClone
	}
	return rightCall
}

// callerKey is the key of the token in a request's context.
type callerKey struct{}

// callerOf returns the token that a request came with.
func callerOf(r *http.Request) *apiToken {
	if t, ok := r.Context().Value(callerKey{}).(*apiToken); ok {
		return t
	}
	return unrestricted("") // of the single token, or a route that needs none
}

func withCaller(r *http.Request, t *apiToken) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, t))
}

// lacksRight is the error for a token without a right, or for another machine or
// library.
func lacksRight(t *apiToken, what string) error {
	return &apiError{code: codeForbidden, status: http.StatusForbidden, message: "the token " + t.name + " " + what}
}

// requireRight returns an error unless the caller has the right.
func requireRight(r *http.Request, need rights) error {
	if t := callerOf(r); !t.allows(need) {
		return lacksRight(t, "lacks the right "+need.String())
	}
	return nil
}

// requireLibrary returns an error unless the caller's token is for the library.
func requireLibrary(r *http.Request, libID string) error {
	if t := callerOf(r); !t.mayUseLibrary(libID) {
		return lacksRight(t, "is not for this library")
	}
	return nil
}

// requireMachine returns an error unless the caller's token is for the machine.
func requireMachine(r *http.Request, machineID string) error {
	if t := callerOf(r); !t.mayUseMachine(machineID) {
		return lacksRight(t, "is not for this machine")
	}
	return nil
}

// requireAll returns an error if the caller's token is for some machines and
// libraries only, and the request would change all.
func requireAll(r *http.Request) error {
	if t := callerOf(r); t.restricted() {
		return lacksRight(t, "is for some machines and libraries only, and this concerns all")
	}
	return nil
}

// scoped is a handler for callers whose token is for the machine or library in the
// path. A route without one that changes something concerns all, except
// POST /daemons, whose library is in the body. In a cluster, a call of a library is
// redirected to its machine, so that a token for the library is enough there.
func (a *api) scoped(pattern string, h http.HandlerFunc) http.HandlerFunc {
	concernsAll := !strings.HasPrefix(pattern, "GET ") && pattern != "POST /daemons"
	return func(w http.ResponseWriter, r *http.Request) {
		var err error
		libID, machineID := r.PathValue("lib_id"), r.PathValue("machine_id")
		switch {
		case libID != "":
			err = requireLibrary(r, libID)
		case machineID != "":
			err = requireMachine(r, machineID)
			if err != nil && a.viaLibrary != nil && strings.HasPrefix(pattern, "POST ") && a.viaLibrary(machineID, callerOf(r).mayUseLibrary) {
				err = nil
			}
		case concernsAll:
			err = requireAll(r)
		}
		if err != nil {
			writeError(w, err)
			return
		}
		h(w, r)
	}
}

// mayUse reports whether the token is for the machine or the library of an event.
func (t *apiToken) mayUse(e event) bool {
	if !t.restricted() {
		return true
	}
	var about struct {
		MachineID string `json:"machine_id"`
		LibID     string `json:"lib_id"`
	}
	if decodeJSON(e.data, &about) != nil {
		return false
	}
	return t.mayUseEither(about.MachineID, about.LibID)
}

// mayUseEither reports whether the token is for the machine or the library; one
// that is not known is "".
func (t *apiToken) mayUseEither(machineID, libID string) bool {
	return !t.restricted() || machineID != "" && matchesAny(t.machines, machineID) || libID != "" && matchesAny(t.libraries, libID)
}
