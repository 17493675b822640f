package cni

import (
	"testing"

	"github.com/flatnet/flatnet/api"
)

// TestFilledInBursts: a pod's annotation says 10M, and containerd or CRI-O add a burst of their own.
func TestFilledInBursts(t *testing.T) {
	for burst, want := range map[uint64]uint64{0: 0, 80_000: 80_000, 1<<31 - 1: 0, 1<<32 - 1: 0, 8*(1<<32-1) - 1: 0, 8 * (1<<32 - 1): 0, 1 << 32: 1 << 32} {
		b := api.Bandwidth{IngressRate: 10_000_000, IngressBurst: burst, EgressRate: 10_000_000, EgressBurst: burst}
		if got := withoutFilledIn(b); got.IngressBurst != want || got.EgressBurst != want || got.IngressRate != b.IngressRate || got.EgressRate != b.EgressRate {
			t.Errorf("a burst of %d became %+v, want %d", burst, *got, want)
		}
	}
}
