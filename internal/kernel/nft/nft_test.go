package nft

import (
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
)

func TestEverythingAppliedIsObserved(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	want := state(t, sample(3)...)
	become(t, c, want)
	t.Log(nftCLI(t, "list", "ruleset"))
	apply(t, c, dataplane.Diff(want, dataplane.State{})) // once more
	same(t, want, observe(t, c))
	become(t, c, dataplane.State{})
}
