package checkup

import (
	"fmt"
	"maps"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/ways"
	"github.com/flatnet/flatnet/internal/model"
)

// What is asked of the ways to other hosts finds.
const (
	CodeBlocked = "FN5420" // a host answers, and what is for its workloads gets lost
	CodeDeaf    = "FN5421" // a host does not answer at all
	CodeWayMTU  = "FN5422" // large packets get lost on the way
	CodeSpoilt  = "FN5423" // packets arrive with a wrong checksum
)

// WayFindings judge what became of packets to other hosts.
func WayFindings(v model.View, answers []ways.Answer) []api.Finding {
	var list []api.Finding
	of := map[string][]ways.Answer{}
	for _, a := range answers {
		of[a.Network] = append(of[a.Network], a)
	}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		n := v.Networks[name]
		list = slices.Concat(list, deaf(v, n, of[name]), blocked(v, n, of[name]), wayMTU(v, n, of[name]), spoilt(v, n, of[name]))
	}
	return list
}

// hostLines are about those hosts of which something is so.
func hostLines(v model.View, answers []ways.Answer, line func(ways.Answer) (string, bool)) []string {
	var lines []string
	for _, a := range answers {
		name := v.Members[a.Node].Name
		if name == "" {
			name = a.Node
		}
		if text, so := line(a); so {
			if text != "" {
				text = ": " + text
			}
			lines = append(lines, fmt.Sprintf("%s (%s)%s", name, a.Outer, text))
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// who says in a sentence which hosts.
func who(lines []string, asked int) string {
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%d of the %d hosts that were asked", len(lines), asked)
}

func owners(lines []string, cause string) string {
	if len(lines) == 1 {
		return cause
	}
	return few(lines) + "\n" + cause
}

func isDeaf(a ways.Answer) bool { return !a.Inner.Answered && !a.Spoilt && !a.Underlay.Answered }

func deaf(v model.View, n model.Network, answers []ways.Answer) []api.Finding {
	lines := hostLines(v, answers, func(a ways.Answer) (string, bool) { return a.Underlay.Why, isDeaf(a) })
	if len(lines) == 0 {
		return nil
	}
	f := api.Finding{Code: CodeDeaf, Level: failure, What: fmt.Sprintf("network %s: no answer from %s, neither by the network nor from the host itself", n.Name, who(lines, len(answers))),
		Owner: owners(lines, "a machine or a cable that is down, hosts that are kept apart, or a firewall that drops everything"), Fix: "see whether the machine runs, and whether this host reaches it at that address"}
	if n.Cluster.Uses(model.VXLAN) {
		f.Fix += fmt.Sprintf("; udp %d has to pass between all hosts, both ways", n.Cluster.Port)
	}
	return []api.Finding{f}
}

func blocked(v model.View, n model.Network, answers []ways.Answer) []api.Finding {
	tunnel := false
	lines := hostLines(v, answers, func(a ways.Answer) (string, bool) {
		so := !a.Inner.Answered && !a.Spoilt && a.Underlay.Answered
		tunnel = tunnel || so && a.Tunnel
		return a.Inner.Why, so
	})
	if len(lines) == 0 {
		return nil
	}
	f := api.Finding{Code: CodeBlocked, Level: failure, What: fmt.Sprintf("network %s: packets to and from %s get lost, while the host itself answers", n.Name, who(lines, len(answers)))}
	if tunnel {
		f.Owner = owners(lines, fmt.Sprintf("as a rule a firewall, there or on the way, that drops udp %d; flatnet doctor there names one of that host", n.Cluster.Port))
		f.Fix = fmt.Sprintf("let udp %d pass between all hosts, both ways; or use a port that passes: flatnet net set %s --port N", n.Cluster.Port, n.Name)
		return []api.Finding{f}
	}
	f.Owner = owners(lines, "as a rule a LAN or a cloud that lets hosts send and get nothing but what bears their own addresses")
	f.Fix = fmt.Sprintf("switch the check of source and destination off there; or on a server: flatnet net set %s --backend vxlan", n.Name)
	return []api.Finding{f}
}

func wayMTU(v model.View, n model.Network, answers []ways.Answer) []api.Finding {
	size, fits := 0, 1<<16
	lines := hostLines(v, answers, func(a ways.Answer) (string, bool) {
		so := a.Inner.Answered && !a.Large.Answered
		if so {
			size, fits = max(size, a.Size), min(fits, a.Fits)
		}
		return a.Large.Why, so
	})
	if len(lines) == 0 {
		return nil
	}
	f := api.Finding{Code: CodeWayMTU, Level: failure, What: fmt.Sprintf("network %s: packets of %d bytes to or from %s get lost, small ones arrive", n.Name, size, who(lines, len(answers))),
		Owner: owners(lines, "a link on the way takes less than those of the hosts"), Fix: fmt.Sprintf("let the links on the way take %d bytes", size+n.Cluster.Overhead())}
	if fits > 0 {
		f.What += fmt.Sprintf("; %d bytes pass", fits)
		f.Fix += fmt.Sprintf("; or on a server: flatnet net set %s --mtu %d", n.Name, fits)
	}
	return []api.Finding{f}
}

func spoilt(v model.View, n model.Network, answers []ways.Answer) []api.Finding {
	lines := hostLines(v, answers, func(a ways.Answer) (string, bool) { return "", a.Spoilt })
	if len(lines) == 0 {
		return nil
	}
	link, _ := v.UnderlayLink(n)
	off := fmt.Sprintf("ethtool -K %s tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off", link.Name)
	f := api.Finding{Code: CodeSpoilt, Level: failure, What: fmt.Sprintf("network %s: packets with a checksum do not arrive at %s, those without one do: something spoils checksums of what is in a tunnel", n.Name, who(lines, len(answers))),
		Owner: owners(lines, fmt.Sprintf("%s, or a hypervisor below it (checksum offload)", link.Name)), Fix: fmt.Sprintf("on a server: flatnet net set %s --checksum=false; if that does not do, here: %s, or tx off", n.Name, off)}
	if n.Cluster.NoChecksum {
		f.Fix = off + ", or tx off"
	}
	return []api.Finding{f}
}
