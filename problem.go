package main

// Codes of the HTTP API beside those that it shares with the wire.
const (
	codeBadRequest       errorCode = "BAD_REQUEST"
	codeInvalidLibID     errorCode = "INVALID_LIB_ID"
	codeUnauthorized     errorCode = "UNAUTHORIZED"
	codeForbidden        errorCode = "FORBIDDEN"
	codeNotFound         errorCode = "NOT_FOUND"
	codeMethodNotAllowed errorCode = "METHOD_NOT_ALLOWED"
	codeDeleted          errorCode = "DELETED"
	codeBodyTooLarge     errorCode = "BODY_TOO_LARGE"
	codeSpawnTimeout     errorCode = "SPAWN_TIMEOUT"
	codeRemoveFailed     errorCode = "REMOVE_FAILED" // 500: the disk does not let go of a directory
)
