// Package journal remembers the workloads that run on this node: they survive a kill -9 of the daemon, and a reboot ends
// them, as it ended the workloads themselves. It is an append-only log of checksummed records in the run directory, never
// synced: the kernel keeps what was written until it ends itself.
//
// It is not the store: nothing in it was asked for to last.
//
//	j, report, err := journal.Open("/run/flatnet", bootID)
//	err = j.Put(web)
//	running := j.Load()
package journal
