package story_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// debianPlugins is where containernetworking-plugins are (hack/deps installs them).
const debianPlugins = "/usr/lib/cni"

// chain is a configuration as a runtime calls it: each plugin's process, on a host.
type chain struct {
	t       *testing.T
	host    *kerneltest.Machine
	bins    []string // directories
	name    string
	version string
	plugins []map[string]any
}

func newChain(t *testing.T, host *kerneltest.Machine, file string, bins ...string) *chain {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name, CNIVersion string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list.Plugins) == 0 {
		t.Fatalf("%s: %v: %s", file, err, text)
	}
	return &chain{t, host, bins, list.Name, list.CNIVersion, list.Plugins}
}

// add is an ADD; it returns the container's IPv4 address.
func (c *chain) add(container string, pod *kerneltest.Machine) (string, error) {
	var result json.RawMessage
	for _, p := range c.plugins {
		out, err := c.call("ADD", container, pod.Path, p, result)
		if err != nil {
			return "", err
		}
		result = out
	}
	var parsed struct {
		IPs []struct{ Address string }
	}
	if err := json.Unmarshal(result, &parsed); err != nil || len(parsed.IPs) == 0 {
		return "", fmt.Errorf("%v: %s", err, result)
	}
	addr, _, _ := strings.Cut(parsed.IPs[0].Address, "/")
	return addr, nil
}

