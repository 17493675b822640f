// Command pause is what runs in the containers of test/cni, where there is nothing but it and busybox:
//
//	pause             waits for SIGTERM, as the first process of a pod does
//	pause serve PORT  greets every HTTP client by the address that it came from
//	pause fetch URL   prints such a greeting
//
// The two latter are those of package probe.
package main

import (
	"os"
	"os/signal"

	"github.com/flatnet/flatnet/internal/lab/probe"
	"golang.org/x/sys/unix"
)

func main() {
	// Without a handler the kernel withholds the signal from the first process of a PID namespace.
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)
	if len(os.Args) == 1 {
		<-end
		return
	}
	go func() {
		<-end
		os.Exit(0)
	}()
	os.Exit(probe.Main(os.Args[1], os.Args[2:]))
}
