package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/kernel/nft"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/render"
)

const (
	spare     = 10   // endpoints that come and go, in namespaces that stay
	firstFree = 5000 // link indexes and workload numbers that no other endpoint has
)

// contender attaches endpoints one way. Each has a host namespace of its own.
type contender interface {
	name() string
	populate(ctx context.Context, n int) error // so that n endpoints are there
	attach(ctx context.Context, i int) error
	detach(ctx context.Context, i int) error
	pids() []int // of processes whose CPU time counts, beside this one
}

// attachAgainstFloor attaches and detaches endpoints by the floor, by the loop (render, diff, apply) and by the daemon's socket.
func attachAgainstFloor(ctx context.Context, b *bench) error {
	floor, err := newFloorHost("floor", labView(lab4, lab6))
	if err != nil {
		return err
	}
	loop, err := newLoopHost("loop", labView(lab4, lab6))
	if err != nil {
		return err
	}
	daemon, err := newDaemonHost(ctx, b, "daemon")
	if err != nil {
		return err
	}
	defer daemon.stop()
	rounds, populations := 40, []int{1, 100, 500}
	if b.quick {
		rounds, populations = 3, []int{1, 10}
	}
	contenders := []contender{floor, loop, daemon}
	fmt.Printf("%-9s %-10s %-30s %10s %10s %8s %8s\n", "PRESENT", "AT A TIME", "BY", "CPU µs", "WALL µs", "CPU ×", "WALL ×")
	for _, n := range populations {
		for _, c := range contenders {
			if err := c.populate(ctx, n); err != nil {
				return fmt.Errorf("%s: %w", c.name(), err)
			}
		}
		for _, ways := range []int{1, spare} {
			if err := race(ctx, contenders, n, ways, rounds); err != nil {
				return err
			}
		}
	}
	return nil
}

// race runs rounds of all contenders in turn and prints the medians of each; ratios are to the first.
func race(ctx context.Context, contenders []contender, n, ways, rounds int) error {
	took := make([][]spent, len(contenders))
	for range rounds {
		for i, c := range contenders {
			s, err := meter(func() error { return round(ctx, c, ways) }, c.pids()...)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name(), err)
			}
			took[i] = append(took[i], s)
		}
	}
	base := median(took[0])
	for i, c := range contenders {
		m := median(took[i])
		fmt.Printf("%-9d %-10d %-30s %10.0f %10.0f %8.2f %8.2f\n", n, ways, c.name(), micros(m.cpu)/spare, micros(m.wall)/spare,
			float64(m.cpu)/float64(base.cpu), float64(m.wall)/float64(base.wall))
	}
	return nil
}

