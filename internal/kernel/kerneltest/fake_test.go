package kerneltest_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
)

func TestFakeKeepsTheContract(t *testing.T) {
	kerneltest.Contract(t, func(t *testing.T) kerneltest.Subject {
		f := kerneltest.NewFake()
		f.AddNetns("/run/netns/a")
		f.AddNetns("/run/netns/b")
		return kerneltest.Subject{
			Kernel: f, A: "/run/netns/a", B: "/run/netns/b", Managed: "/run/netns/managed",
			Foreign: func(name string) {
				if err := f.AddForeign("", dataplane.Link{Name: name, Kind: dataplane.Veth}); err != nil {
					t.Fatal(err)
				}
			},
			Delete: func(name string) {
				if err := f.Delete("", dataplane.Link{Name: name}); err != nil {
					t.Fatal(err)
				}
			},
			Move: func(name string) {
				if err := f.Move("", name, "/run/netns/b"); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func bridge(name string) dataplane.Link {
	return dataplane.Link{Name: name, Kind: dataplane.Bridge, Owner: "net/" + name, Up: true}
}

func TestCrashStopsEverythingUntilRevived(t *testing.T) {
	f := kerneltest.NewFake()
	f.BeforeStep = func(n int, _ string, _ dataplane.Step) error {
		if n == 2 {
			return kerneltest.ErrCrash
		}
		return nil
	}
	plan := dataplane.Plan{{Op: dataplane.Add, Object: bridge("a")}, {Op: dataplane.Add, Object: bridge("b")}, {Op: dataplane.Add, Object: bridge("c")}}
	if err := f.Apply(context.Background(), "", plan); !errors.Is(err, kerneltest.ErrCrash) {
		t.Fatalf("got %v, want ErrCrash", err)
	}
	if _, err := f.Observe(context.Background(), ""); !errors.Is(err, kerneltest.ErrCrash) {
		t.Errorf("observe of a dead kernel: got %v, want ErrCrash", err)
	}
	f.Revive()
	got, err := f.Observe(context.Background(), "")
	if err != nil || kerneltest.Text(got) != bridge("a").String() {
		t.Errorf("got %q, %v; want only bridge a", kerneltest.Text(got), err)
	}
	if err := f.Apply(context.Background(), "", plan); err != nil {
		t.Errorf("after the crash: %v", err)
	}
}

func TestDriftIsSeenAndTold(t *testing.T) {
	f := kerneltest.NewFake()
	events, stop := f.Watch()
	addr := dataplane.Address{Link: "a", Prefix: netip.MustParsePrefix("10.0.0.1/24")}
	route := dataplane.Route{Dest: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("10.0.0.9"), Link: "a"}
	want := dataplane.State{}
	if err := want.Put(bridge("a"), addr, route, dataplane.Table{Family: dataplane.Inet}); err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(context.Background(), "", dataplane.Diff(want, nil)); err != nil {
		t.Fatal(err)
	}
	if err := f.Delete("", addr); err != nil {
		t.Fatal(err)
	}
	f.FlushNFT("")
	got, err := f.Observe(context.Background(), "")
	if err != nil || kerneltest.Text(got) != bridge("a").String() {
		t.Errorf("got %q, %v; want only the bridge: the last address takes the link's routes along", kerneltest.Text(got), err)
	}
	stop()
	var told int
	for range events {
		told++
	}
	if told != 7 {
		t.Errorf("got %d events, want 7: four additions, the address with its route, the table", told)
	}
}

func TestForeignObjectsStay(t *testing.T) {
	f := kerneltest.NewFake()
	route := dataplane.Route{Dest: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1"), Link: "eth0"}
	err := f.AddForeign("", dataplane.Link{Name: "eth0", Kind: dataplane.Veth, Up: true},
		dataplane.Address{Link: "eth0", Prefix: netip.MustParsePrefix("192.0.2.9/24")}, route)
	if err != nil {
		t.Fatal(err)
	}
	before := f.Dump("")
	got, err := f.Observe(context.Background(), "")
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v; want nothing of ours", got, err)
	}
	if err := f.Apply(context.Background(), "", dataplane.Plan{{Op: dataplane.Add, Object: route}}); err == nil {
		t.Error("a route over a foreign one: want an error")
	}
	if err := f.Apply(context.Background(), "", dataplane.Plan{{Op: dataplane.Del, Object: route}}); err != nil {
		t.Error(err)
	}
	if after := f.Dump(""); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
