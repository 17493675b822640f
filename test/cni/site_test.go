// Package cni_test lets those use flatnet who attach containers: libcni and cnitool, containerd by its CRI and by ctr, podman. All of them are the
// real programs, on two made-up hosts with a cluster network between them.
package cni_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/lab"
	"github.com/flatnet/flatnet/test/rig"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// site is two hosts in a cluster, h1 and h2, at 192.0.2.1 and 192.0.2.2.
type site struct {
	*testing.T
	*lab.Lab
	nodes []*node
	dir   string // of what all hosts read: the image
	group string // in the names of all cgroups of containers: they are this machine's
}

// node is a host with container runtimes, none of which has been started.
type node struct {
	*lab.Host
	s          *site
	containerd *exec.Cmd
}

func newSite(t *testing.T) *site {
	t.Helper()
	for _, program := range []string{"flatnet", "flatnet-etcd", "flatnet-cni"} {
		rig.Program(t, program)
	}
	hosts := []lab.HostSpec{{Name: "h1"}, {Name: "h2"}}
	s := &site{T: t, dir: t.TempDir(), group: "flatnet-cni-" + strings.ToLower(rand.Text()[:8])}
	t.Cleanup(s.removeGroups) // after the lab has ended all that is in them
	l, err := lab.Up(t.Context(), lab.Spec{Hosts: hosts, Bin: filepath.Dir(rig.Program(t, "flatnetd")),
		Init: []string{"--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"}})
	if err != nil {
		t.Fatal(lab.Text(err))
	}
	s.Lab = l
	t.Cleanup(s.down)
	s.makeImage()
	for _, h := range l.Hosts() {
		n := &node{Host: h, s: s}
		s.nodes = append(s.nodes, n)
		n.equip()
		n.warm(flatnetPlugin)
		n.warm(`{"type": "flatnet", "network": "default"}`)
	}
	return s
}

func (s *site) down() {
	for _, n := range s.nodes {
		if s.Failed() {
			s.Logf("%s: flatnetd:\n%s", n.Name, tail(n.Log(), 60))
			s.Logf("%s: containerd:\n%s", n.Name, tail(n.read(containerdLog), 30))
		}
	}
	if err := s.Lab.Down(context.Background()); err != nil {
		s.Error(lab.Text(err))
	}
}

// part is a story of the same site.
func (s *site) part(name string, tell func(s *site)) {
	s.Helper()
	outer := s.T
	defer func() { s.T = outer }() // the nodes know the site, not its test
	outer.Run(name, func(t *testing.T) {
		s.T = t
		tell(s)
	})
}

// h is host n, from 1.
func (s *site) h(n int) *node { return s.nodes[n-1] }

// must fails the test when there is an error.
func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(lab.Text(err))
	}
}

// eventually waits until is returns nothing: else it is what is still missing.
func (s *site) eventually(what string, is func() error) {
	s.Helper()
	var last error
	for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if last = is(); last == nil {
			return
		}
	}
	s.Fatalf("not within %v: %s: %v", rig.Patience, what, last)
}

// want compares two texts.
func (s *site) want(what, got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
	}
}

// sh carries a shell's lines out on the host and returns what they printed; the test fails when they do.
func (n *node) sh(format string, args ...any) string {
	n.s.Helper()
	out, err := n.trySh(format, args...)
	if err != nil {
		n.s.Fatal(err)
	}
	return out
}

func (n *node) trySh(format string, args ...any) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return n.Exec(ctx, "bash", "-ec", fmt.Sprintf(format, args...))
}

// write makes a file of the host.
func (n *node) write(path, text string) {
	n.s.Helper()
	n.s.must(errors.Join(os.MkdirAll(filepath.Dir(n.Path(path)), 0o755), os.WriteFile(n.Path(path), []byte(text), 0o644)))
}

func (n *node) read(path string) string {
	text, _ := os.ReadFile(n.Path(path))
	return string(text)
}

// equip gives a host what runtimes need: cgroups, and a directory of CNI plugins with ours among Debian's.
func (n *node) equip() {
	n.s.Helper()
	plugin, err := os.ReadFile(rig.Program(n.s.T, "flatnet-cni"))
	n.s.must(err)
	n.sh(`
		rm -f /etc/cni/net.d/*
		mkdir -p /run/opt/new /run/opt/work
		mount -t overlay overlay -o lowerdir=/opt,upperdir=/run/opt/new,workdir=/run/opt/work /opt
		mkdir -p /opt/cni/bin && ln -s -t /opt/cni/bin /usr/lib/cni/*
		%s`, mountGroups())
	n.write("/opt/cni/bin/flatnet", string(plugin))
	n.s.must(os.Chmod(n.Path("/opt/cni/bin/flatnet"), 0o755))
}

// warm attaches a container and detaches it, so that what comes with a host's first one, and stays, is there: the bridge's link-local address, the
// tables of plugins.
func (n *node) warm(plugins ...string) {
	n.s.Helper()
	r, c := n.libcni(conflist("warm", "1.0.0", plugins...)), n.container("warm", object{"portMappings": []object{{"hostPort": 8084, "containerPort": 80, "protocol": "tcp"}}})
	r.add(c)
	r.end(c)
}

// conflist makes a network configuration the host's only one. Its text may have plugins in several lines.
func (n *node) conflist(name, version string, plugins ...string) {
	n.s.Helper()
	n.sh(`rm -f /etc/cni/net.d/*`)
	n.addConflist(name, version, plugins...)
}

func (n *node) addConflist(name, version string, plugins ...string) {
	n.s.Helper()
	n.write("/etc/cni/net.d/10-"+name+".conflist", conflist(name, version, plugins...))
}

func conflist(name, version string, plugins ...string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": %q, "plugins": [%s]}`, version, name, strings.Join(plugins, ","))
}

// start starts a program of the host that stays.
func (n *node) start(log string, command ...string) *exec.Cmd {
	n.s.Helper()
	out, err := os.OpenFile(n.Path(log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	n.s.must(err)
	defer out.Close()
	cmd := n.Command(context.Background(), command...)
	cmd.Stdout, cmd.Stderr = out, out
	n.s.must(n.Machine.Start(cmd))
	return cmd
}

// mountGroups are the lines that show a host the cgroups of version 1 where this machine has them: those of version 2 have no controllers then,
// and containers cannot be without. Nothing where there are only those of version 2.
func mountGroups() string {
	var lines bytes.Buffer
	for _, c := range controllers() {
		fmt.Fprintf(&lines, "mkdir /sys/fs/cgroup/%[1]s; mount -t cgroup -o %[1]s cgroup /sys/fs/cgroup/%[1]s\n", c)
	}
	if lines.Len() == 0 {
		return ""
	}
	return "umount -l /sys/fs/cgroup; mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup\n" + lines.String() +
		"mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified\n"
}

// controllers are those of cgroups of version 1: the second field of /proc/cgroups is the number of a hierarchy, 0 that of version 2.
func controllers() []string {
	text, _ := os.ReadFile("/proc/cgroups")
	var all []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 4 && f[0] != "#subsys_name" && f[1] != "0" {
			all = append(all, f[0])
		}
	}
	return all
}

// removeGroups removes the containers' cgroups, the deepest first. Some controllers have them below the group that the test itself is in.
func (s *site) removeGroups() {
	var ours []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/"+s.group) {
			ours = append(ours, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(ours) {
		if err := os.Remove(dir); err != nil {
			s.Errorf("left behind: %v", err)
		}
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
