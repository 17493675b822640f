package agent

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/journal"
	"github.com/flatnet/flatnet/internal/store"
	"golang.org/x/sys/unix"
)

// noKernel takes everything and keeps nothing.
type noKernel struct{}

func (noKernel) Observe(context.Context, string) (dataplane.State, error) {
	return dataplane.State{}, nil
}
func (noKernel) Apply(context.Context, string, dataplane.Plan) error { return nil }

type anyNamespace struct{}

func (anyNamespace) Identify(path string) (string, error) { return path, nil }
func (anyNamespace) Own() (string, error)                 { return "host", nil }

// BenchmarkAttachAndDetach is what the daemon itself costs, with a real journal and without a kernel.
func BenchmarkAttachAndDetach(b *testing.B) {
	for _, others := range []int{1, 100, 500} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			log, _, err := journal.Open(b.TempDir(), "boot")
			if err != nil {
				b.Fatal(err)
			}
			defer log.Close()
			ctx, cancel := context.WithCancel(context.Background())
			a := New(Config{RunDir: b.TempDir(), NetnsDir: "/run/netns", BootID: "boot"}, Deps{
				Store: store.NewMemory(), Journal: log, Kernel: noKernel{}, Host: &fakeHost{events: make(chan Event)},
				Namespaces: anyNamespace{}, Processes: &fakeProcesses{}, Log: slog.New(slog.DiscardHandler),
			})
			done := make(chan error)
			go func() { done <- a.Run(ctx) }()
			<-a.Ready()
			attach := func(name string) {
				_, err := a.CreateWorkload(ctx, api.WorkloadSpec{Name: name, Netns: "/run/netns/" + name, Endpoints: []api.EndpointSpec{{Network: DefaultNetwork}}}, false)
				if err != nil {
					b.Fatal(err)
				}
			}
			if _, err := a.Apply(ctx, []api.Manifest{{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: DefaultNetwork},
				Network: &api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.64.0.0/16"}, {Subnet: "auto6"}}}}}, false); err != nil {
				b.Fatal(err)
			}
			for i := range others {
				attach(fmt.Sprint("w", i))
			}
			b.ReportAllocs()
			before := userCPU(b)
			for b.Loop() {
				attach("new")
				if _, err := a.DeleteWorkload(ctx, "new", false, false); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((userCPU(b)-before).Microseconds())/float64(b.N), "user-µs/op")
			cancel()
			<-done
		})
	}
}

// userCPU is what the process has used: the machine may be busy with others.
func userCPU(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}
