package fail_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/lab"
)

// servers are the three members of an etcd that is not flatnet's: Debian's, one on each host.
type servers struct {
	*site
	running [4]*exec.Cmd
}

func (e *servers) url(n, port int) string { return fmt.Sprintf("http://%s:%d", e.h(n).Address(), port) }

func (e *servers) urls(format string, port int) string {
	var all []string
	for n := 1; n <= 3; n++ {
		all = append(all, strings.ReplaceAll(format, "N", fmt.Sprint(n))+e.url(n, port))
	}
	return strings.Join(all, ",")
}

func (e *servers) start(n int) {
	e.Helper()
	cmd := exec.Command("etcd", "--name", fmt.Sprint("m", n), "--data-dir", "/run/etcd", "--initial-cluster", e.urls("mN=", 2380), "--initial-cluster-state", "new",
		"--listen-client-urls", e.url(n, 2379), "--advertise-client-urls", e.url(n, 2379), "--listen-peer-urls", e.url(n, 2380), "--initial-advertise-peer-urls", e.url(n, 2380))
	e.must(e.h(n).Machine.Start(cmd))
	e.running[n] = cmd
	e.Cleanup(func() { e.kill(n) })
}

func (e *servers) kill(n int) {
	if cmd := e.running[n]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		e.running[n] = nil
	}
}

// Three servers, of which one is lost and then another: with two left everything can be done, with one everything that runs goes on, and when they
// are back it converges.
func TestOneAndTwoOfThreeServersAreLost(t *testing.T) {
	e := &servers{site: newSite(t, lab.Spec{Hosts: hosts(3), Backend: lab.None})}
	for n := 1; n <= 3; n++ {
		e.start(n)
	}
	client := func(n int) *api.Client {
		c := e.h(n).Client()
		t.Cleanup(c.Close)
		return c
	}
	var m api.Membership
	e.eventually("etcd lets a cluster begin", func() bool {
		var err error
		m, err = client(1).InitCluster(t.Context(), api.Init{Etcd: &api.ExternalEtcd{Endpoints: strings.Split(e.urls("", 2379), ",")}}, api.Force)
		return err == nil
	})
	for n := 2; n <= 3; n++ {
		_, err := client(n).JoinCluster(t.Context(), api.Join{Address: e.h(1).Address().String(), Token: m.Token.Token})
		e.must(err)
	}
	address := map[int]string{}
	attach := func(n int, name string) string {
		e.Helper()
		e.flatnet(n, "run", "-d", "--name", name, "--network", "cluster", "--", "sleep", "1d")
		w, err := client(n).Workload(t.Context(), name)
		e.must(err)
		ip, _, _ := strings.Cut(w.Endpoints[0].IPs[0], "/")
		return ip
	}
	answers := func(what, ip string) {
		e.Helper()
		e.eventually(what, func() bool {
			_, err := e.h(1).Flatnet(t.Context(), "exec", "v1", "--", "ping", "-c1", "-W1", ip)
			return err == nil
		})
	}
	for n := 1; n <= 3; n++ {
		e.eventually("the network is there", func() bool {
			_, err := client(n).Network(t.Context(), "cluster")
			return err == nil && len(e.network(n).Status.Subnets) > 0
		})
		address[n] = attach(n, fmt.Sprint("v", n))
	}
	answers("the second host's workload answers", address[2])
	answers("the third host's workload answers", address[3])
	pings := make(chan string, 1)
	go func() {
		out, _ := e.h(1).Flatnet(t.Context(), "exec", "v1", "--", "sh", "-c", "ping -q -i 0.01 -w 20 "+address[2]+" & ping -q -i 0.01 -w 20 "+address[3]+"; wait")
		pings <- out
	}()
	arrives := func(name string) {
		e.Helper()
		for n := 1; n <= 3; n++ {
			took := e.within(time.Minute, fmt.Sprintf("network %s is on h%d", name, n), func() bool { _, err := client(n).Network(t.Context(), name); return err == nil })
			t.Logf("network %s on h%d after %v", name, n, took.Round(time.Millisecond))
		}
	}

	e.kill(3)
	e.flatnet(1, "net", "create", "one-lost", "--mode", "cluster", "--pool", "10.91.0.0/16", "--vni", "91")
	arrives("one-lost")
	answers("a workload made with one server lost", attach(3, "with-two"))

	e.kill(2)
	out, err := e.h(1).Flatnet(t.Context(), "net", "create", "two-lost", "--mode", "cluster", "--pool", "10.92.0.0/16", "--vni", "92")
	if err == nil || !strings.Contains(out+err.Error(), "FN3011") {
		t.Errorf("a network with one server of three: %v\n%s", err, out)
	}
	answers("a workload made with two servers lost", attach(3, "with-one"))

	e.start(2)
	e.start(3)
	e.within(time.Minute, "networks can be made again", func() bool {
		_, err := e.h(1).Flatnet(t.Context(), "net", "create", "all-back", "--mode", "cluster", "--pool", "10.93.0.0/16", "--vni", "93")
		return err == nil || strings.Contains(err.Error(), "FN2101")
	})
	arrives("all-back")
	for n := 1; n <= 3; n++ {
		e.settled(n)
	}
	text := <-pings
	counts := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindAllStringSubmatch(text, -1)
	if len(counts) != 2 {
		t.Fatalf("the pings said:\n%s", text)
	}
	for _, c := range counts {
		t.Logf("%s pings, %s answered", c[1], c[2])
		if c[1] != c[2] {
			t.Errorf("%s of %s pings were answered while servers were lost", c[2], c[1])
		}
	}
}
