package story_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/test/rig"
)

// In a container /proc/sys is often read-only. Then flatnetd can't set forwarding back, and says so with the command to type.
func TestDoctorWhereSysctlsAreReadOnly(t *testing.T) {
	c := newClinic(t)
	const traffic = "flatnet exec a -- ping -c1 -W1 203.0.113.80"
	c.Eventually("traffic before the fault", func() bool { return c.try(traffic) == nil })
	c.Kill()
	readOnly := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec",
		`mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys; exec "$0" "$@"`, rig.Program(t, "flatnetd"),
		"--state-dir", filepath.Join(c.Dir, "state"), "--run-dir", filepath.Join(c.Dir, "run"), "--netns-dir", c.NetnsDir(), "--socket", c.Socket)
	if err := c.Machine.Start(readOnly); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { readOnly.Process.Kill(); readOnly.Wait() })
	c.WaitReady()
	c.must("sysctl -w net.ipv4.ip_forward=0")
	if c.try(traffic) == nil {
		t.Error("the fault is not felt")
	}
	findings, text := c.doctor()
	has(t, text, "error FN5003: forwarding is off: workloads do not reach beyond this host (", "sysctl net/ipv4/ip_forward=1)\n",
		"  flatnetd can't set it: open /proc/sys/net/ipv4/ip_forward: read-only file system\n", "  fix: sysctl -qw net/ipv4/ip_forward=1\n", "[1]\n")
	c.fix(findings, "FN5003")
	c.Eventually("traffic after the fix", func() bool { return c.try(traffic) == nil })
	c.Eventually("doctor is content", func() bool { return c.try("flatnet doctor") == nil })
}

// What many hosts have, and what is as it should be, is no finding: not the rules of Docker and libvirt for their own bridges, not
// several default routes, not routing by rules, and nothing of networks of every mode.
func TestDoctorIsSilentOnHealthyHosts(t *testing.T) {
	c := newClinic(t)
	c.must(`
flatnet net create dual --subnet 10.77.0.0/24 --subnet fd77::/64
flatnet net create pinned --uplink eth0
flatnet net create alone --mode host-only
flatnet net create switch --mode isolated --subnet 10.78.0.0/24
flatnet net create lent --mode routed --masquerade --subnet 10.79.0.0/24
flatnet net create proxied --mode routed --proxy-arp --uplink eth0 --subnet 192.0.2.64/28
ip link add eth1 type veth peer name eth0 netns $NS2; ip -n $NS2 link set eth0 up; ip -n $NS2 address add 198.18.0.1/24 dev eth0; sleep 0.3
flatnet net create lan --mode bridged --uplink eth1 --subnet 198.18.0.0/24
flatnet run -d --name lent --network lent -- sleep 1000
flatnet run -d --name proxied --network proxied -- sleep 1000
flatnet run -d --name lan --network lan --ip 198.18.0.9 -- sleep 1000
flatnet exec lan -- ping -c1 -W5 198.18.0.1
flatnet exec lent -- ping -c1 -W5 203.0.113.80
flatnet exec proxied -- ping -c1 -W5 203.0.113.80
flatnet run -d --name many --network dual --network alone --network switch -- sleep 1000
flatnet run -d --name pin --network pinned -p 8080:80 -- sleep 1000
flatnet run -d --name closed --network alone -- sleep 1000
flatnet exec many -- ping -c1 -W5 203.0.113.80
`)
	for _, host := range []struct{ name, script string }{
		{"docker, a network that is internal", `
ip link add br-1234 type bridge; ip address add 172.18.0.1/16 dev br-1234; ip link set br-1234 up
ip link add vinternal type veth peer name eth1 netns $NS1; ip link set vinternal master br-1234 up
ip -n $NS1 address add 172.18.0.2/16 dev eth1; ip -n $NS1 link set eth1 up
iptables -N DOCKER-INTERNAL; iptables -I FORWARD -j DOCKER-INTERNAL
iptables -A DOCKER-INTERNAL ! -s 172.18.0.0/16 -o br-1234 -j DROP; iptables -A DOCKER-INTERNAL ! -d 172.18.0.0/16 -i br-1234 -j DROP`},
		{"docker", `
ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0; ip link set docker0 up
ip link add vdocker type veth peer name eth0 netns $NS1; ip link set vdocker master docker0 up
ip -n $NS1 address add 172.17.0.2/16 dev eth0; ip -n $NS1 link set eth0 up; ip -n $NS1 route add default via 172.17.0.1
iptables -N DOCKER; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A FORWARD -o docker0 -j DOCKER
iptables -A FORWARD -i docker0 -j ACCEPT; iptables -A DOCKER ! -i docker0 -o docker0 -j DROP
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE`},
		{"libvirt, its network default", `
ip link add virbr0 type bridge; ip address add 192.168.122.1/24 dev virbr0; ip link set virbr0 up
ip tuntap add vnet0 mode tap; ip link set vnet0 master virbr0 up
iptables -N LIBVIRT_FWO; iptables -A FORWARD -j LIBVIRT_FWO; iptables -A LIBVIRT_FWO -s 192.168.122.0/24 -i virbr0 -j ACCEPT; iptables -A LIBVIRT_FWO -i virbr0 -j REJECT
iptables -t nat -N LIBVIRT_PRT; iptables -t nat -A POSTROUTING -j LIBVIRT_PRT
iptables -t nat -A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
iptables -t nat -A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
iptables -t nat -A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE`},
		{"a firewall of nft that lets forwarded packets be", `
nft add table inet fw; nft 'add chain inet fw input { type filter hook input priority 0; policy drop; }'
nft add rule inet fw input ct state established,related accept; nft add rule inet fw input iifname != eth0 accept; nft add rule inet fw input tcp dport 22 accept`},
		{"a spare default route", "ip route add default via 192.0.2.3 metric 200"},
		{"a VPN's halves and table", `
ip tuntap add tun0 mode tun; ip address add 10.9.0.2/32 dev tun0; ip link set tun0 up; ip route add 0.0.0.0/1 dev tun0 table 51
ip route add default dev tun0 table 51; ip rule add fwmark 51 lookup 51`},
	} {
		c.must(host.script)
		for _, f := range first(c.doctor()) {
			if f.Code != "FN5005" { // what this kernel lacks
				t.Errorf("%s: %s", host.name, text(f))
			}
		}
	}
	c.must("flatnet exec many -- ping -c1 -W5 203.0.113.80; flatnet exec pin -- ping -c1 -W5 203.0.113.80; ip netns exec $NS1 ping -c1 -W5 203.0.113.80")
	status, err := c.Client().Status(context.Background())
	if err != nil || len(status.Findings) > 0 {
		t.Errorf("status: %+v (%v)", status.Findings, err)
	}
}

func text(f api.Finding) string {
	return strings.Join([]string{f.Level, f.Code, f.What, f.Owner, f.Fix}, "\n")
}

// One default route with two hops is one route, not two; two networks that balance are no fault.
func TestDoctorKnowsMultipath(t *testing.T) {
	c := newClinic(t)
	c.must("ip route replace default nexthop via 192.0.2.1 nexthop via 192.0.2.1 dev eth0 weight 2")
	if findings, out := c.doctor(); strings.Contains(out, "FN5205") {
		t.Errorf("%+v", findings)
	}
}
