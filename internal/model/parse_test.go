package model

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestForwardsReadAsDockerWritesThem(t *testing.T) {
	cases := []struct{ in, out string }{
		{"80", "80:80/tcp"},
		{"8080:80", "8080:80/tcp"},
		{"127.0.0.1:8080:80/udp", "127.0.0.1:8080:80/udp"},
		{"[::1]:8080:80", "[::1]:8080:80/tcp"},
		{"[::]:8080:80/SCTP", "[::]:8080:80/sctp"},
		{"[::ffff:192.0.2.1]:8080:80", "192.0.2.1:8080:80/tcp"},
		{"0.0.0.0:53:53/udp", "0.0.0.0:53:53/udp"},
		{"8000-8010:9000-9010", "8000-8010:9000-9010/tcp"},
		{"8000-8010", "8000-8010:8000-8010/tcp"},
		{"0080:80", "80:80/tcp"},
	}
	for _, c := range cases {
		f, err := ParseForward(c.in)
		if err != nil || f.Publish() != c.out {
			t.Errorf("ParseForward(%q) = %q, %v; want %q", c.in, f.Publish(), err, c.out)
		}
	}
}

func TestForwardsThatCannotBeReadSayWhy(t *testing.T) {
	cases := []struct{ in, want string }{
		{"", `host port: "" is not a port from 1 to 65535`},
		{"0:80", `host port: "0" is not a port`},
		{":80", `host port: "" is not a port`},
		{"80:", `workload port: "" is not a port`},
		{"65536:80", `"65536" is not a port`},
		{"-1:80", `"" is not a port`},
		{"http:80", `"http" is not a port`},
		{"80:80/icmp", `protocol "icmp" is none of`},
		{"80:80/", `protocol "" is none of`},
		{"80:80/6", ""},
		{"80:80/1", `protocol "1" is none of`},
		{"90-80:90-80", "range 90-80 ends before it begins"},
		{"80-81:80", "host ports 80-81 are 2, workload ports 80 are 1"},
		{"127.0.0.1:80", "after an address come two ports"},
		{"127.0.0.1::80", `host port: "" is not a port`},
		{"127.0.0.300:80:80", `"127.0.0.300" is not an IP address`},
		{"[127.0.0.1]:80:80", "IPv6 address in brackets"},
		{"[fe80::1%eth0]:80:80", "IPv6 address in brackets"},
		{"[::1]80:80", "IPv6 address in brackets"},
		{"[::1", "IPv6 address in brackets"},
		{"::1:80:80", "stands in brackets"},
		{"1:2:3", "too many colons"},
	}
	for _, c := range cases {
		_, err := ParseForward(c.in)
		if c.want == "" {
			if err != nil {
				t.Errorf("ParseForward(%q): %v", c.in, err)
			}
			continue
		}
		var p Problem
		if !errors.As(err, &p) || !strings.Contains(p.Reason, c.want) || p.Example == "" {
			t.Errorf("ParseForward(%q) = %#v, want a Problem with an example and the words %q", c.in, err, c.want)
		}
	}
}

func FuzzParseForward(f *testing.F) {
	for _, s := range []string{"80", "127.0.0.1:8080:80/udp", "[::1]:8000-8010:9000-9010/sctp", "[::ffff:1.2.3.4]:1:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, err := ParseForward(s)
		if err != nil {
			return
		}
		second, err := ParseForward(first.Publish())
		if err != nil || first != second {
			t.Errorf("%q reads as %v, printed %q, which reads as %v, %v", s, first, first.Publish(), second, err)
		}
		if first.HostPorts.Len() != first.Ports.Len() || first.Ports.Len() < 1 {
			t.Errorf("%q has %d host ports, %d ports", s, first.HostPorts.Len(), first.Ports.Len())
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	f.Add("02:00:5e:10:00:01")
	f.Add("02-00-5E-10-00-01")
	f.Add("00:00:00:00:00:00")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := ParseMAC(m.String()); err != nil || again != m {
			t.Errorf("%q reads as %s, which reads as %s, %v", s, m, again, err)
		}
		if m, err := ParseEndpointMAC(s); err == nil && (m == MAC{} || m[0]&1 == 1) {
			t.Errorf("%q is taken for an endpoint's", s)
		}
	})
}

