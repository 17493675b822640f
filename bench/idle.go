package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// idleDaemon watches a flatnetd with many endpoints that has nothing to do.
func idleDaemon(ctx context.Context, b *bench) error {
	n, calm, long := manyEndpoints, 15*time.Second, 10*time.Second
	if b.quick {
		n, calm, long = 10, time.Second, time.Second
	}
	h, err := newDaemonHost(ctx, b, "idle")
	if err != nil {
		return err
	}
	defer h.stop()
	if err := h.populate(ctx, n); err != nil {
		return err
	}
	time.Sleep(calm) // the kernel goes on telling of new links, routes and addresses for some seconds
	pidBefore, err := lastPID()
	if err != nil {
		return err
	}
	before, err := cpuOf(h.pid)
	if err != nil {
		return err
	}
	time.Sleep(long)
	after, err := cpuOf(h.pid)
	if err != nil {
		return err
	}
	pidAfter, err := lastPID()
	if err != nil {
		return err
	}
	resident, err := residentKiB(h.pid)
	if err != nil {
		return err
	}
	forks := "no process was started"
	if pidBefore != pidAfter {
		forks = fmt.Sprintf("processes or threads were started (%s to %s)", pidBefore, pidAfter)
	}
	fmt.Printf("%d endpoints, %s idle: %.3f %% of a CPU; %s; resident %s\n",
		n, long, 100*float64(after-before)/float64(long), forks, resident)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return nil
}
