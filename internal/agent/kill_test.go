package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/process"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/journal"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/local"
	"golang.org/x/sys/unix"
)

// The test binary is executed again as a daemon in a namespace; these tell it what to do there.
const (
	killDir   = "FLATNET_KILL_DIR"   // where its files are
	killStory = "FLATNET_KILL_STORY" // what it changes
	killAfter = "FLATNET_KILL_AFTER" // the kind of effect to die after; empty: print the kinds and live
	killCheck = "FLATNET_KILL_CHECK" // not empty: start after a death, and judge
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(killDir) == "":
		os.Exit(m.Run())
	case os.Getenv(killCheck) != "":
		os.Exit(report(checkAfterDeath(os.Getenv(killDir))))
	}
	os.Exit(report(changeAndDie(os.Getenv(killDir), os.Getenv(killStory), os.Getenv(killAfter))))
}

func report(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKilledDaemonsConverge kills a real daemon with SIGKILL after each kind of effect on a real store, journal and kernel,
// and starts another one.
func TestKilledDaemonsConverge(t *testing.T) {
	kerneltest.Root(t)
	for _, story := range killStories() {
		t.Run(strings.ReplaceAll(story.name, " ", "-"), func(t *testing.T) {
			r := newKillRig(t)
			out, err := r.daemon(killStory+"="+story.name, killAfter+"=")
			if err != nil {
				t.Fatalf("without a death: %v\n%s", err, out)
			}
			r.check("no death")
			kinds := strings.Split(strings.TrimSpace(out), "\n")
			if len(kinds) < 2 {
				t.Fatalf("kinds of effects: %q", out)
			}
			for _, kind := range kinds {
				out, err := r.daemon(killStory+"="+story.name, killAfter+"="+kind)
				var ended *exec.ExitError
				if !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("after %s the daemon was to be killed; got %v\n%s", kind, err, out)
				}
				r.check(kind)
			}
		})
	}
}

// killRig is a namespace with directories for daemons.
type killRig struct {
	t       *testing.T
	machine *kerneltest.Machine
	dir     string
}

func newKillRig(t *testing.T) killRig {
	topo := kerneltest.NewTopology(t)
	host, lan := topo.Machine("host"), topo.Machine("lan")
	topo.Cable(host, "eth0", lan, "eth0")
	topo.Cable(host, "eth1", lan, "eth1")
	host.IP("address add 192.0.2.10/24 dev eth0", "route add default via 192.0.2.1")
	dir, err := os.MkdirTemp("", "flatnet-kill-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(filepath.Join(dir, "run", "bpf"), unix.MNT_DETACH) // of what failed on the way
		_ = unix.Unmount(filepath.Join(dir, "netns"), unix.MNT_DETACH)
		_ = unix.Unmount(theirs(dir), unix.MNT_DETACH)
		_ = unix.Unmount(filepath.Dir(theirs(dir)), unix.MNT_DETACH)
		os.RemoveAll(dir)
	})
	return killRig{t, host, dir}
}

// daemon runs the test binary as a daemon there.
func (r killRig) daemon(env ...string) (string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), killDir+"="+r.dir), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := r.machine.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	err := cmd.Wait()
	return out.String() + errs.String(), err
}

func (r killRig) check(after string) {
	r.t.Helper()
	if out, err := r.daemon(killCheck + "=1"); err != nil {
		r.t.Errorf("killed after %q, the next daemon: %v\n%s", after, err, out)
	}
}

type killedStory struct {
	name   string
	before []func(*Agent) error
	change func(*Agent) error
}

