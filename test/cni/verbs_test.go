package cni_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/flatnet/flatnet/test/rig"
)

// Every verb by libcni and cnitool, alone and among the plugins that Debian has.
func TestVerbs(t *testing.T) {
	s := newSite(t)
	s.h(1).warm(chain...)
	for _, story := range []struct {
		name string
		tell func(s *site)
	}{
		{"every version of the specification", everyVersion},
		{"cnitool", cnitool},
		{"debian's plugins behind flatnet", pluginsBehind},
		{"flatnet between others", between},
		{"check tells what has drifted", checkTellsDrift},
		{"garbage is collected", garbageIsCollected},
		{"status", status},
		{"a deleted namespace is freed at once", namespaceIsFreed},
		{"many at once", manyAtOnce},
	} {
		s.part(story.name, func(s *site) { s.leavesNothing(func() { story.tell(s) }) })
	}
	s.part("nothing comes back with flatnetd", func(s *site) { s.leavesNothing(s.restart) })
}

func everyVersion(s *site) {
	far := s.h(2).container("far", nil)
	away := s.h(2).libcni(conflist("pods", "1.1.0", `{"type": "flatnet"}`))
	to := address(away.add(far))
	far.serve(80)
	for i, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		r := s.h(1).libcni(conflist("pods", version, `{"type": "flatnet"}`))
		c := s.h(1).container(fmt.Sprint("v", i), nil)
		result, err := r.AddNetworkList(s.Context(), r.list, &c.rt)
		s.must(err)
		s.want("the result's version", result.Version(), version)
		full, err := types100.NewResultFromResult(result)
		s.must(err)
		c.hears(to, address(full))
		if i >= 2 { // CHECK came with 0.4.0
			s.must(r.check(c))
		}
		s.must(r.del(c))
		s.must(r.del(c))
		c.remove()
	}
	away.end(far)
}

func cnitool(s *site) {
	n := s.h(1)
	tool := filepath.Join(filepath.Dir(rig.Program(s.T, "flatnet")), "cnitool")
	build := exec.Command("go", "build", "-o", tool, "github.com/containernetworking/cni/cnitool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.Fatalf("build cnitool: %v\n%s", err, out)
	}
	n.conflist("pods", "1.1.0", flatnetPlugin)
	c := n.container("tool", nil)
	try := func(verb string) (string, error) {
		return n.trySh(`NETCONFPATH=/etc/cni/net.d CNI_PATH=%s CAP_ARGS='{"portMappings": [{"hostPort": 8083, "containerPort": 80}]}' %s %s pods /run/netns/tool`, pluginDir, tool, verb)
	}
	do := func(verb string) string {
		out, err := try(verb)
		s.must(err)
		return out
	}
	if out := do("add"); !strings.Contains(out, `"sandbox": "/run/netns/tool"`) {
		s.Errorf("cnitool add: %s", out)
	}
	do("check")
	do("status")
	c.serve(80)
	s.h(2).hears("192.0.2.1:8083", "192.0.2.2")
	do("del")
	if _, err := try("gc"); err == nil || !strings.Contains(err.Error(), "FN4105") { // cnitool does not list what is valid: that would be nothing
		s.Errorf("cnitool gc: %v", err)
	}
	c.remove()
}

// chain is flatnet with what people put behind a plugin that makes links.
var chain = []string{`{"type": "flatnet"}`,
	`{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}`,
	`{"type": "portmap", "capabilities": {"portMappings": true}}`,
	`{"type": "bandwidth", "ingressRate": 80000000, "ingressBurst": 8000000, "egressRate": 80000000, "egressBurst": 8000000}`,
	`{"type": "sbr"}`,
	`{"type": "firewall", "backend": "iptables"}`}

// What the other plugins do to the link and the addresses that the result names is there, and the result goes through them unchanged.
func pluginsBehind(s *site) {
	alone := s.h(1).libcni(conflist("alone", "1.0.0", `{"type": "flatnet"}`))
	all := s.h(1).libcni(conflist("chain", "1.0.0", chain...))
	c := s.h(1).container("chained", object{"portMappings": []object{{"hostPort": 8084, "containerPort": 80, "protocol": "tcp"}}})
	single := s.h(1).container("single", nil)
	result, plain := all.add(c), alone.add(single)
	s.want("the result", strings.Replace(shape(result), ", host", "", 1), shape(plain)) // but bandwidth's own link
	s.want("tuning", strings.TrimSpace(c.sh("cat /proc/sys/net/core/somaxconn")), "500")
	if out := s.h(1).sh("tc qdisc show dev %s", hostLink(result)); !strings.Contains(out, "tbf") {
		s.Errorf("bandwidth: %s", out)
	}
	if out := c.sh("ip rule"); !strings.Contains(out, address(result)) {
		s.Errorf("sbr: %s", out)
	}
	if out := s.h(1).sh("iptables -S CNI-FORWARD"); !strings.Contains(out, address(result)) {
		s.Errorf("firewall: %s", out)
	}
	c.serve(80)
	s.h(2).hears("192.0.2.1:8084", "192.0.2.2")
	all.end(c)
	alone.end(single)
}

// shape is what results of two containers on a network have in common.
func shape(r *types100.Result) string {
	var all []string
	for _, i := range r.Interfaces {
		where := "host"
		if i.Sandbox != "" {
			where = i.Name
		}
		all = append(all, where)
	}
	for _, ip := range r.IPs {
		ones, _ := ip.Address.Mask.Size()
		all = append(all, fmt.Sprintf("/%d of %d via %s", ones, *ip.Interface, ip.Gateway))
	}
	for _, route := range r.Routes {
		all = append(all, fmt.Sprintf("%s via %s", route.Dst.String(), route.GW))
	}
	return strings.Join(all, ", ")
}

