// Command flatnet-cni is the plugin by which container runtimes attach containers to flatnet's networks: CNI 0.3.0 to 1.1.0,
// the configuration `{"type": "flatnet"}` and what docs/reference/cni.md has beside.
//
// It decides nothing. It hands what the runtime gave it to flatnetd, with the container's network namespace as a descriptor,
// prints the answer and ends. Only what must be said without a daemon it says itself: which versions it speaks, that the
// daemon is away, and that what it was given is no configuration at all.
//
//	CNI_COMMAND=VERSION flatnet-cni </dev/null
//
// A runtime waits for it twice in every container's life, so it starts with as little as it can: the usual case is done before Go's
// runtime starts (early), and the packages fmt, encoding/json and net, which would cost each other start a tenth more, are kept out by a test.
package main

import (
	"errors"
	"io"
	"os"

	"github.com/flatnet/flatnet/api/attach"
)

var version = "unknown" // set by the linker

func main() {
	os.Exit(run(os.Getenv, begun.rest(os.Stdin), os.Stdout, os.Stderr, begun.call))
}

// run answers one call of the runtime, and returns the exit status.
func run(getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer, ask call) int {
	r := requestOf(getenv)
	if r.Command == "" {
		io.WriteString(stderr, "flatnet-cni "+version+": a CNI plugin, for a container runtime to start; it speaks CNI "+oldest+" to "+newest+".\n"+
			"Make a configuration for it with: flatnet cni install\n")
		return 0
	}
	var err error
	r.Config, err = io.ReadAll(io.LimitReader(stdin, attach.MaxFrame+1))
	if err != nil {
		return fail(stdout, r.Config, problem{code: ioFailure, msg: "read the network configuration: " + err.Error()})
	}
	if r.Command == "VERSION" {
		io.WriteString(stdout, versions(r.Config))
		return 0
	}
	socket := socketOf(r.Config, getenv)
	if r.Command == "DEL" && nothingMade(socket) {
		return 0
	}
	if p, bad := unfit(r.Config); bad {
		return fail(stdout, r.Config, p)
	}
	netns, errno := openNetns(r)
	if errno != 0 {
		return fail(stdout, r.Config, problem{code: badEnvironment, msg: "FN4103: CNI_NETNS=" + r.Netns + " cannot be opened",
			details: errno.Error() + "; more: flatnet help FN4103"})
	}
	reply, err := ask(socket, r, netns)
	if err != nil {
		return fail(stdout, r.Config, unanswered(r.Command, socket, err))
	}
	if _, err := stdout.Write(reply.Stdout); err != nil {
		return 1
	}
	return reply.Exit
}

// requestOf is the request, but for the configuration.
func requestOf(getenv func(string) string) attach.Request {
	return attach.Request{Command: getenv("CNI_COMMAND"), Container: getenv("CNI_CONTAINERID"), Netns: getenv("CNI_NETNS"), IfName: getenv("CNI_IFNAME"), Args: getenv("CNI_ARGS")}
}

// nothingMade reports whether there is nothing that a DEL could take away: beside the socket stands the daemon's journal, which a reboot and an
// uninstall take along with their directory. So containers that were there before can end.
func nothingMade(socket string) bool {
	_, err := os.Stat(directory(socket))
	return errors.Is(err, os.ErrNotExist)
}

// directory is the directory of a file.
func directory(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "/"
}

// socketOf is where the daemon listens: as the configuration says, or the environment, or as usual.
func socketOf(config []byte, getenv func(string) string) string {
	if s := topLevel(config, "socket"); s != "" {
		return s
	}
	if s := getenv(attach.SocketVariable); s != "" {
		return s
	}
	return attach.DefaultSocket
}
