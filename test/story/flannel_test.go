package story_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

const (
	flannelEtcd = "192.0.2.2:2379"
	flannelKeys = "/coreos.com/network/"
)

// flannelNode is a host that flanneld and its CNI plugin have run on, with a pod, and beside it another of flannel's nodes, where etcd is. No
// flanneld runs any more: what it left in the kernel and in etcd is made by hand.
type flannelNode struct {
	t              *testing.T
	host, far, pod *kerneltest.Machine
}

func newFlannelNode(t *testing.T) flannelNode {
	topo := kerneltest.NewTopology(t)
	n := flannelNode{t: t, host: topo.Machine("host"), far: topo.Machine("far"), pod: topo.Machine("pod")}
	topo.Cable(n.host, "eth0", n.far, "eth0")
	topo.Cable(n.host, "veth0", n.pod, "eth0")
	n.left(n.host, "192.0.2.1", "10.5.10", "c6:00:00:00:00:01")
	n.left(n.far, "192.0.2.2", "10.5.20", "c6:00:00:00:00:02")
	n.leads(n.host, "10.5.20.0", "192.0.2.2", "c6:00:00:00:00:02")
	n.leads(n.far, "10.5.10.0", "192.0.2.1", "c6:00:00:00:00:01")
	n.host.IP("link set veth0 master cni0 up", "route add default via 192.0.2.2")
	n.pod.IP("link set eth0 up", "address add 10.5.10.7/24 dev eth0", "route add default via 10.5.10.1")
	n.etcd()
	n.put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	n.put("subnets/10.5.10.0-24", flannelValue("192.0.2.1", "c6:00:00:00:00:01"))
	n.put("subnets/10.5.20.0-24", flannelValue("192.0.2.2", "c6:00:00:00:00:02"))
	return n
}

func flannelValue(ip, mac string) string {
	return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"}}`, ip, mac)
}

// left makes what flanneld and the bridge plugin have left on a node.
func (n flannelNode) left(m *kerneltest.Machine, ip, block, mac string) {
	m.Sysctl("net/ipv4/ip_forward=1")
	m.IP("link set eth0 up", "address add "+ip+"/24 dev eth0",
		"link add flannel.1 address "+mac+" mtu 1450 type vxlan id 1 local "+ip+" dev eth0 dstport 8472 nolearning",
		"address add "+block+".0/32 dev flannel.1", "link set flannel.1 up",
		"link add cni0 type bridge", "address add "+block+".1/24 dev cni0", "link set cni0 up")
}

// leads makes the way to another node's subnet.
func (n flannelNode) leads(m *kerneltest.Machine, subnet, node, mac string) {
	m.IP("neighbour add "+subnet+" lladdr "+mac+" dev flannel.1 nud permanent", "route add "+subnet+"/24 via "+subnet+" dev flannel.1 onlink")
	m.Run("bridge", "fdb", "append", mac, "dev", "flannel.1", "dst", node, "self", "permanent")
}

// etcd starts a server on the other node.
func (n flannelNode) etcd() {
	dir := n.t.TempDir()
	cmd := exec.Command("etcd", "--data-dir", dir, "--listen-client-urls", "http://"+flannelEtcd, "--advertise-client-urls", "http://"+flannelEtcd,
		"--listen-peer-urls", "http://192.0.2.2:2380", "--initial-advertise-peer-urls", "http://192.0.2.2:2380", "--initial-cluster", "default=http://192.0.2.2:2380")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		n.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.far.Start(cmd); err != nil {
		n.t.Fatalf("etcd (hack/deps installs it): %v", err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
	kerneltest.Eventually(n.t, "etcd answers", func() bool {
		_, err := n.ask("range", map[string]any{"key": []byte("x")})
		return err == nil
	})
}

// ask is one request of etcd's JSON, sent from the other node.
func (n flannelNode) ask(method string, request any) (answer struct {
	KVs []struct {
		Value          []byte
		Mod_revision   string //nolint:revive // etcd's name
		Lease, Version string
	}
}, err error) {
	body, _ := json.Marshal(request)
	n.far.Do(func() error {
		var conn net.Conn
		if conn, err = net.Dial("tcp", flannelEtcd); err != nil { // in this thread, so in the machine
			return nil
		}
		defer conn.Close()
		r, _ := http.NewRequest(http.MethodPost, "http://"+flannelEtcd+"/v3/kv/"+method, bytes.NewReader(body))
		r.Close = true
		if err = r.Write(conn); err != nil {
			return nil
		}
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReader(conn), r); err != nil {
			return nil
		}
		var data []byte
		if data, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, data)
		}
		if err == nil {
			err = json.Unmarshal(data, &answer)
		}
		return nil
	})
	return answer, err
}

