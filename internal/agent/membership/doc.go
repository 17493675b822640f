// Package membership is a host's place in a cluster: how it begins one (init), becomes a node of one (join), is one again after a restart, and
// leaves. On a server it keeps etcd running, lets other hosts in and renews its own certificates. What the cluster shares, and what of that
// comes into the kernel, is no business of this package: it ends with Enter.
//
//	m := membership.New(membership.Deps{Folder: "/var/lib/flatnet/cluster", Enter: agent.enter, …})
//	m.Resume()                    // before the host is brought up
//	go m.Run(ctx)
//	m.Join(ctx, api.Join{Address: "192.0.2.1", Token: "fn1.…"}, false, false)
//
// Everything that has begun is written down first, in the folder. After kill -9 anywhere an init and a leave are carried through by the next start;
// a join is repeated by who began it, as the token is not kept.
package membership
