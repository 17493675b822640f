package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/render"
)

// NFT lists flatnet's nft tables as the kernel has them, each object with what it is for.
func (a *Agent) NFT(ctx context.Context) ([]api.NFTObject, error) {
	have, err := a.deps.Kernel.Observe(ctx, dataplane.HostNetns)
	if err != nil {
		return nil, err
	}
	a.mu.RLock()
	v := a.state.snapshot()
	a.mu.RUnlock()
	p := purposes{}
	p.read(v)
	return listNFT(have, p), nil
}

// purpose is what something is for.
type purpose struct{ network, workload, forward string }

// purposes are those of set elements, by what renders them: so they hold for every set that there ever is.
type purposes map[dataplane.Key][]purpose

// read renders each network, workload and forward by itself. What cannot be rendered has no elements.
func (p purposes) read(v model.View) {
	for _, f := range v.AllForwards() {
		if host, err := render.Forward(v, f); err == nil {
			p.add(host, func(dataplane.Element) purpose { return purpose{f.Network, f.Workload, f.Name()} })
		}
	}
	for _, w := range v.Workloads {
		networks := linksOf(v, w) // by what an element of the workload is about
		if host, err := render.Workload(v, w); err == nil {
			for _, e := range w.Endpoints {
				for _, a := range e.Addrs {
					networks[a.String()] = e.Network
				}
			}
			p.add(host, func(e dataplane.Element) purpose {
				is := e.Is()
				if is.Link == "" { // the workload's address itself
					is.Link = is.Addr.String()
				}
				return purpose{network: networks[is.Link], workload: w.Name}
			})
		}
	}
	for _, n := range v.Networks {
		if host, err := render.Network(v, n); err == nil {
			p.add(host, func(dataplane.Element) purpose { return purpose{network: n.Name} })
		}
	}
}

// add notes a part's elements. A workload's own forwards come twice: of their forward first, and that stays.
func (p purposes) add(part dataplane.Host, of func(dataplane.Element) purpose) {
	for _, o := range part.State(dataplane.HostNetns) {
		e, ok := o.(dataplane.Element)
		if !ok {
			continue
		}
		is := of(e)
		known := slices.ContainsFunc(p[e.Key()], func(q purpose) bool {
			return q == is || q.forward != "" && q.workload == is.workload && is.forward == ""
		})
		if !known {
			p[e.Key()] = append(p[e.Key()], is)
		}
	}
}

// linksOf are the links of a workload that elements name, with their networks: its ports and their bridges.
func linksOf(v model.View, w model.Workload) map[string]string {
	networks := map[string]string{}
	for _, e := range w.Endpoints {
		networks[model.HostLinkName(w.Name, e.IfName)] = e.Network
		networks[v.Networks[e.Network].BridgeName()] = e.Network
	}
	return networks
}

// nftList is our tables taken apart.
type nftList struct {
	purposes
	sets     []dataplane.Set
	elements map[dataplane.Set][]dataplane.Element
	chains   []dataplane.Chain
	rules    map[dataplane.Chain][]dataplane.Rule // by key
	networks map[dataplane.Set][]string           // found so far: see networksOf
	list     []api.NFTObject
}

