package agent

import (
	"context"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Elsewhere is a cluster that stands in another system's records, flannel's, which this host is a node of for as long as it is told so.
type Elsewhere struct {
	// Open is the way to the records, and the member ID that this host has by its links and routes. After an error it is asked again.
	Open     func(model.Node) (c store.Cluster, self string, err error)
	Describe Description
	Adopted  func(model.View) // hears of what the kernel was brought to; may be nil
}

// elsewherePause is between two attempts to open the records: the host may have no address yet.
const elsewherePause = 2 * time.Second

// enterElsewhere makes this host a node, and reports whether that was possible. The caller is the only one.
func (a *Agent) enterElsewhere(ctx context.Context) error {
	node, err := a.deps.Host.Node(ctx)
	if err != nil {
		return err
	}
	e := a.config.Elsewhere
	c, self, err := e.Open(node)
	if err != nil {
		return err
	}
	a.enter(c, self, e.Describe)
	return nil
}

// residesElsewhere tries until this host is a node.
func (a *Agent) residesElsewhere(ctx context.Context) error {
	told := ""
	for a.isNowhere() {
		err := a.enterElsewhere(ctx)
		if err != nil && err.Error() != told && ctx.Err() == nil {
			told = err.Error()
			a.event("error", "node", "not yet a node of the cluster elsewhere: "+told)
		}
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(elsewherePause):
		}
	}
	a.adoptedElsewhere()
	return nil
}

func (a *Agent) isNowhere() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.fabric == nil
}

// adoptedElsewhere tells whose records they are what this host has of them.
func (a *Agent) adoptedElsewhere() {
	if e := a.config.Elsewhere; e != nil && e.Adopted != nil {
		a.mu.RLock()
		v := a.state.snapshot()
		a.mu.RUnlock()
		e.Adopted(v)
	}
}
