package story_test

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// speedPort is where a workload takes or gives bytes, as much as one wants.
const speedPort = "7000"

// serveSpeed lets the machine be asked for bytes ("g") or given some ("t").
func serveSpeed(t *testing.T, m *kerneltest.Machine) {
	t.Helper()
	var l net.Listener
	m.Do(func() (err error) {
		l, err = net.Listen("tcp", ":"+speedPort)
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				what := make([]byte, 1)
				if _, err := io.ReadFull(c, what); err != nil {
					return
				}
				if what[0] == 'g' {
					io.Copy(c, neverEnding{})
				} else if n, err := io.CopyN(io.Discard, c, speedBytes); err == nil {
					fmt.Fprint(c, n)
				}
			}()
		}
	}()
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// speedBytes take a second at 8 Mbit/s.
const speedBytes = 1_000_000

// speed is how many bits a second go between the machine and a workload by TCP: to the workload, or from it.
func speed(t *testing.T, from *kerneltest.Machine, addr string, to bool) float64 {
	t.Helper()
	var c net.Conn
	begun := time.Now()
	from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(addr, speedPort), rig.Patience)
		return err
	})
	defer c.Close()
	c.SetDeadline(begun.Add(rig.Patience))
	var err error
	if to {
		go func() { io.WriteString(c, "t"); io.CopyN(c, neverEnding{}, speedBytes) }()
		_, err = io.ReadFull(c, make([]byte, 1)) // it has come
	} else {
		io.WriteString(c, "g")
		_, err = io.CopyN(io.Discard, c, speedBytes)
	}
	if err != nil {
		t.Fatalf("%s: %v", addr, err)
	}
	return speedBytes * 8 / time.Since(begun).Seconds()
}

// TestLimitedBandwidth: what comes to a workload and what it sends keeps to its rates, by IPv4 and IPv6, whoever else is on the network; and
// does so again when somebody has taken the limits away.
func TestLimitedBandwidth(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--subnet", "10.8.0.0/24", "--subnet", "fd08::/64")
	const in, out = 16e6, 8e6
	h.Flatnet("run", "-d", "--name", "slow", "--network", "lab,ip=10.8.0.9,ip=fd08::9,egress-rate=8M", "--ingress-rate", "16mbit", "--", "sleep", "1000")
	h.Flatnet("run", "-d", "--name", "free", "--network", "lab,ip=10.8.0.8", "--", "sleep", "1000")
	has(t, h.Flatnet("ep", "inspect", "slow"), "ingress 16Mbit/s", "egress 8Mbit/s")
	serveSpeed(t, h.Workload("slow"))
	serveSpeed(t, h.Workload("free"))

	keeps := func(addr string, to bool, rate float64) {
		t.Helper()
		var got float64
		h.Eventually(fmt.Sprintf("%s (to it: %v) comes near %.0f Mbit/s", addr, to, rate/1e6), func() bool {
			got = speed(t, o.host, addr, to)
			return got > rate/2 // a busy machine may need a second try
		})
		if got > rate*1.15 { // the burst, 25 ms, is in it
			t.Errorf("%s (to it: %v): %.1f Mbit/s, more than the %.0f that it may", addr, to, got/1e6, rate/1e6)
		}
	}
	limits := func() string {
		text := o.host.Run("tc", "qdisc", "show") + o.host.Run("tc", "filter", "show", "dev", "fv-slow", "ingress")
		lines := limitLines.FindAllString(text, -1)
		slices.Sort(lines) // they come in the order in which links were made
		return strings.Join(lines, "\n")
	}
	full := limits()
	if strings.Count(full, "\n") != 2 {
		t.Fatalf("there should be two qdiscs and a redirect:\n%s", full)
	}
	for _, harm := range []string{"", "tc qdisc del dev fv-slow root", "tc qdisc change dev fi-slow root handle 9d: tbf rate 1gbit burst 1000000 limit 1000000",
		"tc qdisc del dev fv-slow clsact", "ip link del fi-slow"} {
		if harm != "" {
			o.host.Run(strings.Fields(harm)...)
			h.Eventually("the limits are back after "+harm, func() bool { return limits() == full })
			continue
		}
		for _, addr := range []string{"10.8.0.9", "fd08::9"} {
			keeps(addr, true, in)
			keeps(addr, false, out)
		}
	}
	keeps("10.8.0.9", true, in)
	keeps("fd08::9", false, out)
	h.Eventually("who has no limit is not held back", func() bool {
		return speed(t, o.host, "10.8.0.8", true) > 2*in && speed(t, o.host, "10.8.0.8", false) > 2*in
	})
	if got := o.host.Run("tc", "qdisc", "show", "dev", "fv-free"); !strings.HasPrefix(got, "qdisc noqueue") || strings.Count(got, "\n") != 1 {
		t.Errorf("a workload without limits has\n%s", got)
	}

	slow := h.Workload("slow") // the guard knows it by its port still
	slow.IP("address add 10.8.0.77/24 dev eth0")
	if out, err := slow.Try("ping", "-c1", "-W1", "-I", "10.8.0.77", "10.8.0.1"); err == nil {
		t.Errorf("a limited workload may use others' addresses: %s", out)
	}
	slow.Run("ping", "-c1", "-W5", "10.8.0.1")

	h.Flatnet("rm", "-f", "slow")
	if left := o.host.Run("ip", "link", "show", "type", "ifb"); left != "" {
		t.Errorf("left is %s", left)
	}
}

// limitLines are those of tc's that tell of limits, without what the kernel numbers by itself.
var limitLines = regexp.MustCompile(`qdisc tbf .*|mirred .*`)
