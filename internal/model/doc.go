// Package model holds what people ask for: networks, workloads with their endpoints, forwards, and the facts of the node
// they are asked of. A View is one immutable snapshot of all that. The package has values only: no effects, no clock, no
// goroutines. Validate says what is wrong with a value in words a person can act on.
//
// It does not say how the kernel is to look; that is package dataplane, and package render stands between the two.
//
//	v := model.View{Networks: map[string]model.Network{"lab": {Name: "lab", Mode: model.NAT}}}
package model