// del is a DEL.
func (c *chain) del(container string, pod *kerneltest.Machine) error {
	for _, p := range slices.Backward(c.plugins) {
		if _, err := c.call("DEL", container, pod.Path, p, nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) call(command, container, netns string, plugin map[string]any, prev json.RawMessage) ([]byte, error) {
	conf := map[string]any{"name": c.name, "cniVersion": c.version}
	for k, v := range plugin {
		conf[k] = v
	}
	if prev != nil {
		conf["prevResult"] = prev
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd := exec.Command(c.find(fmt.Sprint(plugin["type"])))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+container, "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH="+strings.Join(c.bins, ":"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &out
	if err := c.host.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%s of %v: %w: %s", command, plugin["type"], err, out.Bytes())
	}
	return out.Bytes(), nil
}

func (c *chain) find(typ string) string {
	for _, dir := range c.bins {
		if path := filepath.Join(dir, typ); exists(path) {
			return path
		}
	}
	return typ
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// moving is a host with pods of the bridge plugin, on the way to flatnet.
type moving struct {
	t          *testing.T
	topo       *kerneltest.Topology
	host, lan  *kerneltest.Machine
	dir        string // net.d, bin, and host-local's books
	old        *chain
	pods       map[string]*kerneltest.Machine
	oldAddress map[string]string
}

const oldConflist = `{"cniVersion": "1.0.0", "name": "lab", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.60.1.0/28"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
`

func newMoving(t *testing.T) *moving {
	topo := kerneltest.NewTopology(t)
	m := &moving{t: t, topo: topo, host: topo.Machine("host"), lan: topo.Machine("lan"), dir: t.TempDir(), pods: map[string]*kerneltest.Machine{}, oldAddress: map[string]string{}}
	topo.Cable(m.host, "up0", m.lan, "eth0")
	m.host.IP("address add 192.0.2.1/24 dev up0", "route add default via 192.0.2.2")
	m.lan.IP("address add 192.0.2.2/24 dev eth0")
	if err := os.MkdirAll(m.path("net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path("net.d/10-bridge.conflist"), fmt.Appendf(nil, oldConflist, m.path("books")), 0o644); err != nil {
		t.Fatal(err)
	}
	m.old = newChain(t, m.host, m.path("net.d/10-bridge.conflist"), debianPlugins)
	for _, name := range []string{"old1", "old2", "old3"} {
		addr, err := m.old.add(name, m.pod(name))
		if err != nil {
			t.Fatal(err)
		}
		m.oldAddress[name] = addr
	}
	return m
}

func (m *moving) path(name string) string { return filepath.Join(m.dir, name) }

func (m *moving) pod(name string) *kerneltest.Machine {
	if m.pods[name] == nil {
		m.pods[name] = m.topo.Machine(name)
	}
	return m.pods[name]
}

// book is what host-local's directory holds: addresses, and whose entry it is.
func (m *moving) book(name string) map[string]string {
	entries := map[string]string{}
	files, _ := os.ReadDir(m.path("books/" + name))
	for _, f := range files {
		if text, err := os.ReadFile(m.path("books/" + name + "/" + f.Name())); err == nil && strings.HasPrefix(f.Name(), "10.") {
			entries[f.Name()] = string(text)
		}
	}
	return entries
}

// reaches fails when a machine does not get an answer from an address.
func reaches(t *testing.T, from *kerneltest.Machine, addr string) {
	t.Helper()
	if out, err := from.Try("ping", "-c", "1", "-W", "5", addr); err != nil {
		t.Errorf("%s does not reach %s:\n%s\n%s", from.Name, addr, out, from.Dump())
	}
}

func TestANodeMovesFromTheBridgePlugin(t *testing.T) {
	m := newMoving(t)
	running := ping(t, m.pod("old1"), "192.0.2.2")
	running.answers(10)

	// What the old file says becomes a network on the old bridge, and the runtime's new file.
	h := rig.New(t, m.host, "--host-local-dir", m.path("books"))
	was := m.path("net.d/10-bridge.conflist")
	m.convert(was)
	h.Flatnet("apply", "--dry-run", "-f", m.path("lab.yaml"))
	h.Flatnet("apply", "-y", "-f", m.path("lab.yaml"))
	rig.Program(t, "flatnet-cni")
	if out := h.Flatnet("cni", "install", "--like", was, "--name", "lab", "--replace", was, "--conf-dir", m.path("net.d"), "--bin-dir", m.path("bin")); !strings.Contains(out, "10-lab.conflist brings containers to flatnet") {
		t.Errorf("install said\n%s", out)
	}
	now := m.path("net.d/10-lab.conflist")
	now = m.withSocket(now, h)
	ours := newChain(t, m.host, now, m.path("bin"), debianPlugins)

	// New pods are beside the old ones, which go on.
	addrs := map[string]string{}
	for _, name := range []string{"new1", "new2"} {
		addr, err := ours.add(name, m.pod(name))
		if err != nil {
			t.Fatal(err)
		}
		addrs[name] = addr
	}
	if got, want := fmt.Sprint(addrs["new1"], " ", addrs["new2"]), "10.60.1.5 10.60.1.6"; got != want {
		t.Errorf("beside %v the new pods have %s, want %s", m.oldAddress, got, want)
	}
	for _, pair := range [][2]string{{"new1", "old1"}, {"new2", "old3"}} {
		reaches(t, m.pod(pair[0]), m.oldAddress[pair[1]])
		reaches(t, m.pod(pair[1]), addrs[pair[0]])
	}
	reaches(t, m.pod("new1"), addrs["new2"])
	reaches(t, m.pod("new1"), "192.0.2.2")
	reaches(t, m.host, addrs["new1"])
	if lost, sent := running.end(); len(lost) > 0 {
		t.Errorf("of %d pings of a running pod %v were lost", sent, lost)
	}

	// The runtime lets go of the old pods by the old chain, as it remembers.
	for name := range m.oldAddress {
		if err := m.old.del(name, m.pod(name)); err != nil {
			t.Errorf("DEL of %s: %v", name, err)
		}
	}
	for addr, text := range m.book("lab") {
		if !strings.HasPrefix(text, "flatnet ") {
			t.Errorf("%s is in the book still: %q", addr, text)
		}
	}
	reaches(t, m.pod("new1"), addrs["new2"])
	reaches(t, m.pod("new1"), "192.0.2.2")

	// The daemon is killed, pods end; the old bridge goes, as with a reboot, and flatnet's own comes.
	h.Kill()
	h.Start("--host-local-dir", m.path("books"))
	for name := range addrs {
		if err := ours.del(name, m.pod(name)); err != nil {
			t.Errorf("DEL of %s: %v", name, err)
		}
	}
	if left := m.book("lab"); len(left) > 0 {
		t.Errorf("left in the book: %v", left)
	}
	m.host.IP("link del cni0")
	h.Eventually("a bridge of its own", func() bool {
		link, _ := m.host.Try("ip", "-d", "link", "show", "cni0")
		return strings.Contains(link, "flatnet net/lab")
	})
	if _, err := ours.add("new3", m.pod("new3")); err != nil {
		t.Fatal(err)
	}
	reaches(t, m.pod("new3"), "192.0.2.2")
	if err := ours.del("new3", m.pod("new3")); err != nil {
		t.Error(err)
	}
	h.Flatnet("cni", "uninstall", "--conf-dir", m.path("net.d"), "--bin-dir", m.path("bin"))
	if !exists(was) || exists(m.path("net.d/10-lab.conflist")) || exists(m.path("bin/flatnet")) {
		t.Errorf("uninstall left %v", m.files())
	}
}

// convert writes the network that a configuration is into lab.yaml.
func (m *moving) convert(file string) {
	text, err := exec.Command(rig.Program(m.t, "flatnet"), "cni", "convert", "--manifests", file).Output()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path("lab.yaml"), text, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// withSocket is the configuration for a daemon that is not at the usual place.
func (m *moving) withSocket(file string, h *rig.Host) string {
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	out := m.path("with-socket.conflist")
	text = bytes.Replace(text, []byte(`"type": "flatnet",`), fmt.Appendf(nil, `"type": "flatnet", "socket": %q,`, filepath.Join(h.Dir, "run", "attach.sock")), 1)
	if err := os.WriteFile(out, text, 0o644); err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *moving) files() []string {
	var all []string
	for _, dir := range []string{"net.d", "bin"} {
		names, _ := filepath.Glob(m.path(dir + "/*"))
		all = append(all, names...)
	}
	return all
}

// While both chains give addresses of one range, at once, from many processes, no two containers have the same.
func TestBothChainsGiveNoAddressTwice(t *testing.T) {
	m := newMoving(t)
	h := rig.New(t, m.host, "--host-local-dir", m.path("books"))
	was := m.path("net.d/10-bridge.conflist")
	m.convert(was)
	h.Flatnet("apply", "-y", "-f", m.path("lab.yaml"))
	rig.Program(t, "flatnet-cni")
	h.Flatnet("cni", "install", "--like", was, "--name", "lab", "--replace", was, "--conf-dir", m.path("net.d"), "--bin-dir", m.path("bin"))
	ours := newChain(t, m.host, m.withSocket(m.path("net.d/10-lab.conflist"), h), m.path("bin"))

	// The old chain's part in it is host-local: its address is given before the link is made, and taken back after it is gone.
	ipam := *m.old
	ipam.plugins = []map[string]any{{"type": "host-local", "ipam": m.old.plugins[0]["ipam"]}}
	const workers, rounds = 2, 50 // with two addresses each, and three of the old pods, of the 13 that there are
	held := &holders{by: map[string]string{}}
	for name, addr := range m.oldAddress {
		held.take(t, addr, name)
	}
	var wg sync.WaitGroup
	for i := range workers {
		for name, c := range map[string]*chain{fmt.Sprintf("theirs%d", i): &ipam, fmt.Sprintf("ours%d", i): ours} {
			pods := [2]*kerneltest.Machine{m.pod(name + "a"), m.pod(name + "b")}
			wg.Go(func() { held.churn(t, c, name, pods, rounds) })
		}
	}
	wg.Wait()
	if held.given < 2*workers*rounds {
		t.Errorf("only %d addresses were given", held.given)
	}
	want := map[string]bool{}
	for _, addr := range m.oldAddress {
		want[addr] = true
	}
	for addr, text := range m.book("lab") {
		if !want[addr] {
			t.Errorf("left in the book: %s %q", addr, text)
		}
	}
	for name := range m.oldAddress {
		if err := m.old.del(name, m.pod(name)); err != nil {
			t.Errorf("DEL of %s: %v", name, err)
		}
	}
}

// holders are those who have an address now.
type holders struct {
	mu    sync.Mutex
	by    map[string]string
	given int
}

func (h *holders) take(t *testing.T, addr, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other, taken := h.by[addr]; taken {
		t.Errorf("%s was given to %s and to %s", addr, other, name)
	}
	h.by[addr] = name
	h.given++
}

func (h *holders) drop(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.by, addr)
}

// churn is two containers that come and go in turns: one is there while the other comes.
func (h *holders) churn(t *testing.T, c *chain, name string, pods [2]*kerneltest.Machine, rounds int) {
	var last string
	for i := range rounds {
		container, pod := fmt.Sprintf("%s-%d", name, i), pods[i%2]
		addr, err := c.add(container, pod)
		if err != nil {
			t.Error(err)
			return
		}
		h.take(t, addr, container)
		if last != "" {
			h.drop(last)
			if err := c.del(fmt.Sprintf("%s-%d", name, i-1), pods[(i+1)%2]); err != nil {
				t.Error(err)
				return
			}
		}
		last = addr
	}
	h.drop(last)
	if err := c.del(fmt.Sprintf("%s-%d", name, rounds-1), pods[(rounds+1)%2]); err != nil {
		t.Error(err)
	}
}

// What convert makes of real configurations is what flatnetd takes, but where the file does not say all: a cluster's network needs the cluster, and
// a NIC that is not named has to be.
func TestConvertedNetworksAreTaken(t *testing.T) {
	topo := kerneltest.NewTopology(t)
	host, lan := topo.Machine("host"), topo.Machine("lan")
	topo.Cable(host, "eth0", lan, "eth0")
	topo.Cable(host, "eth1", lan, "eth1")
	host.IP("address add 192.0.2.1/24 dev eth0", "route add default via 192.0.2.2", "link add br0 type bridge", "link set br0 up")
	h := rig.New(t, host)
	m := moving{t: t, dir: t.TempDir()}
	files, err := filepath.Glob("../../api/conflist/testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no configurations", err)
	}
	taken := 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if ext := filepath.Ext(f.Name); ext != ".conf" && ext != ".conflist" || strings.HasSuffix(file, "refused.txtar") {
				continue
			}
			conf := m.path(f.Name)
			if err := os.WriteFile(conf, f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
			m.convert(conf)
			out, err := h.Try("apply", "--dry-run", "-f", m.path("lab.yaml"))
			switch text, _ := os.ReadFile(m.path("lab.yaml")); {
			case err == nil:
				taken++
			case bytes.Contains(text, []byte("mode: cluster")) && strings.Contains(out, "FN2133"):
			case f.Name == "macvlan-whereabouts.conf" && strings.Contains(out, "FN1308"):
			default:
				t.Errorf("%s is\n%s\nand is refused: %s", f.Name, text, out)
			}
		}
	}
	if taken < 10 {
		t.Errorf("only %d networks were taken", taken)
	}
}
