package main

import (
	"errors"
	"io"
	"slices"
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
	unsupportedField = 2
	badEnvironment   = 4
	ioFailure        = 5
	decodingFailure  = 6
	tryAgain         = 11
	notAvailable     = 50 // of STATUS
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

// unfit is what is wrong with a configuration whoever reads it; bad is false when that takes a daemon to say. Its words are internal/compat/cni's, whose
// test holds them together.
func unfit(config []byte) (p problem, bad bool) {
	keys, ok := members(config)
	switch {
	case len(config) == 0:
		return problem{decodingFailure, "FN4104: standard input is empty; it should be the network configuration", "more: flatnet help FN4104"}, true
	case !ok:
		return problem{decodingFailure, "FN4104: standard input is not one whole JSON object; it should be the network configuration", "more: flatnet help FN4104"}, true
	case slices.Contains(keys, "plugins"):
		return problem{unsupportedField, "FN4102: plugins: this is a list of plugins (a .conflist), and a plugin is given one item of it",
			"runtimes take the item out; by hand: cnitool, or the item with the list's cniVersion and name beside its keys; " +
				`example: {"cniVersion": "1.0.0", "name": "pods", "type": "flatnet"}; more: flatnet help FN4102`}, true
	}
	return problem{}, false
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
