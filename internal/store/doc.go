// Package store keeps what people asked for. It has the contract, the encoding of values, and a store in memory;
// store/local keeps the same in a file, and later ones in etcd or Kubernetes.
//
// A store gives complete snapshots with an opaque token, and takes changes of single objects with the version they are
// based on. There is no transaction over several objects: what must change together is one object, and every order of
// single changes must be a state that render can live with. It knows nothing of running workloads: see package journal.
//
//	s := store.NewMemory()
//	_, err := s.Write(ctx, store.PutNetwork(lab, store.New))
//	snap, err := s.Load(ctx)
//	networks, err := snap.Networks()
package store
