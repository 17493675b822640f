// Package etcd is a cluster's store in etcd, 3.4 or newer: store.Cluster, with one client per node. It reads everything once, then
// follows the changes from that revision on; while etcd is away its readers have the last snapshot, and it comes back by
// itself. How an etcd is run is not its business: see store/etcd/server.
//
// The keys below Root:
//
//	cluster                       which cluster this is
//	networks/NAME                 a network
//	nodes/ID                      what a node publishes of itself
//	claims/ID/NETWORK/BLOCK       node ID wants the block; its etcd lease lives as long as the grace
//	alive/ID                      the node has beaten of late; its etcd lease lives for half a minute
//
// Of several claims to one block the one that was created first holds it, which etcd itself numbers (create_revision). So a
// node needs to write below its own id only, and no other node can take a block from it: docs/decisions/0010.
//
//	c, err := etcd.Open(etcd.Config{Endpoints: []string{"https://192.0.2.1:2379"}, TLS: tls})
//	err = c.Watch(ctx, func(s store.ClusterSnapshot) { … })
package etcd