func (n flannelNode) put(key, value string) {
	n.t.Helper()
	if _, err := n.ask("put", map[string]any{"key": []byte(flannelKeys + key), "value": []byte(value)}); err != nil {
		n.t.Fatal(err)
	}
}

// key is what stands there, and how often it was written; empty when there is none.
func (n flannelNode) key(name string) (value, version string) {
	n.t.Helper()
	a, err := n.ask("range", map[string]any{"key": []byte(flannelKeys + name)})
	if err != nil {
		n.t.Fatal(err)
	}
	if len(a.KVs) == 0 {
		return "", ""
	}
	return string(a.KVs[0].Value), a.KVs[0].Version
}

func TestFlatnetdTakesFlanneldsPlace(t *testing.T) {
	n := newFlannelNode(t)
	before := n.host.Run("ip", "-o", "link", "show", "flannel.1")
	pings := ping(t, n.pod, "10.5.20.1")
	pings.answers(10)

	env := filepath.Join(t.TempDir(), "subnet.env")
	books := t.TempDir() // host-local gave the pod its address, and another's is not back yet
	if err := os.Mkdir(filepath.Join(books, "cbr0"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"10.5.10.7": "pod\r\neth0", "10.5.10.2": "other\r\neth0", "last_reserved_ip.0": "10.5.10.7"} {
		if err := os.WriteFile(filepath.Join(books, "cbr0", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := rig.New(t, n.host, "--flannel-etcd", "http://"+flannelEtcd, "--flannel-subnet-file", env, "--host-local-dir", books)
	h.Eventually("the CNI plugin's file", func() bool {
		text, _ := os.ReadFile(env)
		return string(text) == "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.10.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	})
	pings.answers(10)
	if lost, sent := pings.end(); len(lost) > 0 {
		t.Errorf("of %d pings through the tunnel these were lost: %v", sent, lost)
	}

	// Nothing of it is new: the others know the node by what stands in its key, and that was not even written.
	link := n.host.Run("ip", "-o", "link", "show", "flannel.1")
	if a, b := fields(before, 0), fields(link, 0); a != b || !strings.Contains(link, "c6:00:00:00:00:01") {
		t.Errorf("the tunnel was\n%sand is\n%s", before, link)
	}
	if value, version := n.key("subnets/10.5.10.0-24"); value != flannelValue("192.0.2.1", "c6:00:00:00:00:01") || version != "1" {
		t.Errorf("the node's key is %s, version %s", value, version)
	}
	if routes := n.host.Run("ip", "route", "show", "10.5.20.0/24"); !strings.Contains(routes, "10.5.20.0 dev flannel.1 proto 157 onlink") {
		t.Errorf("the way to the other node is %s", routes)
	}
	h.Eventually("nothing to do", func() bool {
		plan, err := h.Try("plan")
		return err == nil && strings.TrimSpace(plan) == ""
	})

	// From here on it follows flannel's keys.
	n.put("subnets/10.5.30.0-24", flannelValue("192.0.2.3", "c6:00:00:00:00:03"))
	h.Eventually("the way to a new node", func() bool {
		return strings.Contains(n.host.Run("ip", "route"), "10.5.30.0/24 via 10.5.30.0 dev flannel.1 proto 157 onlink") &&
			strings.Contains(n.host.Run("ip", "neighbour", "show", "dev", "flannel.1"), "10.5.30.0 lladdr c6:00:00:00:00:03 PERMANENT") &&
			strings.Contains(n.host.Run("bridge", "fdb", "show", "dev", "flannel.1"), "c6:00:00:00:00:03 dst 192.0.2.3 self permanent")
	})

	// The bridge is the CNI plugin's, and stays so; flatnet's workloads stand on it beside the plugin's, with addresses that host-local has not given.
	h.Flatnet("run", "-d", "--name", "web", "--network", "flannel", "--", "sleep", "1000")
	web := h.Workload("web")
	if addr := web.Run("ip", "-4", "-o", "address", "show", "dev", "eth0"); !strings.Contains(addr, "10.5.10.3/24") {
		t.Errorf("the new workload has %s", addr)
	}
	for _, to := range []string{"10.5.10.7", "10.5.20.1", "10.5.10.1"} {
		reaches(t, web, to)
	}
	reaches(t, n.pod, "10.5.10.3")
	reaches(t, n.far, "10.5.10.3")
	if text, err := os.ReadFile(filepath.Join(books, "cbr0", "10.5.10.3")); err != nil || !strings.HasPrefix(string(text), "flatnet web") {
		t.Errorf("host-local's book says %q, %v", text, err)
	}
	h.Flatnet("uninstall", "-y")
	if left, _ := filepath.Glob(filepath.Join(books, "cbr0", "10.*")); len(left) != 2 {
		t.Errorf("in host-local's book are %v", left)
	}
	if value, _ := n.key("subnets/10.5.10.0-24"); value != "" {
		t.Errorf("after the uninstall the node's key is still there: %s", value)
	}
	if links := n.host.Run("ip", "-br", "link"); strings.Contains(links, "flannel.1") || !strings.Contains(links, "cni0") {
		t.Errorf("after the uninstall the links are\n%s", links)
	}
	h.Start()
}

func fields(s string, i int) string {
	if f := strings.Fields(s); i < len(f) {
		return f[i]
	}
	return ""
}

// Without a CNI plugin the bridge is ours, with the name that flannel's has.
func TestWorkloadsOfFlatnetAreOnFlannelsNetwork(t *testing.T) {
	topo := kerneltest.NewTopology(t)
	n := flannelNode{t: t, host: topo.Machine("host"), far: topo.Machine("far")}
	topo.Cable(n.host, "eth0", n.far, "eth0")
	n.left(n.far, "192.0.2.2", "10.5.20", "c6:00:00:00:00:02")
	n.host.IP("link set eth0 up", "address add 192.0.2.1/24 dev eth0", "route add default via 192.0.2.2")
	n.etcd()
	n.put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	n.put("subnets/10.5.20.0-24", flannelValue("192.0.2.2", "c6:00:00:00:00:02"))
	env := filepath.Join(t.TempDir(), "subnet.env")
	if err := os.WriteFile(env, []byte("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.10.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := rig.New(t, n.host, "--flannel-etcd", "http://"+flannelEtcd, "--flannel-subnet-file", env, "--flannel-bridge", "ours")
	h.Eventually("the bridge", func() bool { return strings.Contains(n.host.Run("ip", "-br", "address"), "10.5.10.1/24") })
	var mac string
	h.Eventually("its key", func() bool {
		value, _ := n.key("subnets/10.5.10.0-24")
		_, rest, _ := strings.Cut(value, `"VtepMAC":"`)
		mac, _, _ = strings.Cut(rest, `"`)
		return mac != "" && value == flannelValue("192.0.2.1", mac)
	})
	n.leads(n.far, "10.5.10.0", "192.0.2.1", mac) // what a flanneld makes of that key
	h.Flatnet("run", "-d", "--name", "web", "--network", "flannel", "--", "sleep", "1000")
	web := h.Workload("web")
	h.Eventually("an answer from flannel's side", func() bool {
		_, err := web.Try("ping", "-c", "1", "-W", "1", "10.5.20.1")
		return err == nil
	})
	if links := n.host.Run("ip", "-br", "link"); !strings.Contains(links, "cni0") || !strings.Contains(links, "flannel.1") || !strings.Contains(links, mac) {
		t.Errorf("the links are\n%s", links)
	}
}
