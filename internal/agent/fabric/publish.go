package fabric

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flatnet/flatnet/internal/store"
)

// Changed says that the node may be reached elsewhere now.
func (f *Fabric) Changed() {
	if c, ok := f.deps.Cluster.(mover); ok {
		c.Moved()
	}
	kick(f.member)
}

// Described says that the node describes itself otherwise now.
func (f *Fabric) Described() { kick(f.member) }

// mover is a store whose connections hang on addresses of the host.
type mover interface{ Moved() }

// publishes keeps what the others know of the node true.
func (f *Fabric) publishes(ctx context.Context) error {
	var told string
	pause := publishPause
	for {
		err := f.publish(ctx)
		again := time.Hour
		if err != nil {
			again, pause = pause, min(2*pause, publishMost)
		} else {
			pause = publishPause
		}
		if text := fmt.Sprint(err); text != told && err != nil && !errors.Is(err, store.ErrAway) && ctx.Err() == nil {
			told = text
			f.deps.Tell("error", "node", "the other nodes cannot be told where this one is: "+text)
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-f.member:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (f *Fabric) publish(ctx context.Context) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	f.mu.Lock()
	snap, leaving, twin, wrote := f.sound.snap, f.leaving, f.twin, f.wrote
	f.mu.Unlock()
	if !snap.Live || leaving || twin {
		return nil // a snapshot will come, or the twin goes
	}
	m, err := f.deps.Member()
	if err != nil {
		return err
	}
	was, there := snap.Members[f.deps.Self]
	if was == m {
		return nil
	}
	if wrote == m && there {
		if err := f.overwritten(ctx); err != nil {
			return nil // the heartbeat says when that is over
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err = f.deps.Cluster.Write(ctx, store.PutMember(m, snap.Version(store.Member, f.deps.Self)))
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil // a newer snapshot is on its way
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.wrote = m
	f.mu.Unlock()
	if !there {
		return nil
	}
	if !slices.Equal(was.Underlays(), m.Underlays()) {
		f.deps.Tell("moved", "node", fmt.Sprintf("the other nodes reach this one at %v now, before at %v", m.Underlays(), was.Underlays()))
	}
	if was.MTU != m.MTU {
		f.deps.Tell("changed", "node", fmt.Sprintf("the link to the other nodes has an MTU of %d now, before %d", m.MTU, was.MTU))
	}
	return nil
}

const (
	publishPause = 100 * time.Millisecond // after a failure, and then twice as long each time
	publishMost  = 2 * time.Second
)

// callTime bounds one call to the store.
const callTime = 5 * time.Second