// round attaches and detaches the spare endpoints once.
func round(ctx context.Context, c contender, ways int) error {
	for _, do := range []func(context.Context, int) error{c.attach, c.detach} {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(ways)
		for i := range spare {
			g.Go(func() error { return do(ctx, i) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// median is that of CPU and wall time, each by itself.
func median(took []spent) spent {
	middle := func(by func(spent) time.Duration) time.Duration {
		sorted := slices.SortedFunc(slices.Values(took), func(a, b spent) int { return cmp.Compare(by(a), by(b)) })
		return by(sorted[len(sorted)/2])
	}
	return spent{middle(func(s spent) time.Duration { return s.cpu }), middle(func(s spent) time.Duration { return s.wall })}
}

// best is the least of CPU and wall time, each by itself: what it costs when nothing else is in the way.
func best(took []spent) spent {
	least := took[0]
	for _, s := range took {
		least = spent{min(least.cpu, s.cpu), min(least.wall, s.wall)}
	}
	return least
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// loopHost attaches by render, diff and apply: all of flatnet but the socket, the checks and the journal.
type loopHost struct {
	prefix string
	view   model.View
	kernel *kernel.Kernel
	loop   *reconcile.Reconciler
	spares []model.Workload
}

func newLoopHost(prefix string, v model.View) (*loopHost, error) {
	h := &loopHost{prefix: prefix, view: v}
	h.view.Workloads = map[string]model.Workload{}
	path := "/run/netns/host-" + prefix
	if err := netns.Create(path); err != nil {
		return nil, err
	}
	err := within(path, func() error {
		conn, err := nft.New(nft.Config{})
		if err != nil {
			return err
		}
		h.kernel, err = kernel.New(kernel.Config{RunDir: filepath.Join("/run", prefix), Nft: conn})
		return err
	})
	if err != nil {
		return nil, err
	}
	h.loop = reconcile.New(h.kernel, reconcile.Deps{})
	for i := range spare {
		w, err := h.workload(firstFree + i)
		if err != nil {
			return nil, err
		}
		h.spares = append(h.spares, w)
	}
	return h, nil
}

// workload is the i-th of this host, in a namespace that it makes.
func (h *loopHost) workload(i int) (model.Workload, error) {
	w := labWorkload(h.view, i)
	w.Netns = "/run/netns/" + h.prefix + "-" + w.Name
	return w, netns.Create(w.Netns)
}

func (h *loopHost) name() string { return "render, diff, apply" }
func (h *loopHost) pids() []int  { return nil }

func (h *loopHost) populate(ctx context.Context, n int) error {
	for i := len(h.view.Workloads); i < n; i++ {
		w, err := h.workload(i)
		if err != nil {
			return err
		}
		h.view.Workloads[w.Name] = w
	}
	parts, err := render.Parts(h.view)
	if err != nil {
		return err
	}
	_, err = h.loop.Set(ctx, parts)
	return err
}

func (h *loopHost) attach(ctx context.Context, i int) error {
	part, err := render.Workload(h.view, h.spares[i])
	if err != nil {
		return err
	}
	return h.put(ctx, i, part)
}

func (h *loopHost) detach(ctx context.Context, i int) error { return h.put(ctx, i, dataplane.Host{}) }

func (h *loopHost) put(ctx context.Context, i int, part dataplane.Host) error {
	_, err := h.loop.Put(ctx, map[string]dataplane.Host{render.WorkloadPart(h.spares[i].Name): part})
	return err
}

// floorHost attaches by raw netlink. The endpoints that are there already were made by the loop.
type floorHost struct {
	*loopHost
	floors []*floor // one for each that works at the same time: a socket is one conversation
	plugs  []plug
}

func newFloorHost(prefix string, v model.View) (*floorHost, error) {
	base, err := newLoopHost(prefix, v)
	if err != nil {
		return nil, err
	}
	h := &floorHost{loopHost: base}
	if err := h.loopHost.populate(context.Background(), 0); err != nil {
		return nil, err
	}
	return h, within("/run/netns/host-"+prefix, h.open)
}

func (h *floorHost) open() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	bridge, err := linkIndex(h.view.Networks[labNetwork].BridgeName())
	if err != nil {
		return err
	}
	for i, w := range h.spares {
		part, err := render.Workload(h.view, w)
		if err != nil {
			return err
		}
		f, err := newFloor()
		if err != nil {
			return err
		}
		h.floors = append(h.floors, f)
		h.plugs = append(h.plugs, newPlug(part, w, bridge, firstFree+i))
	}
	return nil
}

func (h *floorHost) name() string                          { return "raw netlink, the floor" }
func (h *floorHost) attach(_ context.Context, i int) error { return h.floors[i].attach(h.plugs[i]) }
func (h *floorHost) detach(_ context.Context, i int) error { return h.floors[i].detach(h.plugs[i]) }

// daemonHost attaches through the socket of a flatnetd of its own.
type daemonHost struct {
	*daemon
	there int
}

func newDaemonHost(ctx context.Context, b *bench, name string) (*daemonHost, error) {
	d, err := startDaemon(ctx, b, name)
	if err != nil {
		return nil, err
	}
	h := &daemonHost{daemon: d}
	if err := d.createLab(ctx, lab4, lab6); err != nil {
		return nil, err
	}
	for i := range spare {
		if err := netns.Create(h.netns(firstFree + i)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *daemonHost) name() string { return "flatnetd, through its socket" }
func (h *daemonHost) pids() []int  { return []int{h.pid} }

func (h *daemonHost) populate(ctx context.Context, n int) error {
	for ; h.there < n; h.there++ {
		if err := netns.Create(h.netns(h.there)); err != nil {
			return err
		}
		if err := h.create(ctx, h.there); err != nil {
			return err
		}
	}
	return nil
}

func (h *daemonHost) attach(ctx context.Context, i int) error { return h.create(ctx, firstFree+i) }

func (h *daemonHost) detach(ctx context.Context, i int) error {
	_, err := h.client.DeleteWorkload(ctx, labName(firstFree+i))
	return err
}

func (h *daemonHost) create(ctx context.Context, i int) error {
	_, err := h.client.CreateWorkload(ctx, api.WorkloadSpec{
		Name: labName(i), Netns: h.netns(i), Endpoints: []api.EndpointSpec{{Network: labNetwork}},
	})
	return err
}