func killStories() []killedStory {
	ctx := context.Background()
	create := func(name string, spec api.WorkloadSpec) func(*Agent) error {
		return func(a *Agent) error {
			spec.Name = name
			_, err := a.CreateWorkload(ctx, spec, false)
			return err
		}
	}
	lab := func(a *Agent) error {
		_, err := a.CreateNetwork(ctx, network("lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}}}), false)
		return err
	}
	cable := func(a *Agent) error {
		_, err := a.CreateNetwork(ctx, network("wire", api.NetworkSpec{Mode: "cable"}), false)
		return err
	}
	publish := func(a *Agent) error {
		_, err := a.AddForwards(ctx, []api.ForwardSpec{{Publish: "8080:80", Workload: "web", Network: "lab"}, {Publish: "5000-5010:5000-5010/udp", Workload: "web", Network: "lab"}}, false)
		return err
	}
	deleteNetwork := func(a *Agent) error { _, err := a.DeleteNetwork(ctx, "lab", true, false); return err }
	web := create("web", api.WorkloadSpec{Endpoints: on("lab"), Publish: []string{"9090:90"}})
	all := []func(*Agent) error{lab, web, publish}
	edit := func(e api.NetworkEdit) func(*Agent) error {
		return func(a *Agent) error {
			_, err := a.EditNetwork(ctx, "lab", e, consent{renumber: true, force: true}, false)
			return err
		}
	}
	connect := func(a *Agent) error {
		_, err := a.Connect(ctx, "web", api.EndpointSpec{Network: DefaultNetwork, Priority: 1}, false)
		return err
	}
	id := model.Attachment{Config: "pods", Container: "c1", IfName: "eth0"}
	add := func(id model.Attachment, network string, publish ...string) func(*Agent) error {
		return func(a *Agent) error {
			path := theirs(filepath.Dir(a.config.RunDir))
			if err := netns.Create(path); err != nil {
				return err
			}
			ns, err := netns.Open(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			_, _, err = a.Attach(ctx, id, api.WorkloadSpec{Netns: path, Publish: publish, Endpoints: []api.EndpointSpec{{Network: network}}}, ns)
			return err
		}
	}
	return []killedStory{
		{"attach a container", []func(*Agent) error{lab}, add(id, "lab", "8080:80")},
		{"detach a container", []func(*Agent) error{lab, add(id, "lab", "8080:80")}, func(a *Agent) error { return a.Detach(ctx, id) }},
		{"collect one of two", []func(*Agent) error{lab, add(id, "lab", "8080:80"), add(model.Attachment{Config: "more", Container: "c1", IfName: "eth1"}, DefaultNetwork)},
			func(a *Agent) error { return a.Collect(ctx, "pods", nil) }},
		{"create a network", nil, lab},
		{"create a workload", []func(*Agent) error{lab}, web},
		{"delete a workload", all, func(a *Agent) error { _, err := a.DeleteWorkload(ctx, "web", false, false); return err }},
		{"join by a cable", []func(*Agent) error{cable, create("a", api.WorkloadSpec{Endpoints: on("wire")})}, create("b", api.WorkloadSpec{Endpoints: on("wire")})},
		{"publish", []func(*Agent) error{lab, web}, publish},
		{"delete a network", all, deleteNetwork},
		{"change a network", all, func(a *Agent) error {
			_, err := a.Apply(ctx, []api.Manifest{network("lab", api.NetworkSpec{MTU: 1400, IsolatePorts: true, Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}, {Subnet: "10.9.0.0/24"}}})}, consent{}, false)
			return err
		}},
		{"connect", all, connect},
		{"disconnect", append(slices.Clone(all), connect), func(a *Agent) error { _, err := a.Disconnect(ctx, "web", "lab", true, false); return err }},
		{"renumber", all, edit(api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.9.0.0/16", Gateway: "10.9.0.254"}, {Subnet: "fd08::/48"}}})},
		{"bridge a NIC", all, edit(api.NetworkEdit{Mode: ptr("bridged"), Uplink: ptr("eth1")})},
		{"route again", append(slices.Clone(all), edit(api.NetworkEdit{Mode: ptr("bridged"), Uplink: ptr("eth1")})), edit(api.NetworkEdit{Mode: ptr("routed"), Masquerade: ptr(true)})},
		{"routed by proxy", all, edit(api.NetworkEdit{Mode: ptr("routed"), ProxyARP: ptr(true), Uplink: ptr("eth0"), Subnets: []api.SubnetSpec{{Subnet: "192.0.2.128/26"}}})},
		{"isolate", all, edit(api.NetworkEdit{Mode: ptr("isolated")})},
		{"another bridge", all, edit(api.NetworkEdit{Bridge: ptr("br7")})},
		{"uninstall", all, func(a *Agent) error { _, err := a.Uninstall(ctx, false, false); return err }},
	}
}

// killed is a daemon with the real effects.
type killed struct {
	*Agent
	host    *host
	end     func() error
	after   string // the kind of effect to die after, once armed
	options Options

	mu    sync.Mutex
	armed bool
	kinds []string
}

// startKilled opens everything as Serve does, but the socket.
func startKilled(dir, after string) (*killed, error) {
	o := Options{StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), NetnsDir: filepath.Join(dir, "netns"), Log: slog.New(slog.DiscardHandler)}
	k := &killed{after: after, options: o}
	log, _, err := journal.Open(o.RunDir, "boot")
	if err != nil {
		return nil, err
	}
	kept, err := local.Open(o.StateDir)
	if err != nil {
		return nil, err
	}
	if k.host, err = openHost(o, new(processors)); err != nil {
		return nil, err
	}
	watcher, err := process.NewWatcher()
	if err != nil {
		return nil, err
	}
	k.Agent = New(Config{RunDir: o.RunDir, NetnsDir: o.NetnsDir, BootID: "boot"}, Deps{
		Store: killedStore{kept, k}, Journal: killedJournal{log, k}, Kernel: killedKernel{k.host.Kernel, k}, Host: k.host, Namespaces: namespaces{k.host.Kernel},
		Processes: processes{watcher}, Log: o.Log, Remove: func() error { return k.did("remove files", removeFiles(o)) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Agent.Run(ctx) }()
	k.end = func() error {
		cancel()
		err := <-done
		return errors.Join(err, k.host.Close(), kept.Close(), log.Close())
	}
	select {
	case <-k.Agent.Ready():
		return k, nil
	case err := <-done:
		done <- err
		return k, err
	}
}

// did notes an effect, and dies after the one to die after.
func (k *killed) did(kind string, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.armed {
		return err
	}
	if k.after == kind {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	if !slices.Contains(k.kinds, kind) {
		k.kinds = append(k.kinds, kind)
	}
	return err
}

type killedStore struct {
	*local.Store
	k *killed
}

func (s killedStore) Write(ctx context.Context, changes ...store.Change) ([]store.Object, error) {
	objects, err := s.Store.Write(ctx, changes...)
	return objects, s.k.did("store write", err)
}

type killedJournal struct {
	*journal.Journal
	k *killed
}

func (j killedJournal) Put(w model.Workload) error {
	return j.k.did(fmt.Sprintf("journal put, settling %v", w.Settling), j.Journal.Put(w))
}

func (j killedJournal) Delete(name string) error {
	return j.k.did("journal delete", j.Journal.Delete(name))
}

// killedKernel sends a plan up to the first step of each new kind by itself.
type killedKernel struct {
	reconcile.Kernel
	k *killed
}

func (x killedKernel) Apply(ctx context.Context, netns string, p dataplane.Plan) error {
	for i, s := range p {
		if kind := stepKind(netns, s); x.k.dieAfter(kind) {
			if err := x.Kernel.Apply(ctx, netns, p[:i+1]); err != nil {
				return err
			}
			return x.k.did(kind, nil)
		}
	}
	for _, s := range p {
		_ = x.k.did(stepKind(netns, s), nil) // only noted
	}
	return x.Kernel.Apply(ctx, netns, p)
}

func (k *killed) dieAfter(kind string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.armed && k.after == kind
}

func stepKind(netns string, s dataplane.Step) string {
	where := "the host"
	if netns != dataplane.HostNetns {
		where = "a workload"
	}
	what := strings.ToLower(reflect.TypeOf(s.Object).Name())
	if l, ok := s.Object.(dataplane.Link); ok {
		what = string(l.Kind)
	}
	return fmt.Sprintf("%s %s in %s", s.Op, what, where)
}

// changeAndDie plays a story as a daemon.
func changeAndDie(dir, name, after string) error {
	i := slices.IndexFunc(killStories(), func(s killedStory) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("no story %q", name)
	}
	story := killStories()[i]
	k, err := startKilled(dir, after)
	if err != nil {
		return err
	}
	for _, step := range story.before {
		if err := step(k.Agent); err != nil {
			return err
		}
	}
	k.mu.Lock()
	k.armed = true
	k.mu.Unlock()
	if err := story.change(k.Agent); err != nil {
		return err
	}
	if after != "" {
		time.Sleep(5 * time.Second) // it may come of following the host, which is a goroutine of its own
		return fmt.Errorf("no effect of kind %q came", after)
	}
	k.mu.Lock()
	fmt.Println(strings.Join(k.kinds, "\n"))
	k.armed = false
	k.mu.Unlock()
	if err := k.end(); !errors.Is(err, ErrUninstalled) {
		return err
	}
	return nil
}

// checkAfterDeath starts a daemon, judges what it made of what it found, and removes everything.
func checkAfterDeath(dir string) error {
	k, err := startKilled(dir, "")
	if errors.Is(err, ErrUninstalled) {
		return nothingLeft(k)
	}
	if err != nil {
		return err
	}
	errs := []error{drifted(k), twiceGiven(k)}
	ctx := context.Background()
	for _, w := range k.Workloads() {
		_, err := k.DeleteWorkload(ctx, w.Name, true, false)
		errs = append(errs, err)
	}
	for _, n := range k.Networks() {
		_, err := k.DeleteNetwork(ctx, n.Name, true, false)
		errs = append(errs, err)
	}
	// A new installation for the next death.
	_, err = k.Uninstall(ctx, false, false)
	errs = append(errs, err, nothingLeft(k))
	if err := k.end(); !errors.Is(err, ErrUninstalled) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func drifted(k *killed) error {
	changes, err := k.rec.Drift(context.Background())
	for _, c := range changes {
		err = errors.Join(err, fmt.Errorf("namespace %q is not as rendered; to do:\n%s", c.Netns, c.Plan))
	}
	return err
}

func twiceGiven(k *killed) error {
	k.Agent.mu.RLock() // it follows the host meanwhile
	defer k.Agent.mu.RUnlock()
	seen := map[netip.Addr]string{}
	var err error
	for name, w := range k.state.view.Workloads {
		for _, e := range w.Endpoints {
			for _, a := range e.Addrs {
				if other, twice := seen[a]; twice {
					err = errors.Join(err, fmt.Errorf("%s is given to %s and %s", a, other, name))
				}
				seen[a] = name
			}
		}
	}
	return err
}

// theirs is a namespace that a container runtime made.
func theirs(dir string) string { return filepath.Join(dir, "theirs", "c1") }

func nothingLeft(k *killed) error {
	have, err := k.host.Observe(context.Background(), dataplane.HostNetns)
	if path := theirs(filepath.Dir(k.options.RunDir)); netns.Exists(path) {
		inside, failed := k.host.Observe(context.Background(), path)
		delete(inside, dataplane.Link{Name: "lo"})
		maps.Copy(have, inside)
		err = errors.Join(err, failed)
	}
	if len(have) > 0 {
		err = errors.Join(err, fmt.Errorf("left in the kernel:\n%s", kerneltest.Text(have)))
	}
	files, _ := os.ReadDir(k.options.NetnsDir)
	for _, f := range files {
		err = errors.Join(err, fmt.Errorf("namespace %s is left", f.Name()))
	}
	return err
}
