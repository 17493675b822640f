// Package etcdserver keeps the program flatnet-etcd running on a host that is a server of its cluster: it starts it, takes one that runs already
// for its own, starts it again when it ends, and ends it when the host is a server no more. It is the only process that
// flatnetd starts (docs/decisions/0010), and no part of networking waits for it.
//
// Whoever started it, the process is found by the lock that it holds; it is in a session of its own, and goes on when flatnetd ends.
//
//	etcd := etcdserver.Supervisor{Config: config, Log: log}
//	err := etcd.Run(ctx)                            // until ctx ends, which leaves etcd running
//	err = etcdserver.Stop(ctx, config.LockFile)
package etcdserver