// What a plugin before flatnet answered stays in the result, and what comes after sees it all.
func between(s *site) {
	r := s.h(1).libcni(conflist("middle", "1.0.0", `{"type": "loopback"}`, `{"type": "flatnet"}`,
		`{"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}}`))
	c := s.h(1).container("middle", nil)
	result := r.add(c)
	if len(result.Interfaces) == 0 || result.Interfaces[0].Name != "lo" {
		s.Errorf("what loopback told is not first: %s", result)
	}
	for _, ip := range result.IPs {
		if i := result.Interfaces[*ip.Interface]; (i.Name == "lo") != ip.Address.IP.IsLoopback() {
			s.Errorf("%s is told to be of %s", ip.Address.String(), i.Name)
		}
	}
	s.want("tuning", strings.TrimSpace(c.sh("cat /proc/sys/net/ipv4/conf/eth0/arp_notify")), "1")
	s.must(r.check(c))
	r.end(c)
}

func checkTellsDrift(s *site) {
	r := s.h(1).libcni(conflist("pods", "1.1.0", `{"type": "flatnet"}`))
	c := s.h(1).container("drifts", nil)
	ip := address(r.add(c))
	cached, err := r.GetNetworkListCachedResult(r.list, &c.rt)
	s.must(err)
	full, err := types100.NewResultFromResult(cached)
	s.must(err)
	s.want("the cached address", address(full), ip)
	s.must(r.check(c))
	for _, change := range []struct{ do, names string }{
		{"ip route del default", "default"},
		{"ip link set eth0 down", "eth0"},
		{"ip address flush dev eth0", ip},
	} {
		c.sh("%s", change.do)
		err := r.check(c)
		if err == nil || !strings.Contains(err.Error(), change.names) {
			s.Errorf("after %q CHECK says: %v\n%s", change.do, err, c.sh("ip address; ip route"))
		}
	}
	c.sh("ip link del eth0") // which is the host's link, too: flatnetd makes it anew
	s.eventually("the link is as it was", func() error { return r.check(c) })
	r.end(c)
}

// A runtime that lost its memory tells what it still knows, and everything else is freed.
func garbageIsCollected(s *site) {
	r := s.h(1).libcni(conflist("pods", "1.1.0", `{"type": "flatnet"}`))
	other := s.h(1).libcni(conflist("others", "1.1.0", `{"type": "flatnet"}`))
	keep, lost, foreign := s.h(1).container("keep", nil), s.h(1).container("lost", nil), s.h(1).container("foreign", nil)
	kept, freed := r.add(keep), r.add(lost)
	other.add(foreign)
	keep.serve(80)
	s.must(r.GCNetworkList(s.Context(), r.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "keep", IfName: "eth0"}}}))
	if s.h(1).there("/sys/class/net/" + hostLink(freed)) {
		s.Errorf("%s is there after GC", hostLink(freed))
	}
	foreign.hears(address(kept), address(must(other.GetNetworkListCachedResult(other.list, &foreign.rt))))
	s.must(r.check(keep))
	s.must(other.check(foreign))
	r.end(keep)
	r.end(lost) // of which libcni's cache has been emptied, too
	other.end(foreign)
}

// must is a cached result, or an empty one.
func must(result types.Result, err error) *types100.Result {
	if err != nil || result == nil {
		return &types100.Result{}
	}
	full, err := types100.NewResultFromResult(result)
	if err != nil {
		return &types100.Result{}
	}
	return full
}

const notAvailable = 50 // the code of STATUS for a plugin that cannot serve ADD; libcni has no name for it

func status(s *site) {
	n := s.h(1)
	r := n.libcni(conflist("pods", "1.1.0", `{"type": "flatnet"}`))
	s.must(r.GetStatusNetworkList(s.Context(), r.list))
	c, d := n.container("waits", nil), n.container("stays", nil)
	r.add(d)
	s.must(n.Kill9())
	s.wantCode("STATUS", r.GetStatusNetworkList(s.Context(), r.list), notAvailable)
	_, err := r.AddNetworkList(s.Context(), r.list, &c.rt)
	s.wantCode("ADD", err, types.ErrTryAgainLater)
	s.wantCode("DEL", r.del(d), types.ErrTryAgainLater)
	s.must(n.Start(context.Background()))
	s.must(r.GetStatusNetworkList(s.Context(), r.list))
	s.must(r.check(d))
	r.add(c)
	r.end(c)
	r.end(d)
}

func (s *site) wantCode(what string, err error, code uint) {
	s.Helper()
	var told *types.Error
	if !errors.As(err, &told) || told.Code != code || told.Msg == "" {
		s.Errorf("%s without flatnetd: %v, want code %d", what, err, code)
	}
}

// Nothing of flatnetd's keeps a namespace alive: when its name goes, its links go, and then what flatnetd has for it.
func namespaceIsFreed(s *site) {
	n := s.h(1)
	r := n.libcni(conflist("pods", "1.1.0", flatnetPlugin))
	c := n.container("short", object{"portMappings": []object{{"hostPort": 8085, "containerPort": 80}}})
	link := hostLink(r.add(c))
	if !n.there("/sys/class/net/" + link) {
		s.Fatalf("no link %s on the host", link)
	}
	c.remove()
	s.eventually("the host's end is gone", func() error {
		if n.there("/sys/class/net/" + link) {
			return errors.New(link + " is there")
		}
		return nil
	})
	s.eventually("flatnetd has noticed", func() error {
		if all := n.workloads(); len(all) > 0 {
			return errors.New(strings.Join(all, ", "))
		}
		return nil
	})
	s.must(r.del(c))
}
