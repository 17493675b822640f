package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// logs shows the output of a detached workload, or without a name what the daemon does.
type logs struct {
	events
	tail int
}

func newLogs(a *app) *cobra.Command {
	c := &logs{events: events{app: a}}
	cmd := command(a, "logs [NAME] [flags]", "the output of a detached workload; without a name the daemon's events", "flatnet logs -f web", cobra.MaximumNArgs(1), c.run)
	c.events.flags(cmd)
	cmd.Flags().BoolVarP(&c.follow, "follow", "f", false, "go on until the workload ends")
	cmd.Flags().IntVarP(&c.tail, "tail", "n", -1, "only the last lines")
	cmd.ValidArgsFunction = a.complete(workloadNames)
	return cmd
}

func (c *logs) run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return c.events.run(ctx, nil, stdout)
	}
	w, err := c.app.client().Workload(ctx, args[0])
	if err != nil {
		return err
	}
	if w.Files.Log == "" {
		return fmt.Errorf("workload %q has no log: only detached workloads have", w.Name)
	}
	f, err := os.Open(w.Files.Log)
	if os.IsNotExist(err) && w.Process.PID == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("workload %q: %w", w.Name, err)
	}
	defer f.Close()
	if err := seekTail(f, c.tail); err != nil {
		return err
	}
	if _, err := io.Copy(stdout, f); err != nil || !c.follow {
		return err
	}
	return c.followFile(ctx, w.Name, f, stdout)
}

// logPoll is how often a followed log and its workload are looked at.
const logPoll = 200 * time.Millisecond

// followFile copies what is added, until the workload has ended and all is copied.
func (c *logs) followFile(ctx context.Context, name string, f io.Reader, stdout io.Writer) error {
	for {
		w, err := c.app.client().Workload(ctx, name)
		over := err == nil && w.State != "running" || api.IsNotFound(err)
		if _, err := io.Copy(stdout, f); err != nil || over {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(logPoll):
		}
	}
}

// seekTail puts f before its last n lines; a negative n leaves it at the beginning.
func seekTail(f *os.File, n int) error {
	if n < 0 {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	block := make([]byte, 32<<10)
	for at := end; at > 0; {
		size := min(int64(len(block)), at)
		at -= size
		if _, err := f.ReadAt(block[:size], at); err != nil {
			return err
		}
		for b := block[:size]; ; {
			i := bytes.LastIndexByte(b, '\n')
			if i < 0 {
				break
			}
			if line := at + int64(i) + 1; line < end {
				if n--; n == 0 {
					_, err := f.Seek(line, io.SeekStart)
					return err
				}
			}
			b = b[:i]
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
