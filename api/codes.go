package api

// The codes that the client itself gives; the daemon's are described by the same help pages.
const (
	CodeMalformed    = "FN1001"
	CodeUnknownField = "FN1002"
	CodeUnknownKind  = "FN1003"
	CodeNotFound     = "FN1004"
	CodeTooLarge     = "FN1005"
	CodeNotRunning   = "FN2119"
	CodeUnreachable  = "FN3001"
	CodeAPIVersion   = "FN3002"
	CodeNotPermitted = "FN4001"
)
