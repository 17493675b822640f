package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/conflist"
	"github.com/flatnet/flatnet/internal/agent/checkup"
)

// installed puts a configuration of flatnet's where runtimes look, below a root.
func installed(t *testing.T, root, file string, s conflist.Settings) string {
	path := filepath.Join(root, "etc/cni/net.d", file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, s.Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Who has set a container runtime up hears from doctor that its containers get no network, from which file on, and what to type; of a
// configuration for another daemon, and on a host without runtimes, there is nothing to tell.
func TestDoctorKnowsOfContainers(t *testing.T) {
	ctx, root := context.Background(), t.TempDir()
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "pods", api.NetworkSpec{})
	socket := filepath.Join(w.runDir, AttachName)
	found := func() string {
		var b strings.Builder
		for _, f := range d.containerFindings(ctx, root) {
			if f.Code != checkup.CodeNoContainers {
				t.Errorf("found %+v", f)
			}
			b.WriteString(f.What + " | " + f.Owner + " | " + f.Fix + "\n")
		}
		return b.String()
	}
	expect := func(when, want string) {
		t.Helper()
		if got := found(); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", when, got, want)
		}
	}
	must[api.Changed[api.Network]](t)(d.StopNetwork(ctx, "pods", false))
	expect("no runtime is there", "")
	installed(t, root, "05-other.conflist", conflist.Settings{Name: "other", Networks: []string{"nowhere"}, Socket: "/run/second/attach.sock"})
	if err := syscall.Mkfifo(filepath.Join(root, "etc/cni/net.d/00-pipe.conf"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect("another daemon's, and a pipe", "")
	file := installed(t, root, "10-flatnet.conflist", conflist.Settings{Name: "cluster", Networks: []string{"pods"}, Socket: socket})
	const start = "flatnet net start pods"
	expect("the network is stopped", `containers that start get no network: network "pods" is not started | `+file+" | start it first: "+start+"\n")

	must[api.Changed[api.Network]](t)(d.StartNetwork(ctx, "pods", false))
	expect("it is started", "")
	w.kernel.AddNetns("/run/netns/a")
	must[api.Workload](t)(d.add("a", "cluster", api.EndpointSpec{Network: "pods"}))
	expect("and has a container", "")
	must[api.Changed[api.Network]](t)(d.StopNetwork(ctx, "pods", false))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expect("with a container, from a configuration elsewhere", `containers that start get no network: network "pods" is not started | CNI configuration cluster | start it first: `+start+"\n"+
		`containers are cut off: network "pods" is not started | a | `+start+"\n")
}