func listNFT(have dataplane.State, p purposes) []api.NFTObject {
	l := nftList{purposes: p, elements: map[dataplane.Set][]dataplane.Element{}, rules: map[dataplane.Chain][]dataplane.Rule{}, networks: map[dataplane.Set][]string{}, list: []api.NFTObject{}}
	var tables []dataplane.Table
	for _, o := range have {
		switch o := o.(type) {
		case dataplane.Table:
			tables = append(tables, o)
		case dataplane.Set:
			l.sets = append(l.sets, o)
		case dataplane.Element:
			l.elements[o.Set()] = append(l.elements[o.Set()], o)
		case dataplane.Chain:
			l.chains = append(l.chains, o)
		case dataplane.Rule:
			key := dataplane.Chain{Family: o.Family, Name: o.Chain}
			l.rules[key] = append(l.rules[key], o)
		}
	}
	slices.SortFunc(l.sets, func(a, b dataplane.Set) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(l.chains, inPacketsOrder)
	slices.SortFunc(tables, func(a, b dataplane.Table) int { return cmp.Compare(b.Family, a.Family) }) // inet, then bridge
	for _, t := range tables {
		l.table(t)
	}
	return l.list
}

// inPacketsOrder orders chains as a packet meets them; those that are only jumped to come last.
func inPacketsOrder(a, b dataplane.Chain) int {
	hooks := []dataplane.Hook{dataplane.Prerouting, dataplane.Input, dataplane.Forward, dataplane.Output, dataplane.Postrouting, ""}
	return cmp.Or(cmp.Compare(slices.Index(hooks, a.Hook), slices.Index(hooks, b.Hook)), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
}

func (l *nftList) table(t dataplane.Table) {
	l.list = append(l.list, api.NFTObject{Kind: "table", Family: string(t.Family), Name: dataplane.TableName, Text: t.String()})
	for _, s := range l.sets {
		if s.Family == t.Family {
			l.set(s)
		}
	}
	for _, c := range l.chains {
		if c.Family == t.Family {
			l.chain(c)
		}
	}
}

func (l *nftList) set(s dataplane.Set) {
	kind := "set"
	if s.Value != (dataplane.Types{}) {
		kind = "map"
	}
	l.list = append(l.list, api.NFTObject{Kind: kind, Family: string(s.Family), Name: s.Name, Text: body(s.String()), Networks: l.networksOf(s)})
	var elements []api.NFTObject
	for _, e := range l.elements[s] {
		one := api.NFTObject{Kind: "element", Family: string(s.Family), Name: s.Name, Text: body(e.String())}
		for _, p := range l.purposes[e.Key()] {
			one.Networks = appendNew(one.Networks, p.network)
			one.Workloads = appendNew(one.Workloads, p.workload)
			one.Forwards = appendNew(one.Forwards, p.forward)
		}
		one.Stray = len(l.purposes[e.Key()]) == 0
		elements = append(elements, one)
	}
	slices.SortFunc(elements, func(a, b api.NFTObject) int { return cmp.Compare(a.Text, b.Text) })
	l.list = append(l.list, elements...)
}

func (l *nftList) chain(c dataplane.Chain) {
	l.list = append(l.list, api.NFTObject{Kind: "chain", Family: string(c.Family), Name: c.Name, Text: body(c.String())})
	rules := l.rules[dataplane.Chain{Family: c.Family, Name: c.Name}]
	slices.SortFunc(rules, func(a, b dataplane.Rule) int { return cmp.Compare(a.Pos, b.Pos) })
	for _, r := range rules {
		one := api.NFTObject{Kind: "rule", Family: string(c.Family), Name: c.Name, Comment: r.Comment, Networks: l.networksOfRule(r), Idle: l.idle(r), Stray: r.Comment == foreignRule}
		r.Comment = ""
		one.Text = strings.TrimPrefix(r.String(), dataplane.Rule{Family: c.Family, Chain: c.Name}.String())
		l.list = append(l.list, one)
	}
}

// networksOfRule are the networks that have elements in what a rule looks up. That a link alone is not in a set says of nobody.
func (l *nftList) networksOfRule(r dataplane.Rule) []string {
	networks := map[string]bool{}
	for _, look := range lookups(r) {
		if look.Not && look.Fields[1] == dataplane.NoField {
			continue
		}
		for _, n := range l.networksOf(l.named(r.Family, look.Set)) {
			networks[n] = true
		}
	}
	return slices.Sorted(maps.Keys(networks))
}

// idle reports whether a rule can match nothing, as a set or map that it asks has no elements.
func (l *nftList) idle(r dataplane.Rule) bool {
	return slices.ContainsFunc(lookups(r), func(look dataplane.Lookup) bool {
		return !look.Not && len(l.elements[l.named(r.Family, look.Set)]) == 0
	})
}

// lookups are all that a rule asks, that of its verdict too.
func lookups(r dataplane.Rule) []dataplane.Lookup {
	all := []dataplane.Lookup{r.Match.Lookup, r.Match.Lookup2, {Set: r.Map, Fields: r.Verdict.Fields}}
	return slices.DeleteFunc(all, func(look dataplane.Lookup) bool { return look.Set == "" })
}

func (l *nftList) named(family dataplane.Family, name string) dataplane.Set {
	for _, s := range l.sets {
		if s.Family == family && s.Name == name {
			return s
		}
	}
	return dataplane.Set{}
}

// networksOf are the networks with elements in a set.
func (l *nftList) networksOf(s dataplane.Set) []string {
	if known, ok := l.networks[s]; ok {
		return known
	}
	networks := map[string]bool{}
	for _, e := range l.elements[s] {
		for _, p := range l.purposes[e.Key()] {
			if p.network != "" {
				networks[p.network] = true
			}
		}
	}
	l.networks[s] = slices.Sorted(maps.Keys(networks))
	return l.networks[s]
}

// foreignRule is the comment that package kernel/nft gives a rule in our tables which we did not write.
const foreignRule = "foreign rule"

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// body is what stands between the braces of an object's text.
func body(text string) string {
	_, inside, _ := strings.Cut(text, "{")
	return strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(inside), "}"))
}
