// Package local is the store of a single host: one bbolt file, synced at every change, and the whole of it in memory, from
// where all reading is served. It is not for several processes: the file is locked.
//
//	s, err := local.Open("/var/lib/flatnet")
package local
