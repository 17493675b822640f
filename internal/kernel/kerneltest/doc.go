// Package kerneltest has what tests need in place of, or around, the kernel: Fake, a kernel in memory that keeps the real
// one's rules (what must be there first, what goes with what, whose names are taken); Contract, the test that both the fake
// and the real one pass; and namespaces with cables between them for tests in the real kernel.
//
// It is imported by tests only.
//
//	k := kerneltest.NewFake()
//	k.AddNetns("/run/netns/web1")
//	err := k.Apply(ctx, "", dataplane.Diff(want, have))
package kerneltest
