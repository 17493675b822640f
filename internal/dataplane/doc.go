// Package dataplane holds what a node must have: kernel objects as plain comparable values, a State of them, and the Plan
// that leads from one State to another. It has values and pure functions only; package kernel carries them out.
//
// Every Object is its own key: Key() returns the object with only its identity fields set, so that a State is a map from
// key to object and Diff compares with ==. No Object may hold a slice, map or pointer.
//
//	have := dataplane.State{}
//	want := dataplane.State{}
//	want.Put(dataplane.Link{Name: "br0", Kind: dataplane.Bridge, Up: true})
//	fmt.Print(dataplane.Diff(want, have)) // add link br0 type bridge up
package dataplane
