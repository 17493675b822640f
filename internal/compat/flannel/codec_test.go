package flannel

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write golden files")

// golden runs a file of pairs: what is read, and behind its name and ".want" what became of it.
func golden(t *testing.T, path string, read func(string) string) {
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := &txtar.Archive{Comment: a.Comment}
	want := map[string]string{}
	for _, f := range a.Files {
		want[f.Name] = string(f.Data)
	}
	for _, f := range a.Files {
		if strings.HasSuffix(f.Name, ".want") {
			continue
		}
		got := read(strings.TrimSuffix(string(f.Data), "\n")) + "\n"
		out.Files = append(out.Files, f, txtar.File{Name: f.Name + ".want", Data: []byte(got)})
		if w := want[f.Name+".want"]; got != w && !*update {
			t.Errorf("%s: %s\ngot  %swant %s", f.Name, f.Data, got, w)
		}
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigIsReadAsFlannelDoes(t *testing.T) {
	golden(t, "testdata/config.txtar", func(in string) string {
		c, err := ParseConfig([]byte(in))
		if err != nil {
			return "refused: " + err.Error()
		}
		return showConfig(c)
	})
}

func showConfig(c Config) string {
	var b strings.Builder
	for _, r := range []Range{c.V4, c.V6} {
		if r.Network.IsValid() {
			fmt.Fprintf(&b, "%s in /%d, %s to %s\n", r.Network, r.Bits, r.Min, r.Max)
		}
	}
	fmt.Fprintf(&b, "%+v", c.Backend)
	return b.String()
}

func TestSubnetsOfANodeAreRefusedOneByOne(t *testing.T) {
	config, err := ParseConfig([]byte(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`))
	dual, err2 := ParseConfig([]byte(`{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fc00::/48", "Backend": {"Type": "vxlan"}}`))
	hostgw, err3 := ParseConfig([]byte(`{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}`))
	udp, err4 := ParseConfig([]byte(`{"Network": "10.5.0.0/16"}`))
	if err := errors.Join(err, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	configs := map[string]Config{"vxlan": config, "dual": dual, "host-gw": hostgw, "udp": udp}
	golden(t, "testdata/subnet.txtar", func(in string) string {
		kind, rest, _ := strings.Cut(in, " ")
		name, data, _ := strings.Cut(rest, " ")
		s, err := ParseSubnet(name)
		if err != nil {
			return "refused: " + err.Error()
		}
		v, err := ParseValue([]byte(data))
		if err == nil {
			err = configs[kind].Fits(s, v)
		}
		if err != nil {
			return "refused: " + err.Error()
		}
		if string(v.Bytes()) != data {
			return fmt.Sprintf("%s %+v\nwritten: %s", s, v, v.Bytes())
		}
		return fmt.Sprintf("%s %+v", s, v)
	})
}

func TestSubnetFileIsFlannelsByteForByte(t *testing.T) {
	for _, x := range []struct{ config, subnet, want string }{
		{`{"Network": "10.5.0.0/16"}`, "10.5.52.0-24",
			"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"},
		{`{"Network": "10.5.3.4/16", "EnableIPv6": true, "IPv6Network": "fc00::/48"}`, "10.5.52.0-24&fc00:0:0:1::-64",
			"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00:0:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"},
	} {
		c, err := ParseConfig([]byte(x.config))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseSubnet(x.subnet)
		if err != nil {
			t.Fatal(err)
		}
		env := c.Env(s, 1450, true)
		if env.String() != x.want {
			t.Errorf("got\n%swant\n%s", env, x.want)
		}
		again, err := ParseEnv([]byte(x.want))
		if err != nil || again != env || again.Held() != s {
			t.Errorf("read again: %+v, %v, held %s", again, err, again.Held())
		}
	}
}

func TestSubnetFileOfOthersIsReadWithPatience(t *testing.T) {
	e, err := ParseEnv([]byte("# by hand\r\n\nexport FLANNEL_NETWORK=\"10.5.0.0/16,10.6.0.0/16\"\r\nFLANNEL_SUBNET='10.5.7.1/24'\nFLANNEL_FUTURE=x\nFLANNEL_MTU=1450\n"))
	if want := netip.MustParsePrefix("10.5.0.0/16"); err != nil || e.Network != want || e.Held().String() != "10.5.7.0-24" || e.MTU != 1450 {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, bad := range []string{"FLANNEL_SUBNET=x", "FLANNEL_SUBNET=fc00::1/64", "FLANNEL_IPV6_SUBNET=10.0.0.1/8", "FLANNEL_MTU=lots", "FLANNEL_IPMASQ=maybe"} {
		if e, err := ParseEnv([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v", bad, e)
		}
	}
}

func FuzzConfig(f *testing.F) {
	seed(f, "testdata/config.txtar")
	f.Fuzz(func(t *testing.T, in string) {
		c, err := ParseConfig([]byte(in))
		if err != nil {
			return
		}
		for _, r := range []Range{c.V4, c.V6} {
			if r.Network.IsValid() && (!r.Gives(netip.PrefixFrom(r.Min, r.Bits)) || !r.Gives(netip.PrefixFrom(r.Max, r.Bits)) || r.Pool().Count() < 4) {
				t.Errorf("%q: %+v", in, r)
			}
		}
		if !c.V4.Network.IsValid() || c.Backend.Type == "" {
			t.Errorf("%q: %+v", in, c)
		}
	})
}

func FuzzSubnet(f *testing.F) {
	seed(f, "testdata/subnet.txtar")
	f.Fuzz(func(t *testing.T, in string) {
		name, data, _ := strings.Cut(in, " ")
		if s, err := ParseSubnet(name); err == nil && s.String() != name {
			t.Errorf("%q is read as %s", name, s)
		}
		v, err := ParseValue([]byte(data))
		if err != nil {
			return
		}
		if again, err := ParseValue(v.Bytes()); err != nil || again != v {
			t.Errorf("%q: %+v is read again as %+v, %v", data, v, again, err)
		}
	})
}

func FuzzEnv(f *testing.F) {
	f.Add("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
	f.Fuzz(func(t *testing.T, in string) {
		e, err := ParseEnv([]byte(in))
		if err != nil || !e.Network.IsValid() || !e.IPv6Network.IsValid() || !e.Subnet.IsValid() || !e.IPv6Subnet.IsValid() {
			return
		}
		if again, err := ParseEnv([]byte(e.String())); err != nil || again != e {
			t.Errorf("%q: %+v is read again as %+v, %v", in, e, again, err)
		}
	})
}

// seed gives the golden cases to a fuzz target.
func seed(f *testing.F, path string) {
	a, err := txtar.ParseFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range a.Files {
		if !strings.HasSuffix(file.Name, ".want") {
			in := strings.TrimSuffix(string(file.Data), "\n")
			if _, rest, ok := strings.Cut(in, " "); ok && path == "testdata/subnet.txtar" {
				in = rest
			}
			f.Add(in)
		}
	}
}
