package nft

import (
	"context"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// TestOnlyWhatWasTouchedIsRead has somebody else change the tables while they are watched: what is read then must be what reading all
// says, whatever of it was not read, and a change of our own in between does no harm.
func TestOnlyWhatWasTouchedIsRead(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	changes, ended := make(chan Change, 1000), make(chan error)
	watching, stop := context.WithCancel(ctx(t))
	go func() { ended <- c.Watch(watching, func(ch Change) { changes <- ch }) }()
	want := state(t, sample(3)...)
	ours := dataplane.Plan{{Op: dataplane.Add, Object: element(pair4, 9)}}
	for _, tamper := range append(tampering, `add table ip other`, `delete table ip other`) {
		become(t, c, want)
		observe(t, c)
		apply(t, c, ours)
		known := c.known.generation
		nftCLI(t, tamper)
		select {
		case <-changes:
		case <-time.After(20 * time.Second):
			t.Fatalf("nft %s: not told", tamper)
		}
		now, err := c.Generation(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, heard := c.heard.between(known, now); !heard {
			t.Errorf("nft %s: not heard", tamper)
		}
		some := observe(t, c)
		all, err := c.Observe(ctx(t), true)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("nft %s", tamper)
		same(t, all, some)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, heard := c.heard.between(1, 2); heard {
		t.Error("without a watch something is heard")
	}
}

func TestHeardGenerationsFollowEachOther(t *testing.T) {
	h := heard{past: map[uint32]touched{5: newTouched(), 6: newTouched(), 1<<32 - 1: newTouched(), 1: newTouched()}}
	for _, c := range []struct {
		from, to uint32
		want     bool
	}{{4, 6, true}, {5, 6, true}, {6, 6, true}, {3, 6, false}, {4, 7, false}, {6, 5, false}, {1<<32 - 2, 1, true}} {
		if _, got := h.between(c.from, c.to); got != c.want {
			t.Errorf("from %d to %d: heard %t", c.from, c.to, got)
		}
	}
}
