package reach

import (
	"os"
	"testing"
	"time"
)

// TestHold builds the lab and keeps it for as long as REACH_HOLD says, to look around in it:
//
//	REACH_HOLD=1h go test -run Hold -v ./test/reach &
//	nsenter -t PID-OF-IT -a nsenter --net=/run/netns/n1a ping 10.66.2.1
func TestHold(t *testing.T) {
	d, err := time.ParseDuration(os.Getenv("REACH_HOLD"))
	if err != nil {
		t.Skip("for people only: set REACH_HOLD to a time such as 1h")
	}
	begin := time.Now()
	l := newLab(t)
	t.Logf("machines after %.1f s", time.Since(begin).Seconds())
	l.flat = newFlatnet(l)
	l.addNetworks()
	t.Logf("workloads after %.1f s", time.Since(begin).Seconds())
	time.Sleep(d)
}
