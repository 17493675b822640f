package main

import (
	"errors"
	"io"
	"strconv"

	"github.com/flatnet/flatnet/api/attach"
)

// The versions of CNI that are spoken. internal/compat/cni has the same, which its test holds together.
const (
	oldest    = "0.3.0"
	newest    = "1.1.0"
	supported = `["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`
)

// The error codes of CNI that the plugin gives by itself.
const (
	badEnvironment = 4
	ioFailure      = 5
	tryAgain       = 11
	notAvailable   = 50 // of STATUS
)

// problem is CNI's error.
type problem struct {
	code         int
	msg, details string
}

// versions is the answer to VERSION: that which was asked in, and all there are.
func versions(config []byte) string {
	return `{"cniVersion":` + quote(versionOf(config)) + `,"supportedVersions":` + supported + "}\n"
}

// versionOf is the version in which to answer.
func versionOf(config []byte) string {
	if v := topLevel(config, "cniVersion"); v != "" {
		return v
	}
	return newest
}

func fail(stdout io.Writer, config []byte, p problem) int {
	text := `{"cniVersion":` + quote(versionOf(config)) + `,"code":` + strconv.Itoa(p.code) + `,"msg":` + quote(p.msg)
	if p.details != "" {
		text += `,"details":` + quote(p.details)
	}
	io.WriteString(stdout, text+"}\n")
	return 1
}

// unanswered is what to say when the daemon did not answer.
func unanswered(command, socket string, err error) problem {
	p := problem{code: ioFailure, msg: "FN3001: flatnetd cannot be asked at " + socket, details: err.Error() + "; more: flatnet help FN3001"}
	if errors.Is(err, attach.ErrAway) {
		p = problem{code: tryAgain, msg: "FN3001: flatnetd does not answer at " + socket,
			details: err.Error() + "; start it (systemctl start flatnetd), or name the socket that it listens on with the key \"socket\"; more: flatnet help FN3001"}
		if command == "STATUS" {
			p.code = notAvailable
		}
	}
	return p
}
