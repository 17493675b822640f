// Package bpf carries out the steps of a plan that are BPF programs and their map elements, and reads them back as the same
// values. Today that is [::1]: bpf/loopback.c, attached to the root of the cgroup hierarchy, brings what the host's sockets
// send to a published port of ::1 to the workload.
//
// What is attached must outlive the daemon, so links and maps are pinned in a file system of our own, and the pins are all
// there is to know; nothing is kept in memory:
//
//	RunDir/bpf/                    mounted with the first program, unmounted with the last
//	RunDir/bpf/3f1c22d09a41-4026/  hash of the compiled programs, cookie of the network namespace
//	    forwards peers             maps
//	    connect6 …                 links
//
// Another hash or cookie is another directory. Its links are taken over by exchanging the program behind them, when the new
// maps are full: there is no moment without one or the other.
//
//	conn, err := bpf.New(bpf.Config{RunDir: "/run/flatnet"})
//	err = conn.Apply(ctx, dataplane.Plan{{Op: dataplane.Add, Object: dataplane.LoopbackPrograms()[0]}})
package bpf
