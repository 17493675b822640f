package agent

import (
	"runtime"
	"testing"
)

// What computes for long has a second processor, one for all who do; where nobody asked for one processor, nothing changes.
func TestLongComputationsHaveASecondProcessor(t *testing.T) {
	was := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(was)
	var p processors
	are := func(want int) {
		t.Helper()
		if n := runtime.GOMAXPROCS(0); n != want {
			t.Errorf("there are %d processors, want %d", n, want)
		}
	}
	done := p.another()
	are(was)
	done()
	are(was)
	p.keepOne()
	are(1)
	first, second := p.another(), p.another()
	are(2)
	first()
	are(2)
	second()
	are(1)
}
