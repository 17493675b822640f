package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/agent/metrics"
	"github.com/flatnet/flatnet/internal/agent/process"
	"github.com/flatnet/flatnet/internal/agent/socket"
	"github.com/flatnet/flatnet/internal/journal"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/bpf"
	"github.com/flatnet/flatnet/internal/kernel/foreign"
	"github.com/flatnet/flatnet/internal/kernel/nft"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store/local"
	"golang.org/x/sync/errgroup"
)

// Options are what the command line says.
type Options struct {
	StateDir string // of what is kept for ever
	RunDir   string // of what is kept until the next boot
	NetnsDir string // of the namespaces that are made for workloads
	Socket   string // empty: RunDir/flatnet.sock
	Group    string // whose members may look; empty: root only
	Version  string
	Log      *slog.Logger
	Ready    func() // called once the host is as asked and requests are answered; may be nil

	HostLocalDir string // of CNI's host-local plugin: what it has given is not given again; empty: nobody looks

	GroupChanges bool // members of Group may change too
	OneProcessor bool // Go code of the whole program is to run on one, but for what computes for long

	Elsewhere *Elsewhere // a cluster in another system's records that this host is a node of; nil: none

	// Attach serves CNI plugins at RunDir/attach.sock, from when the host is as asked until ctx ends; nil: nobody does.
	Attach func(ctx context.Context, a *Agent, l net.Listener) error
}

// clusterDir is where this host keeps what it knows of its cluster.
func (o Options) clusterDir() string {
	if o.Elsewhere != nil {
		return filepath.Join(o.StateDir, "elsewhere")
	}
	return filepath.Join(o.StateDir, clusterDir)
}

// SocketName is the socket's name in RunDir, AttachName that of the one for CNI plugins.
const (
	SocketName = "flatnet.sock"
	AttachName = "attach.sock"
)

// Serve is the whole daemon: it opens everything, from the store to the socket, and runs until ctx ends, which leaves the
// kernel as it is, or until an uninstall, which is ErrUninstalled.
func Serve(ctx context.Context, o Options) (err error) {
	if o.Socket == "" {
		o.Socket = filepath.Join(o.RunDir, SocketName)
	}
	group, err := groupOf(o.Group)
	if err != nil {
		return err
	}
	var d doors
	defer func() { err = errors.Join(err, d.close(), leaveDirs(err, o)) }()
	if err := d.open(ctx, o); err != nil {
		return err
	}
	a, err := d.agent(o)
	if err != nil {
		return err
	}
	takeBallast()
	if o.OneProcessor {
		d.processors.keepOne()
	}
	mux := http.NewServeMux()
	mux.Handle("/", a.Handler())
	mux.Handle("GET /metrics", metrics.Handler(func() []metrics.Value { return values(a.Counters()) }))
	server := socket.Server{Handler: mux, Access: socket.Access{Group: group, GroupChanges: o.GroupChanges}, Log: o.Log, Panicked: a.Panicked, Grace: 3 * time.Second}

	// The servers end after the agent, so that the answer to an uninstall still goes out.
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(running) })
	once := func(serve func() error) {
		g.Go(func() error {
			select {
			case <-a.Ready():
				return serve()
			case <-running.Done():
				return nil
			}
		})
	}
	once(func() error {
		if o.Ready != nil {
			o.Ready()
		}
		return server.Serve(running, d.listener)
	})
	if o.Attach != nil {
		once(func() error { return o.Attach(running, a, d.attach) })
	}
	return g.Wait()
}

// doors are all that the daemon has open.
type doors struct {
	boot     string
	journal  *journal.Journal
	store    *local.Store
	listener *socket.Listener
	attach   *socket.Listener // nil: nobody serves it
	host     *host

	processors processors

	closers []func() error
}

func (d *doors) closing(c func() error) { d.closers = append(d.closers, c) }

// close closes all in the opposite order.
func (d *doors) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}

