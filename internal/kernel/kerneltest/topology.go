package kerneltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Topology is a set of machines, a network namespace each, with cables between them. When the test ends all of it is taken
// down, and the test fails when something is left.
//
//	topo := kerneltest.NewTopology(t)
//	host, lan := topo.Machine("host"), topo.Machine("lan")
//	topo.Cable(host, "eth0", lan, "eth0")
//	host.IP("address add 192.0.2.1/24 dev eth0", "link set eth0 up")
type Topology struct {
	t        testing.TB
	prefix   string
	machines []*Machine
}

// NewTopology returns one without machines. Its namespaces' names begin with a prefix of this process.
func NewTopology(t testing.TB) *Topology {
	t.Helper()
	Root(t)
	topo := &Topology{t: t, prefix: fmt.Sprintf("kt%d-", os.Getpid())}
	t.Cleanup(topo.tearDown)
	return topo
}

// Machine makes a namespace with lo up. DAD is off in it, so that addresses serve at once.
func (topo *Topology) Machine(name string) *Machine {
	topo.t.Helper()
	ns := topo.prefix + name
	m := &Machine{t: topo.t, Name: name, Netns: ns, Path: filepath.Join("/run/netns", ns)}
	run(topo.t, "", "ip", "netns", "add", ns)
	topo.machines = append(topo.machines, m)
	m.IP("link set lo up")
	m.Sysctl("net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0")
	return m
}

// Cable joins two machines by a veth; both ends are up.
func (topo *Topology) Cable(a *Machine, aLink string, b *Machine, bLink string) {
	topo.t.Helper()
	a.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", aLink, bLink, b.Netns), "link set "+aLink+" up")
	b.IP("link set " + bLink + " up")
}

func (topo *Topology) tearDown() {
	for _, m := range topo.machines {
		if err := exec.Command("ip", "netns", "del", m.Netns).Run(); err != nil {
			topo.t.Errorf("remove machine %s: %v", m.Name, err)
		}
	}
	left, _ := filepath.Glob("/run/netns/" + topo.prefix + "*")
	if len(left) != 0 {
		topo.t.Errorf("left behind: %s", strings.Join(left, " "))
	}
}

// Machine is a network namespace that plays a machine, or one that was made elsewhere.
type Machine struct {
	t     testing.TB
	Name  string
	Netns string // its name under /run/netns
	Path  string
}

// At is a Machine for a namespace that exists, for example a workload's. Nobody removes it.
func At(t testing.TB, name, path string) *Machine {
	return &Machine{t: t, Name: name, Netns: filepath.Base(path), Path: path}
}

// IP carries out iproute2 commands in one process, a line each: `link set eth0 up`.
func (m *Machine) IP(lines ...string) {
	m.t.Helper()
	run(m.t, strings.Join(lines, "\n")+"\n", "nsenter", "--net="+m.Path, "ip", "-batch", "-")
}

// Sysctl writes values below /proc/sys: `net/ipv4/ip_forward=1`.
func (m *Machine) Sysctl(assignments ...string) {
	m.t.Helper()
	m.Do(func() error {
		for _, a := range assignments {
			name, value, _ := strings.Cut(a, "=")
			if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// Run carries out a command there and returns what it printed; the test fails when the command does.
func (m *Machine) Run(command ...string) string {
	m.t.Helper()
	return run(m.t, "", "nsenter", append([]string{"--net=" + m.Path}, command...)...)
}

// Try is Run for a command that may fail.
func (m *Machine) Try(command ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"--net=" + m.Path}, command...)...).CombinedOutput()
	return string(out), err
}

// Do calls f on a thread that is in the namespace.
func (m *Machine) Do(f func() error) {
	m.t.Helper()
	if err := m.in(f); err != nil {
		m.t.Fatalf("in %s: %v", m.Name, err)
	}
}

// Start starts a process there.
func (m *Machine) Start(cmd *exec.Cmd) error { return m.in(cmd.Start) }

func (m *Machine) in(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and no other gets this namespace
		done <- enter(m.Path, f)
	}()
	return <-done
}

func enter(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	return f()
}

// Dump is what there is to see of the machine's network, for a failure's report.
func (m *Machine) Dump() string {
	var b strings.Builder
	for _, command := range []string{"ip -d address", "ip route show table all", "ip -6 route show table all", "ip neigh", "bridge -d link",
		"nft list ruleset", "conntrack -L"} {
		out, err := m.Try(strings.Fields(command)...)
		fmt.Fprintf(&b, "## %s: %s\n%s", m.Name, command, out)
		if err != nil {
			fmt.Fprintf(&b, "(%v)\n", err)
		}
	}
	return b.String()
}

func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, out, stdin)
	}
	return string(out)
}

// Eventually waits until ok holds, for at most a minute.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("gave up waiting for %s", what)
}
