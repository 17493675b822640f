// Package reconcile makes the kernel be what is wanted, and keeps it so. It holds the wanted Host in parts, remembers what
// the kernel was last known to have, and sends the difference as Plans: for one part only when one part changes, for
// everything at start and when a notification says that somebody else changed something of ours.
//
// It decides nothing about what is wanted (package render) and knows nothing of netlink (package kernel).
//
//	r := reconcile.New(kernel, reconcile.Deps{Log: log})
//	changes, err := r.Set(ctx, parts)                                  // all of it, at start
//	changes, err = r.Put(ctx, map[string]dataplane.Host{"net/lab": {}}) // one part goes
package reconcile
