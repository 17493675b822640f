package foreign

import (
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// The codes of what is found about bridges that are not ours.
const (
	CodeOtherDropped  = "FN5103" // a policy drops what is on such a bridge
	CodeNotTranslated = "FN5104" // it leaves with addresses that the LAN does not know
)

// Bridge is a bridge that others made, with a network that this host routes for.
type Bridge struct {
	Name string
	Addr netip.Prefix // the host's on it
	Peer netip.Addr   // somebody on it; zero: nobody is known
}

// Hint is what stands between such a bridge and the outside.
type Hint struct {
	Code   string // empty when Closed
	Bridge Bridge
	Closed bool // a rule made for it keeps it from the outside: it is meant so
	Uplink string
	Drop   Finding // of CodeOtherDropped
	Fix    string
}

// Hints looks at what leaves by a node's default routes. What a rule drops that was made for just this is meant so. A policy, or a
// last rule for all the rest, mostly is of somebody who did not know of the bridge.
func Hints(r Ruleset, node model.Node, bridges []Bridge) []Hint {
	w := newWalker(r)
	var hints []Hint
	for _, b := range bridges {
		for _, up := range uplinksOf(model.View{Node: node}, model.Network{}, b.Addr.Addr().Is6()) {
			if h, ok := w.hint(b, up); ok {
				hints = append(hints, h)
				break // one way out tells enough
			}
		}
	}
	return hints
}

func (w *walker) hint(b Bridge, up uplink) (Hint, bool) {
	h := Hint{Bridge: b, Uplink: up.link.Name}
	probes := outProbes(model.Network{Name: b.Name, Bridge: b.Name}, peer{addr: b.peer()}, up)
	for _, p := range probes {
		for _, at := range w.run(p) {
			switch {
			case !at.sure:
			case at.rule != policyDrop && !isLastWord(at):
				return Hint{Bridge: b, Closed: true}, true
			case h.Code == "":
				h.Code, h.Drop = CodeOtherDropped, w.finding(p, at)
				h.Fix = h.Drop.Fix
			}
		}
	}
	if h.Code == "" && w.translated(probes[0]) == no {
		h.Code, h.Fix = CodeNotTranslated, fmt.Sprintf("iptables -t nat -A POSTROUTING -s %s ! -o %s -j MASQUERADE", b.Addr.Masked(), b.Name)
	}
	return h, h.Code != ""
}

// peer is somebody on the bridge, or one that could be.
func (b Bridge) peer() netip.Addr {
	if b.Peer.IsValid() {
		return b.Peer
	}
	free := b.Addr.Masked().Addr().Next()
	if free == b.Addr.Addr() {
		free = free.Next()
	}
	return free
}