// open takes what only one daemon can have, then the kernel. What was opened before an error is for close.
func (d *doors) open(ctx context.Context, o Options) (err error) {
	if d.boot, err = bootID(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.RunDir, 0o755); err != nil {
		return err
	}
	c := &claims{deadline: time.Now().Add(claimWait), log: o.Log}
	var report journal.Report
	d.journal, err = claim(ctx, c, func() (j *journal.Journal, err error) {
		j, report, err = journal.Open(o.RunDir, d.boot)
		return j, err
	})
	if err != nil {
		return err
	}
	d.closing(d.journal.Close)
	o.Log.Info("journal", "report", report.String())
	if d.store, err = claim(ctx, c, func() (*local.Store, error) { return local.Open(o.StateDir) }); err != nil {
		return err
	}
	d.closing(d.store.Close)
	only, err := claim(ctx, c, socket.ClaimHost)
	if err != nil {
		return err
	}
	d.closing(only.Close)
	if d.listener, err = d.listen(ctx, c, o.Socket, o.Group); err != nil {
		return err
	}
	if o.Attach != nil {
		if d.attach, err = d.listen(ctx, c, filepath.Join(o.RunDir, AttachName), ""); err != nil {
			return err
		}
	}
	if d.host, err = openHost(o, &d.processors); err != nil {
		return err
	}
	d.closing(d.host.Close)
	for _, file := range d.host.Damaged() {
		o.Log.Warn("a file could not be read: what was before flatnet is not known and will not be put back", "kept", file, "see", "flatnet doctor")
	}
	return nil
}

func (d *doors) listen(ctx context.Context, c *claims, path, group string) (*socket.Listener, error) {
	l, err := claim(ctx, c, func() (*socket.Listener, error) { return socket.Listen(path, group) })
	if err == nil {
		d.closing(func() error { return ignoreClosed(l.Close()) })
	}
	return l, err
}

// agent is the Agent with everything that is open.
func (d *doors) agent(o Options) (*Agent, error) {
	watcher, err := process.NewWatcher()
	if err != nil {
		return nil, err
	}
	kept := map[string]Kept{"journal": d.journal, "socket": d.listener, "notes on namespaces and sysctls": d.host.Kernel}
	if d.attach != nil {
		kept["socket for CNI plugins"] = d.attach
	}
	return New(Config{RunDir: o.RunDir, NetnsDir: o.NetnsDir, BootID: d.boot, Version: o.Version, ClusterDir: o.clusterDir(), HostLocalDir: o.HostLocalDir, Elsewhere: o.Elsewhere}, Deps{
		Store: d.store, Journal: d.journal, Kernel: d.host.Kernel, Host: d.host, Namespaces: namespaces{d.host.Kernel}, Processes: processes{watcher},
		Kept: kept, Foreign: rules{}, Surveyor: d.host.Kernel, Log: o.Log, processors: &d.processors, Remove: func() error {
			return errors.Join(d.host.Leave(), removeCluster(o.clusterDir()), removeFiles(o))
		},
	}), nil
}

func groupOf(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	return socket.GroupID(name)
}

func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) || err != nil && strings.Contains(err.Error(), "use of closed network connection") {
		return nil
	}
	return err
}

// host is package kernel as the agent asks for it.
type host struct {
	*kernel.Kernel
	features map[string]string
}

// openHost opens the kernel's sockets in the namespace that the daemon runs in. What the kernel lacks of BPF is a feature less,
// and no error.
func openHost(o Options, p *processors) (*host, error) {
	h := &host{features: map[string]string{}}
	ruleset, err := nft.New(nft.Config{})
	if err != nil {
		return nil, err
	}
	c := kernel.Config{RunDir: o.RunDir, Nft: ruleset, TakeOver: o.Elsewhere != nil, Another: p.another}
	programs, err := bpf.New(bpf.Config{RunDir: o.RunDir})
	var lacks *bpf.Unsupported
	switch {
	case errors.As(err, &lacks):
		h.features[featureLoopback6] = "no: " + lacks.Error()
	case err != nil:
		return nil, errors.Join(err, ruleset.Close())
	default:
		c.BPF, h.features[featureLoopback6] = programs, "yes"
	}
	h.Kernel, err = kernel.New(c)
	if err != nil {
		return nil, errors.Join(err, ruleset.Close())
	}
	return h, nil
}

// featureLoopback6 is whether the host reaches published ports at [::1].
const featureLoopback6 = "ipv6-loopback-forwards"

// Features says what the kernel was found to have.
func (h *host) Features() map[string]string { return h.features }

// Node tells also what of BPF works here.
func (h *host) Node(ctx context.Context) (n model.Node, err error) {
	n, err = h.Kernel.Node(ctx)
	n.LoopbackBPF = h.features[featureLoopback6] == "yes"
	return n, err
}

// Listeners are the host's sockets that wait for peers.
func (h *host) Listeners(ctx context.Context) ([]Listener, error) {
	all, err := h.Kernel.Listeners(ctx)
	list := make([]Listener, len(all))
	for i, l := range all {
		list[i] = Listener{Proto: l.Proto, Addr: l.Addr, V6Only: l.V6Only, Port: l.Port}
	}
	return list, err
}

