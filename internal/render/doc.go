// Package render is the pure function from what people ask for to what a node must have: View → Host. The Host comes in
// parts (the node's own rules, each network, each workload, each standing forward), whose union it is, so that a change
// costs its own part only.
//
// The nft rules are constant: they are the same on every node and never change while it runs. Networks, endpoints and
// forwards are only elements of the sets and maps that the rules look things up in. So the rules can be read once (rules.go,
// or `nft list table inet flatnet`) and a packet's way told from the elements.
//
// It does not decide addresses (package ipam), and it asks nothing of the kernel: facts of the node come in as model.Node.
//
//	host, err := render.Host(view)
//	plan := dataplane.Diff(host.Netns[dataplane.HostNetns], observed)
package render
