package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/foreign"
)

// ruleFindings has one finding for a rule, with all of our links that it hits.
func ruleFindings(found []foreign.Finding) []api.Finding {
	type place struct{ code, what, owner string }
	links, fixes := map[place][]string{}, map[place][]string{}
	var order []place
	for _, f := range found {
		p := place{f.Code(), f.String(), f.Owner}
		if links[p] == nil {
			order = append(order, p)
		}
		if !slices.Contains(links[p], f.Link) {
			links[p] = append(links[p], f.Link)
		}
		for line := range strings.SplitSeq(f.Fix, "\n") {
			if !slices.Contains(fixes[p], line) {
				fixes[p] = append(fixes[p], line)
			}
		}
	}
	var list []api.Finding
	for _, p := range order {
		level := levelNote
		if p.code == foreign.CodeDrops {
			level = levelError
		}
		list = append(list, api.Finding{Code: p.code, Level: level, What: strings.Join(links[p], ", ") + ": " + p.what, Owner: p.owner, Fix: strings.Join(fixes[p], "\n")})
	}
	return append(list, frameFindings(found)...)
}

// frameFindings say of rules that cut off neighbours on one bridge which switch leads frames to them.
func frameFindings(found []foreign.Finding) []api.Finding {
	var list []api.Finding
	told := map[string]bool{}
	for _, f := range found {
		name := "bridge-nf-call-iptables"
		if f.Family == "ip6" {
			name = "bridge-nf-call-ip6tables"
		}
		if !f.Frames || !f.Certain || told[name] {
			continue
		}
		told[name] = true
		list = append(list, api.Finding{Code: FindingBridgeNF, Level: levelError, What: fmt.Sprintf("%s is 1: frames between workloads of one network meet rules made for routers, and are dropped: %s %s, chain %s: %s", name, f.Family, f.Table, f.Chain, f.Rule),
			Owner: "br_netfilter, wanted by Docker and Kubernetes: where these run, take the commands of " + foreign.CodeDrops + " instead", Fix: "sysctl -w net.bridge." + name + "=0"})
	}
	return list
}

// hintFindings tell of bridges that are not flatnet's; they are never more than notes.
func hintFindings(hints []foreign.Hint) []api.Finding {
	var list []api.Finding
	for _, h := range hints {
		if h.Closed {
			continue
		}
		f := api.Finding{Code: h.Code, Level: levelNote, Fix: h.Fix}
		where := fmt.Sprintf("%s (%s), which is not flatnet's", h.Bridge.Name, h.Bridge.Addr.Masked())
		if h.Code == foreign.CodeOtherDropped {
			f.What = fmt.Sprintf("what is on %s, does not reach the outside by %s: table %s %s, chain %s: %s", where, h.Uplink, h.Drop.Family, h.Drop.Table, h.Drop.Chain, h.Drop.Rule)
			f.Owner = h.Drop.Owner
		} else {
			f.What = fmt.Sprintf("what is on %s, leaves by %s with addresses of its own: it is answered only where the way back is known", where, h.Uplink)
			f.Owner = "no rule of any table translates them"
		}
		list = append(list, f)
	}
	return list
}
