package fabric

import (
	"context"
	"errors"

	"github.com/flatnet/flatnet/internal/store"
)

// beating is a store that the fabric hears of whether another flatnetd says that it is this node: a machine that was cloned, as a rule. The
// later one of the two does not hear of it, and is the node for the others.
type beating struct {
	store.Cluster
	fabric *Fabric
}

// Heartbeat is store.Cluster's.
func (b beating) Heartbeat(ctx context.Context, node string) error {
	err := b.Cluster.Heartbeat(ctx, node)
	switch {
	case errors.Is(err, store.ErrTwin):
		b.fabric.setTwin(true)
	case err == nil:
		b.fabric.setTwin(false)
	}
	return err
}

func (f *Fabric) setTwin(is bool) {
	f.mu.Lock()
	was := f.twin
	f.twin = is
	f.mu.Unlock()
	if was == is {
		return
	}
	if is {
		f.deps.Tell("error", "node", "another flatnetd says that it is this host ("+f.deps.Self+"): two machines have one host ID, so this one does not say any more where it is")
	} else {
		f.deps.Tell("cluster", "node", "no other flatnetd says any more that it is this host")
	}
	kick(f.look)
	kick(f.member)
}

// overwritten looks for a twin at once when somebody else has described the node: two would write in turns for as long as a heartbeat lasts.
func (f *Fabric) overwritten(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return beating{f.deps.Cluster, f}.Heartbeat(ctx, f.deps.Self)
}
