// Package kernel carries dataplane values out: it observes the objects that are ours, applies Plans, and watches for what
// others change. It talks netlink over sockets of its own, in few system calls, and never forks.
//
// What is ours is told by marks that live in the kernel: the alias of links, protocol 157 of addresses and routes, the name
// of nft tables; where there are none (network namespaces, sysctls) by small files in Config.RunDir. All that is permanent on a tunnel
// link of ours is ours too. What bears no mark is never changed or removed; a name that is taken is an error.
//
// It decides nothing: what ought to be there comes from package render, and when to look from package reconcile.
//
//	k, err := kernel.New(kernel.Config{RunDir: "/run/flatnet"})
//	have, err := k.Observe(ctx, dataplane.HostNetns)
//	err = k.Apply(ctx, dataplane.HostNetns, dataplane.Diff(want, have))
package kernel
