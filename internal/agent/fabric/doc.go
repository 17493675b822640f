// Package fabric is a node's part in a cluster: it follows the cluster's store, keeps the node's blocks, claims more of them when
// addresses run short, publishes where the node is reached, and says what of all that holds now as a Picture.
//
//	f := fabric.New(fabric.Deps{Cluster: c, Self: "n-7f3a9c21", Show: func(p fabric.Picture) { … }, …})
//	err := f.Run(ctx)
//
// What stands in the store may come from older, broken or hostile nodes: a Picture has only what model.ClusterFacts finds sound, and the
// reasons for the rest. While the store does not answer the last Picture stands, but for blocks of the node's own whose grace is over.
package fabric
