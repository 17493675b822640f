// bench measures what flatnet costs on this machine, in namespaces of its own, and compares attaching an endpoint with the
// fewest system calls that can make the same objects (floor.go). Read ratios, not absolute numbers: what is compared is
// interleaved in one run.
//
//	sudo make bench
//	sudo go run ./bench -only attach
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// measures are all that can be asked for with -only, in the order in which they run.
var measures = []struct {
	name string
	run  func(ctx context.Context, b *bench) error
}{
	{"attach", attachAgainstFloor},
	{"cni", cniAgainstBridge},
	{"forwards", manyForwards},
	{"pass", emptyPass},
	{"repair", repairs},
	{"idle", idleDaemon},
	{"cluster", largeClusters},
	{"join", newHosts},
	{"path", dataPath},
}

// bench is what the measures share.
type bench struct {
	daemon string // path of the program flatnetd
	quick  bool
}

func main() {
	daemon := flag.String("flatnetd", "bin/flatnetd", "the daemon to measure")
	only := flag.String("only", "", "one of attach, cni, forwards, pass, repair, idle, cluster, join, path")
	quick := flag.Bool("quick", false, "few repetitions: to see that it works")
	inside := flag.Bool("inside", false, "set by itself: runs in namespaces of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *inside {
		err = run(ctx, &bench{*daemon, *quick}, *only)
	} else {
		err = enter(ctx, *daemon)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// enter runs this program again in network, mount and process namespaces that end with it.
func enter(ctx context.Context, daemon string) error {
	if os.Geteuid() != 0 {
		return errors.New("makes network namespaces and needs root: sudo make bench")
	}
	path, err := filepath.Abs(daemon)
	if err != nil {
		return err
	}
	args := append([]string{"-inside", "-flatnetd", path}, withoutDaemon(os.Args[1:])...)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd.Run()
}

func withoutDaemon(args []string) []string {
	var rest []string
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if name == "flatnetd" {
			if !joined {
				i++
			}
			continue
		}
		rest = append(rest, args[i])
	}
	return rest
}

func run(ctx context.Context, b *bench, only string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	fmt.Printf("%s, %d CPUs\n", kernelRelease(), cpus())
	known := false
	for _, m := range measures {
		if only != "" && only != m.name {
			continue
		}
		known = true
		fmt.Printf("\n== %s\n", m.name)
		begin, err := readTicks()
		if err == nil {
			err = m.run(ctx, b)
		}
		if err == nil {
			err = printStolen(begin)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if !known {
		return fmt.Errorf("there is no measure %q", only)
	}
	return nil
}
