package agent

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// namespaces tells them apart by inode: one stat an attachment. An inode may come again after its namespace ended; by then
// the workload's link is gone and its end was noticed.
type namespaces struct{ kernel *kernel.Kernel }

func (namespaces) Identify(path string) (string, error) {
	if !netns.Exists(path) {
		return "", fmt.Errorf("netns %s: there is no network namespace", path)
	}
	inode, err := netns.Inode(path)
	return fmt.Sprint(inode), err
}

// Lend has the kernel's package use an open namespace for its path.
func (n namespaces) Lend(path string, ns *os.File) (identity string, back func(), err error) {
	inode, err := netns.InodeOf(ns)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprint(inode), n.kernel.Lend(path, ns), nil
}

func (namespaces) Own() (string, error) {
	inode, err := netns.Inode("/proc/self/ns/net")
	return fmt.Sprint(inode), err
}

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
