// Package attach is how flatnet-cni speaks to flatnetd: one request and one reply over a unix socket, with the descriptor of
// a network namespace beside the request.
//
// A container runtime starts flatnet-cni for every container and again for its end, so what this package needs is paid each
// time. It uses no more of the standard library than files and errors, and the system calls themselves: no package net,
// no encoding/json. That flatnet-cni stays so is held by a test of it.
//
// What a request means is not known here: the plugin hands over what it was given, and flatnetd answers with what the plugin
// shall print and the status it shall end with.
//
//	reply, err := attach.Call("/run/flatnet/attach.sock", attach.Request{Command: "ADD", Config: stdin}, netns, attach.Usual)
//	if errors.Is(err, attach.ErrAway) { … } // nobody answers there: try again later
package attach

// DefaultSocket is where flatnetd listens when nothing else is said.
const DefaultSocket = "/run/flatnet/attach.sock"

// SocketVariable is the environment variable that names another socket.
const SocketVariable = "FLATNET_ATTACH_SOCKET"

// Request is what a runtime gave to the plugin: the variables CNI_… and standard input, as they are.
type Request struct {
	Command   string // CNI_COMMAND
	Container string // CNI_CONTAINERID
	Netns     string // CNI_NETNS; the descriptor is what counts, as the path may mean nothing to flatnetd
	IfName    string // CNI_IFNAME
	Args      string // CNI_ARGS
	Config    []byte // standard input: the network configuration
}

// Reply is what the plugin shall do.
type Reply struct {
	Exit   int    // its exit status, 0 to 255
	Stdout []byte // what it shall print
}