func TestEndpointMACs(t *testing.T) {
	for _, s := range []string{"", "02", "00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "fe:00:00:00:00:01", "02:00:5e:10:00:0g", "02:00:5e:10:00:001"} {
		_, err := ParseEndpointMAC(s)
		if p := (Problem{}); !errors.As(err, &p) || p.Code != CodeMAC {
			t.Errorf("ParseEndpointMAC(%q) = %v, want %s", s, err, CodeMAC)
		}
	}
	if m, err := ParseEndpointMAC("02-00-5E-10-00-01"); err != nil || m.String() != "02:00:5e:10:00:01" {
		t.Errorf("got %s, %v", m, err)
	}
}

func TestValuesSurviveJSON(t *testing.T) {
	v := aView()
	for _, want := range []any{v.Workloads["web"], v.Networks["home"], v.Forwards["udp/192.168.1.20:53"], Workload{}, Network{}, Forward{}} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(want))
		if err := json.Unmarshal(text, got.Interface()); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !reflect.DeepEqual(got.Elem().Interface(), want) {
			t.Errorf("%s\ngot  %+v\nwant %+v", text, got.Elem(), want)
		}
	}
	text, _ := json.Marshal(v.Workloads["web"])
	for _, readable := range []string{`"MAC":"02:00:00:00:00:01"`, `"Proto":"tcp"`, `"HostPorts":"8080-8089"`, `"10.66.0.2"`} {
		if !strings.Contains(string(text), readable) {
			t.Errorf("%s lacks %s", text, readable)
		}
	}
}

func TestFreeSubnets(t *testing.T) {
	pools := Pools([5]byte{1, 2, 3, 4, 5})
	v := aView()
	check := func(what string, got []netip.Prefix, want ...string) {
		t.Helper()
		var words []string
		for _, p := range got {
			words = append(words, p.String())
		}
		if strings.Join(words, " ") != strings.Join(want, " ") {
			t.Errorf("%s: got %v, want %v", what, words, want)
		}
	}
	check("beside two networks", FreeSubnets(v, pools, false, 0, 3), "10.66.2.0/24", "10.66.3.0/24", "10.66.4.0/24")
	check("IPv6 from the seed", FreeSubnets(v, pools, true, 0, 2), "fd01:203:405::/64", "fd01:203:405:1::/64")
	check("by length", FreeSubnets(v, pools, false, 16, 9), "10.67.0.0/16", "10.68.0.0/16", "172.30.0.0/16")
	check("larger than any pool", FreeSubnets(v, pools, false, 12, 9))
	v.Node.Routes = append(v.Node.Routes, HostRoute{Dest: prefix("10.0.0.0/8"), Link: "wg0"})
	check("a VPN has all of 10/8", FreeSubnets(v, pools, false, 0, 1), "172.30.0.0/24")
	v.Node.Routes = append(v.Node.Routes, HostRoute{Dest: prefix("172.16.0.0/12"), Link: "wg0"}, HostRoute{Dest: prefix("192.168.0.0/16"), Link: "wg0"})
	check("a VPN has everything", FreeSubnets(v, pools, false, 0, 1))
	check("the end of the address space", FreeSubnets(View{}, []netip.Prefix{prefix("255.255.255.0/24")}, false, 25, 9), "255.255.255.0/25", "255.255.255.128/25")
}

// Law: what is free overlaps nothing, and nothing given twice.
func TestFreeSubnetsAreFree(t *testing.T) {
	pools := Pools([5]byte{})
	v := aView()
	v.Node.Routes = append(v.Node.Routes, HostRoute{Dest: prefix("10.66.7.9/32")}, HostRoute{Dest: prefix("10.66.16.0/20")}, HostRoute{Dest: prefix("10.67.128.0/17")})
	for _, bits := range []int{18, 24, 27} {
		free := FreeSubnets(v, pools, false, bits, 700)
		if bits > 20 && len(free) != 700 {
			t.Errorf("/%d: only %d are free", bits, len(free))
		}
		for i, p := range free {
			n := Network{Name: "x", Mode: NAT, Subnets: []Subnet{{Prefix: p, Gateway: FirstAddr(p)}}}
			if ps := Validate(v, n); ps.Err() != nil {
				t.Fatal(ps)
			}
			if i > 0 && p.Overlaps(free[i-1]) {
				t.Errorf("%s overlaps %s", p, free[i-1])
			}
		}
	}
}

func BenchmarkFreeSubnets(b *testing.B) {
	v := View{Node: Node{Routes: []HostRoute{{Dest: netip.MustParsePrefix("10.0.0.0/8")}}}}
	for i := range 5000 { // a BGP router
		v.Node.Routes = append(v.Node.Routes, HostRoute{Dest: netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24)})
	}
	pools := Pools([5]byte{})
	for b.Loop() {
		FreeSubnets(v, pools, false, 0, 2)
	}
}
