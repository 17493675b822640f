package agent

import (
	"net/netip"
	"os"

	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// namespaces tells them apart by inode and cookie: an inode is given again as soon as its namespace has ended, and a runtime makes the next
// container's at once.
type namespaces struct{ kernel *kernel.Kernel }

func (namespaces) Identify(path string) (string, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return "", err
	}
	defer ns.Close()
	id, err := netns.IdentityOf(ns)
	return id.String(), err
}

// Lend has the kernel's package use an open namespace for its path.
func (n namespaces) Lend(path string, ns *os.File) (identity string, back func(), err error) {
	id, err := netns.IdentityOf(ns)
	if err != nil {
		return "", nil, err
	}
	return id.String(), n.kernel.Lend(path, ns), nil
}

func (n namespaces) Expect(path, identity string) {
	if identity == "" {
		n.kernel.Expect(path, nil)
		return
	}
	n.kernel.Expect(path, func(ns *os.File) bool {
		id, err := netns.IdentityOf(ns)
		return err == nil && sameNamespace(id.String(), identity)
	})
}

func (n namespaces) Own() (string, error) { return n.Identify("/proc/self/ns/net") }

func hintOf(ev kernel.Event) reconcile.Hint {
	return reconcile.Hint{Object: ev.Object, Gone: ev.Gone, Resync: ev.Resync, Applied: ev.Applied}
}

// ownerAddr is what to ask for a listener's process: an unspecified address means any.
func ownerAddr(l Listener) netip.Addr {
	if l.Addr.IsUnspecified() {
		return netip.Addr{}
	}
	return l.Addr
}

func onePort(p uint16) model.Ports { return model.Ports{First: p, Last: p} }