// Owner names the process behind a listener.
func (h *host) Owner(ctx context.Context, l Listener) string {
	holder, found, err := h.PortHolder(ctx, l.Proto, ownerAddr(l), onePort(l.Port))
	if err != nil || !found {
		return ""
	}
	if holder.PID == 0 {
		return holder.String()
	}
	return fmt.Sprintf("process %s[%d]", holder.Process, holder.PID)
}

// Watch turns the kernel's events into hints.
func (h *host) Watch(ctx context.Context, each func(Event)) error {
	return h.Kernel.Watch(ctx, func(ev kernel.Event) {
		each(Event{Hint: hintOf(ev), Foreign: ev.Foreign, By: ev.By})
	})
}

// rules is package kernel/foreign as the agent asks for it.
type rules struct{}

// Findings says which rules of others drop packets of ours; what may drop them or not is only noted.
func (rules) Findings(ctx context.Context, v model.View, others []checkup.OtherBridge) (list []api.Finding, closed []string, err error) {
	all, err := foreign.Read(ctx)
	if err != nil {
		return nil, nil, err
	}
	var bridges []foreign.Bridge
	for _, o := range others {
		bridges = append(bridges, foreign.Bridge(o))
	}
	hints := foreign.Hints(all, v.Node, bridges)
	for _, h := range hints {
		if h.Closed {
			closed = append(closed, h.Bridge.Name)
		}
	}
	return append(ruleFindings(slices.Concat(foreign.Findings(all, foreign.Probes(v)), tunnelFindings(all, v))), hintFindings(hints)...), closed, nil
}

// processes is package process as the agent asks for it.
type processes struct{ *process.Watcher }

func (processes) Start(pid int) (uint64, error) { return process.Start(pid) }

func (processes) Stop(ctx context.Context, pid int, start uint64, ours string, timeout time.Duration) error {
	return process.Stop(ctx, pid, start, ours, timeout)
}

// removeFiles removes what flatnet keeps, for the end of an uninstall. What somebody else put beside stays.
func removeFiles(o Options) error {
	var errs []error
	for _, path := range []string{
		filepath.Join(o.StateDir, local.FileName),
		filepath.Join(o.RunDir, journal.FileName), filepath.Join(o.RunDir, journal.BadName), filepath.Join(o.RunDir, "sysctls.json"), filepath.Join(o.RunDir, "ports.json"),
		filepath.Join(o.RunDir, "netns"), filepath.Join(o.RunDir, "bpf"), filepath.Join(o.RunDir, workloadsDir),
	} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// leaveDirs removes the directories themselves after an uninstall, when nothing is left in them.
func leaveDirs(ended error, o Options) error {
	if !errors.Is(ended, ErrUninstalled) {
		return nil
	}
	for _, dir := range []string{o.RunDir, o.StateDir} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			o.Log.Info("left a directory that is not empty or not ours", "dir", dir, "err", err)
		}
	}
	return nil
}

// values are the agent's numbers as metrics.
func values(c Counters) []metrics.Value {
	gauge := func(name, help string, n int) metrics.Value {
		return metrics.Value{Name: name, Help: help, Value: float64(n)}
	}
	total := func(name, help string, n uint64) metrics.Value {
		return metrics.Value{Name: name, Help: help, Value: float64(n), Counter: true}
	}
	return []metrics.Value{
		gauge("flatnet_agent_networks", "Networks defined.", c.Networks),
		gauge("flatnet_agent_workloads", "Workloads listed.", c.Workloads),
		gauge("flatnet_agent_endpoints", "Endpoints attached.", c.Endpoints),
		gauge("flatnet_agent_forwards", "Ports published.", c.Forwards),
		gauge("flatnet_agent_conflicts", "Networks that something on the host overlaps.", c.Conflicts),
		gauge("flatnet_agent_lost_workloads", "Workloads whose namespace is gone.", c.Lost),
		total("flatnet_agent_changes_total", "Changes carried out.", c.Changes),
		total("flatnet_agent_refused_total", "Changes that the kernel refused.", c.Refused),
		total("flatnet_agent_panics_total", "Requests that met a bug.", c.Panics),
		total("flatnet_agent_events_total", "Events told.", c.Events),
		gauge("flatnet_reconcile_objects", "Kernel objects wanted.", c.Reconcile.Objects),
		total("flatnet_reconcile_passes_total", "Full observations of the host's namespace.", c.Reconcile.Passes),
		total("flatnet_reconcile_applied_steps_total", "Steps sent because something else was wanted.", c.Reconcile.Applied),
		total("flatnet_reconcile_repaired_steps_total", "Steps sent because the kernel had drifted.", c.Reconcile.Repairs),
		total("flatnet_reconcile_errors_total", "Changes and passes that failed.", c.Reconcile.Errors),
	}
}
