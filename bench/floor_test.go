package main

import (
	"os"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/kernel/nft"
	"github.com/flatnet/flatnet/internal/render"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// The floor would be no measure if it made less than flatnet does.
func TestFloorMakesWhatFlatnetMakes(t *testing.T) {
	conn, err := nft.New(nft.Config{})
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.New(kernel.Config{RunDir: t.TempDir(), Nft: conn})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	v := labView(lab4, lab6)
	host, err := render.Host(v)
	if err != nil {
		t.Fatal(err)
	}
	want := host.State(dataplane.HostNetns)
	if err := k.Apply(t.Context(), dataplane.HostNetns, dataplane.Diff(want, dataplane.State{})); err != nil {
		t.Fatal(err)
	}
	w := labWorkload(v, 0)
	if err := netns.Create(w.Netns); err != nil {
		t.Fatal(err)
	}
	part, err := render.Workload(v, w)
	if err != nil {
		t.Fatal(err)
	}
	f, err := newFloor()
	if err != nil {
		t.Fatal(err)
	}
	p := newPlug(part, w, bridgeIndex(t), 1000)
	for range 2 { // what detach leaves must not be in the way
		if err := f.attach(p); err != nil {
			t.Fatal(err)
		}
		with := host
		if err := with.Merge(part); err != nil {
			t.Fatal(err)
		}
		for name, state := range with.Netns {
			observed(t, k, name, state)
		}
		if err := f.detach(p); err != nil {
			t.Fatal(err)
		}
		bare, err := render.Host(v)
		if err != nil {
			t.Fatal(err)
		}
		observed(t, k, dataplane.HostNetns, bare.State(dataplane.HostNetns))
	}
}

func observed(t *testing.T, k *kernel.Kernel, name string, want dataplane.State) {
	t.Helper()
	have, err := k.Observe(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if p := dataplane.Diff(want, have); len(p) > 0 {
		t.Fatalf("in %q the floor differs from flatnet by\n%s", name, p)
	}
}

func bridgeIndex(t *testing.T) int {
	t.Helper()
	i, err := linkIndex("fn-lab")
	if err != nil {
		t.Fatal(err)
	}
	return i
}
