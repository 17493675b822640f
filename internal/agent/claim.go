package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/flatnet/flatnet/internal/agent/socket"
	"github.com/flatnet/flatnet/internal/journal"
	"github.com/flatnet/flatnet/internal/store/local"
)

const (
	claimWait  = 5 * time.Second // a killed flatnetd has its locks until the kernel has taken it apart
	claimPause = 20 * time.Millisecond
)

// claims are taken one after the other, within claimWait for all.
type claims struct {
	deadline time.Time
	log      *slog.Logger
	waited   bool
}

// claim takes what only one flatnetd can have, and waits a moment for one that is ending.
func claim[T any](ctx context.Context, c *claims, take func() (T, error)) (T, error) {
	for {
		v, err := take()
		if !taken(err) || time.Now().After(c.deadline) || ctx.Err() != nil {
			return v, err
		}
		if !c.waited {
			c.waited = true
			c.log.Warn("another flatnetd is in the way; waiting for its end", "most", claimWait, "err", err)
		}
		pause(ctx, claimPause)
	}
}

func taken(err error) bool {
	var locked *local.LockedError
	return errors.Is(err, journal.ErrLocked) || errors.Is(err, socket.ErrTaken) || errors.As(err, &locked)
}
