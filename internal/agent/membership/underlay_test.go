package membership

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
)

func link(name string, addrs ...string) model.HostLink {
	l := model.HostLink{Name: name, MTU: 1500, Up: true, Loopback: name == "lo"}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
	}
	return l
}

func defaultBy(link, via string) model.HostRoute {
	dest := "0.0.0.0/0"
	if strings.Contains(via, ":") {
		dest = "::/0"
	}
	return model.HostRoute{Dest: netip.MustParsePrefix(dest), Via: netip.MustParseAddr(via), Link: link}
}

func TestUnderlayIsChosenAndExplained(t *testing.T) {
	lo := link("lo", "127.0.0.1/8", "::1/128")
	one := model.Node{Links: []model.HostLink{lo, link("eth0", "192.0.2.1/24", "fe80::1/64")}, Routes: []model.HostRoute{defaultBy("eth0", "192.0.2.254")}}
	two := model.Node{Links: []model.HostLink{lo, link("eth0", "192.0.2.1/24", "2001:db8::1/64"), link("eth1", "198.51.100.1/24", "198.51.100.9/24")}, Routes: []model.HostRoute{defaultBy("eth0", "192.0.2.254")}}
	bare := model.Node{Links: []model.HostLink{lo, link("eth0", "192.0.2.1/24"), link("eth1", "198.51.100.1/24")}}
	private := model.Node{Links: []model.HostLink{lo, link("eth0", "2001:db8::1/64", "2001:db8::aaaa/64", "192.0.2.1/24")}, Routes: []model.HostRoute{defaultBy("eth0", "2001:db8::fe")}}
	lonely := model.Node{Links: []model.HostLink{lo, link("eth0", "192.0.2.1/24")}}
	from := func(a string) func() (netip.Addr, netip.Addr) {
		return func() (netip.Addr, netip.Addr) { return netip.MustParseAddr(a), netip.MustParseAddr("198.51.100.2") }
	}
	for what, c := range map[string]struct {
		node   model.Node
		asked  []string
		toward func() (netip.Addr, netip.Addr)
		want   string
	}{
		"the default route":         {one, nil, nil, "eth0 192.0.2.1: the default route is by eth0"},
		"both families":             {two, nil, nil, "eth0 192.0.2.1 2001:db8::1: the default route is by eth0"},
		"towards the server":        {two, nil, from("198.51.100.9"), "eth1 198.51.100.9: 198.51.100.2 is reached by eth1"},
		"only one link":             {lonely, nil, nil, "eth0 192.0.2.1: eth0 is the only link with an address"},
		"two links and no default":  {bare, nil, nil, "FN1606 this host has eth0 192.0.2.1, eth1 198.51.100.1"},
		"a link":                    {two, []string{"eth1"}, nil, "eth1 198.51.100.1: it was asked for"},
		"an address":                {two, []string{"198.51.100.9"}, from("192.0.2.1"), "eth1 198.51.100.9: it was asked for"},
		"an address of each":        {two, []string{"2001:db8::1", "192.0.2.1"}, nil, "eth0 192.0.2.1 2001:db8::1: it was asked for"},
		"addresses of two links":    {two, []string{"2001:db8::1", "198.51.100.1"}, nil, "FN1606 this host has eth0 192.0.2.1, eth0 2001:db8::1, eth1 198.51.100.1, eth1 198.51.100.9"},
		"an address that is not":    {one, []string{"192.0.2.7"}, nil, "FN1606 this host has eth0 192.0.2.1"},
		"a link that is not":        {one, []string{"eth7"}, nil, "FN1606 this host has eth0 192.0.2.1"},
		"a link without an address": {model.Node{Links: []model.HostLink{link("eth0", "fe80::1/64")}}, []string{"eth0"}, nil, "FN1606 "},
		"the loopback link":         {one, []string{"lo"}, nil, "FN1606 this host has eth0 192.0.2.1"},
		"a loopback address":        {one, []string{"::1"}, nil, "FN1606 this host has eth0 192.0.2.1"},
		"a link twice":              {one, []string{"eth0", "eth0"}, nil, "FN1606 this host has eth0 192.0.2.1"},
		"no route to the server":    {one, nil, func() (netip.Addr, netip.Addr) { return netip.Addr{}, netip.Addr{} }, "FN1606 this host has eth0 192.0.2.1"},
		"of several, none is added": {private, nil, from("192.0.2.1"), "eth0 192.0.2.1: 198.51.100.2 is reached by eth0"},
	} {
		u, err := choose(c.node, c.asked, c.toward)
		got := u.link + " " + strings.Join(words(u.addrs), " ") + ": " + u.why
		var p model.Problem
		if errors.As(err, &p) {
			got = p.Code + " " + p.Owner
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", what, got, c.want)
		}
	}
}

func TestUnderlayIsFollowed(t *testing.T) {
	node := model.Node{Links: []model.HostLink{link("eth0", "192.0.2.5/24")}, Routes: []model.HostRoute{defaultBy("eth0", "192.0.2.254")}}
	r := record{Server: true, Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Why: "before"}
	u, err := r.underlay(node)
	if err != nil || words(u.addrs)[0] != "192.0.2.5" {
		t.Errorf("the address is gone: got %v, %v", u, err)
	}
	node.Links[0].Addrs = append(node.Links[0].Addrs, netip.MustParsePrefix("192.0.2.1/24"))
	u, err = r.underlay(node)
	if err != nil || words(u.addrs)[0] != "192.0.2.1" || u.why != "before" {
		t.Errorf("the address is back: got %v, %v", u, err)
	}
}

func TestPoolsAreCutIntoBlocks(t *testing.T) {
	for word, want := range map[string]string{
		"10.244.0.0/16": "10.244.0.0/16:24", "10.244.0.0/16:26": "10.244.0.0/16:26", "10.244.0.0/22": "10.244.0.0/22:26", "192.168.4.0/28": "192.168.4.0/28:30",
		"fd00:90::/48": "fd00:90::/48:64", "fd00:90::/48:60": "fd00:90::/48:60", "fd00::/62": "fd00::/62:66",
		"10.244.0.0": "FN1201", "10.244.0.0/16:": "FN1201", "10.244.0.0/16:x": "FN1201", "": "FN1201",
	} {
		got := ""
		list, err := pools([]string{word})
		var p model.Problem
		if errors.As(err, &p) {
			got = p.Code
		} else if len(list) == 1 {
			got = list[0].Prefix.String() + ":" + strconv.Itoa(list[0].Bits)
		}
		if got != want {
			t.Errorf("%q: got %s (%v), want %s", word, got, err, want)
		}
	}
}
