package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/attach"
	"golang.org/x/tools/txtar"
)

// Whatever a workload has, its result can be said in every version, and the runtimes' own library reads the same addresses, links and
// routes out of it.
func TestResultsSayTheSameInEveryVersion(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		w, of := randomWorkload(random), call{made: new(bool), Request: attach.Request{Container: "c", IfName: "eth0", Netns: "/run/netns/c"}}
		for _, version := range versions {
			c := conf{CNIVersion: version}
			if random.IntN(2) == 0 {
				c.PrevResult = json.RawMessage(`{"interfaces":[{"name":"lan0"}],"ips":[{"address":"192.0.2.1/24","interface":0}],"routes":[{"dst":"192.0.3.0/24"}]}`)
			}
			out, err := c.result(of, w)
			if err != nil {
				t.Fatalf("%s: %v", version, err)
			}
			if err := sameAs(version, out, w, c.PrevResult != nil); err != nil {
				t.Fatalf("%s: %v\nresult %s\nof %+v", version, err, out, w)
			}
		}
	}
}

// sameAs reads a result as a runtime does, and compares what it says with the workload.
func sameAs(version string, out []byte, w api.Workload, chained bool) error {
	read, err := create.Create(version, out)
	if err != nil {
		return err
	}
	r, err := current.NewResultFromResult(read)
	if err != nil {
		return err
	}
	var want, got []string
	if chained {
		want = append(want, "192.0.2.1/24 on lan0", "route 192.0.3.0/24")
	}
	for _, e := range w.Endpoints {
		for _, ip := range e.IPs {
			want = append(want, ip+" on "+e.IfName)
		}
		for _, route := range e.Routes {
			want = append(want, "route "+route.Dest)
		}
	}
	for _, ip := range r.IPs {
		got = append(got, ip.Address.String()+" on "+r.Interfaces[*ip.Interface].Name)
	}
	for _, route := range r.Routes {
		got = append(got, "route "+route.Dst.String())
	}
	slices.Sort(want)
	if slices.Sort(got); !slices.Equal(got, want) {
		return fmt.Errorf("it says %q, want %q", got, want)
	}
	return nil
}

func randomWorkload(random *rand.Rand) api.Workload {
	var w api.Workload
	for i := range 1 + random.IntN(3) {
		e := api.Endpoint{IfName: fmt.Sprintf("eth%d", i), MAC: "02:00:00:00:00:01", MTU: random.IntN(9000), Attachment: &api.Attachment{Container: "c", IfName: "eth0"}}
		if random.IntN(4) > 0 {
			e.HostLink, e.HostMAC = fmt.Sprintf("fv-%d", i), "fe:00:00:00:00:01"
		}
		for range random.IntN(3) {
			p := randomPrefix(random)
			e.IPs = append(e.IPs, p.String())
			if random.IntN(2) == 0 {
				e.Gateways = append(e.Gateways, p.Masked().Addr().Next().String())
			}
		}
		for range random.IntN(3) {
			e.Routes = append(e.Routes, api.EndpointRoute{Dest: randomPrefix(random).Masked().String()})
		}
		w.Endpoints = append(w.Endpoints, e)
	}
	return w
}

func randomPrefix(random *rand.Rand) netip.Prefix {
	if random.IntN(2) == 0 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}), random.IntN(33))
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1: byte(random.Uint32()), 15: byte(random.Uint32())}), random.IntN(129))
}

// FuzzCalls: whatever the plugin is given, there is an answer, and it is one of CNI's: the result of the version that was asked in, or an
// error with a code of ours that has a page of help.
func FuzzCalls(f *testing.F) {
	goldens, _ := filepath.Glob("testdata/*.txtar")
	for _, golden := range goldens {
		archive, err := txtar.ParseFile(golden)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if command, _, _ := strings.Cut(file.Name, " # "); file.Name != "answer" {
				config := file.Data
				if i := strings.IndexByte(string(config), '{'); i > 0 {
					config = config[i:]
				}
				f.Add(command, "c1", "eth0", "/run/netns/c1", "IgnoreUnknown=1;K8S_POD_NAME=web", config)
			}
		}
	}
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, command, container, ifName, netns, args string, config []byte) {
		of := call{made: new(bool), Request: attach.Request{Command: command, Container: container, IfName: ifName, Netns: netns, Args: args, Config: config}, netns: os.Stdin}
		reply, err := newServer(newFake(), log).answer(context.Background(), of)
		if err != nil {
			t.Fatal(err)
		}
		if reply.Exit != 0 {
			checkFailure(t, command, reply.Stdout)
			return
		}
		if command != "ADD" {
			return
		}
		keys, err := keysOf(config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := create.Create(textOf(keys["cniVersion"]), reply.Stdout); err != nil {
			t.Errorf("%s: %v", reply.Stdout, err)
		}
	})
}
