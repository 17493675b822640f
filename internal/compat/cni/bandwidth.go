package cni

import (
	"math"
	"slices"

	"github.com/flatnet/flatnet/api"
)

// filledIn are the bursts, in bits, that runtimes hand over with a pod's rate, as its annotations have no word for a burst and the usual plugin
// takes no 0: kubelet's until 1.23, containerd's, and CRI-O's, older and newer. Taken by their word, hundreds of megabytes of each pod passed
// before its limit begins (kubernetes/kubernetes issue 90838).
func filledIn() []uint64 {
	return []uint64{math.MaxInt32, math.MaxUint32, 8 * math.MaxUint32, 8*math.MaxUint32 - 1}
}

// withoutFilledIn is what a runtime's limits ask for: a burst that is only filled in is left to us.
func withoutFilledIn(b api.Bandwidth) *api.Bandwidth {
	for _, burst := range []*uint64{&b.IngressBurst, &b.EgressBurst} {
		if slices.Contains(filledIn(), *burst) {
			*burst = 0
		}
	}
	return &b
}
