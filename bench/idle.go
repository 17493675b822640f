package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// idleDaemon watches a flatnetd with many endpoints that has nothing to do.
func idleDaemon(ctx context.Context, b *bench) error {
	n, long := manyEndpoints, 10*time.Second
	if b.quick {
		n, long = 10, time.Second
	}
	h, err := newDaemonHost(ctx, b, "idle")
	if err != nil {
		return err
	}
	defer h.stop()
	if err := h.populate(ctx, n); err != nil {
		return err
	}
	if err := h.calmDown(); err != nil {
		return err
	}
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

// calmDown returns when the daemon did next to nothing for some seconds: the kernel goes on telling of new links, routes and
// addresses for a while.
func (d *daemon) calmDown() error {
	const (
		quiet    = 5 * time.Second
		little   = 5 * time.Millisecond
		patience = 2 * time.Minute
	)
	last := time.Duration(0)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(quiet) {
		now, err := cpuOf(d.pid)
		if err != nil || now-last < little {
			return err
		}
		last = now
	}
	return errors.New("the daemon does not come to rest")
}

// pause returns when the daemon has nothing to do for a moment: the notifications of a change keep it busy for a while.
func (d *daemon) pause() error {
	const (
		moment   = 50 * time.Millisecond
		patience = 10 * time.Second
	)
	last := time.Duration(0)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(moment) {
		now, err := cpuOf(d.pid)
		if err != nil || now-last < time.Millisecond {
			return err
		}
		last = now
	}
	return errors.New("the daemon does not come to rest")
}
