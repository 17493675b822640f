package nft

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// hooks are the hooks by their number, which inet and bridge share (linux/netfilter.h, NF_INET_…; NF_BR_…).
var hooks = [...]dataplane.Hook{
	dataplane.Prerouting, dataplane.Input, dataplane.Forward, dataplane.Output, dataplane.Postrouting,
}

// policyDrop is added to the type of a chain whose policy somebody changed, so that it differs from every chain that is wanted.
const policyDrop = " policy drop"

func writeChain(w *nfnl.Writer, c dataplane.Chain) error {
	w.String(unix.NFTA_CHAIN_TABLE, dataplane.TableName)
	w.String(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Hook == "" {
		return nil
	}
	hook, ok := hookNumber(c.Hook)
	if !ok {
		return fmt.Errorf("unknown hook %q", c.Hook)
	}
	w.Nest(unix.NFTA_CHAIN_HOOK, func() {
		w.Uint32(unix.NFTA_HOOK_HOOKNUM, hook)
		w.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority)))
	})
	w.Uint32(unix.NFTA_CHAIN_POLICY, nfAccept)
	w.String(unix.NFTA_CHAIN_TYPE, c.Type)
	return nil
}

func hookNumber(h dataplane.Hook) (uint32, bool) {
	for n, one := range hooks {
		if one == h {
			return uint32(n), true
		}
	}
	return 0, false
}

func readChain(family dataplane.Family, attrs []byte) dataplane.Chain {
	c := dataplane.Chain{Family: family}
	for a := range nfnl.Attrs(attrs) {
		switch a.Type {
		case unix.NFTA_CHAIN_NAME:
			c.Name = a.String()
		case unix.NFTA_CHAIN_HOOK:
			c.Hook = hookName(nfnl.Get(a.Value, unix.NFTA_HOOK_HOOKNUM).Uint32())
			c.Priority = int(int32(nfnl.Get(a.Value, unix.NFTA_HOOK_PRIORITY).Uint32()))
		case unix.NFTA_CHAIN_TYPE:
			c.Type = a.String()
		}
	}
	if c.Hook == "" {
		c.Type = ""
	} else if nfnl.Get(attrs, unix.NFTA_CHAIN_POLICY).Uint32() != nfAccept {
		c.Type += policyDrop
	}
	return c
}

func hookName(n uint32) dataplane.Hook {
	if int(n) < len(hooks) {
		return hooks[n]
	}
	return dataplane.Hook(fmt.Sprint("hook ", n))
}
