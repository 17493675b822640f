package render

import (
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// What a limit is made of beside its rate. TCP comes within a few percent of every rate from 1 Mbit/s to 1 Gbit/s with these; with bursts of two
// packets it gets 60 %.
const (
	holdFor      = 25 * time.Millisecond // so long a packet waits at the rate, as with CNI's bandwidth plugin
	leastPackets = 10                    // the usual burst of a slow link
	largest      = 1 << 16               // bytes: what the kernel hands over as one packet of TCP, and cuts only if it exceeds the burst
	frame        = 18                    // Ethernet header 14 + VLAN tag 4
)

// limits hold an endpoint to its bandwidth: what comes to the workload waits where it leaves by the port, and what the workload sends where it
// passes a link of its own on the way from the port to the bridge. Without limits there are no objects.
func limits(v model.View, n model.Network, w model.Workload, e model.Endpoint, port string) []dataplane.Object {
	b := e.Bandwidth
	if b == (model.Bandwidth{}) {
		return nil
	}
	var objects []dataplane.Object
	packet := uint64(v.MTU(n)) + frame
	if b.IngressRate > 0 {
		objects = append(objects, shaper(port, b.IngressRate, b.IngressBurst, packet))
	}
	if b.EgressRate > 0 {
		out := dataplane.Link{Name: model.LimitLinkName(w.Name, e.IfName), Kind: dataplane.IFB, Owner: owner(w, e),
			MAC: model.LimitLinkMAC(w.Name, e.IfName), MTU: v.MTU(n), NoARP: true, Up: true}
		objects = append(objects, out, shaper(out.Name, b.EgressRate, b.EgressBurst, packet), dataplane.Redirect{Link: port, Via: out.Name})
	}
	return objects
}

// shaper has a rate and a burst in bits. The queue need not grow with a burst that is there for a quiet time: it is only used when the
// burst is spent, and would make what comes then late.
func shaper(link string, rate, burst, packet uint64) dataplane.Shaper {
	rate, burst = rate/8, burst/8
	held := rate / uint64(time.Second/holdFor)
	usual := max(held, leastPackets*packet)
	if burst == 0 {
		burst = usual
	}
	burst = max(burst, packet)
	return dataplane.NewShaper(link, rate, burst, held+min(burst, max(usual, largest+packet)))
}
