// Package ipam picks the next free address of a subnet. It is pure: what is in use, and what is remembered of the past,
// comes in; one address comes out. Who uses it keeps the sets.
//
//	a, err := ipam.Next(subnet, inUse, rememberedFor("web"))
package ipam
