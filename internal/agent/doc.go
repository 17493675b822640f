// Package agent is flatnetd put together: it takes requests, keeps what is asked for in the store and the journal, renders it,
// and lets package reconcile make it so. Here is every decision that needs more than one of the packages below: names and
// addresses that are free, ports that nobody uses, what goes when something goes.
//
// One change is made at a time, always in the same order: check it, write it down, then touch the kernel. What the kernel
// refuses is struck out again; what is to go is struck out first. So a crash between any two steps leaves the kernel short
// of, or ahead of, what is written down, and the next start makes it equal.
//
// It does not listen (package socket), draw kernel objects (render), or talk to the kernel (kernel); Deps names all it needs.
//
//	a := agent.New(agent.Config{RunDir: "/run/flatnet"}, deps)
//	err := a.Run(ctx) // a.Handler() answers from the moment that a.Ready() is closed
package agent
