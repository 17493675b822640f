package cni_test

import (
	"fmt"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// flatnetPlugin is ours with what a kubelet asks for.
const flatnetPlugin = `{"type": "flatnet", "capabilities": {"portMappings": true, "bandwidth": true, "dns": true}}`

// A kubelet's view of it: pods are made and removed by the CRI, on two hosts with a cluster network between them.
func TestPodsOfContainerd(t *testing.T) {
	s := newSite(t)
	for _, n := range s.nodes {
		n.conflist("pods", "1.0.0", flatnetPlugin)
		n.startContainerd()
	}
	for _, story := range []struct {
		name string
		tell func(s *site)
	}{
		{"pods of two hosts talk", podsTalk},
		{"a host port answers everybody", hostPortAnswers},
		{"containers of a pod share localhost", containersShareLocalhost},
		{"a pod's bandwidth", podIsLimited},
		{"containerd is killed", containerdIsKilled},
		{"flatnetd is killed", flatnetdIsKilled},
		{"flatnetd is away", flatnetdIsAway},
		{"a namespace is gone before its pod", namespaceIsGone},
		{"ctr run --cni", ctrRuns},
	} {
		s.part(story.name, func(s *site) { s.leavesNothing(func() { story.tell(s) }) })
	}
	s.part("nothing comes back with flatnetd", func(s *site) { s.leavesNothing(s.restart) })
}

// hears wants a pod to be greeted by a server as who it should be.
func (p *pod) hears(server, as string) {
	p.n.s.Helper()
	got, err := p.ask(server)
	if err != nil {
		p.n.s.Errorf("%s at %s asks %s: %v", p.name, p.ip, server, err)
		return
	}
	host, _, _ := strings.Cut(server, " ")
	p.n.s.want(p.name+" asks "+server, got, fmt.Sprintf("hello %s, you asked %s", as, host))
}

// hears is the same for a host.
func (n *node) hears(server, as string) {
	n.s.Helper()
	n.s.want(n.Name+" asks "+server, strings.TrimSpace(n.sh("fetch http://%s", server)), fmt.Sprintf("hello %s, you asked %s", as, server))
}

func podsTalk(s *site) {
	a, b, c := s.h(1).pod("a"), s.h(1).pod("b"), s.h(2).pod("c")
	for _, from := range []*pod{a, b, c} {
		for _, to := range []*pod{a, b, c} {
			from.hears(to.ip, from.ip)
			from.hears("["+to.more[0]+"]", from.more[0])
		}
	}
	s.want("the name that people see it by", s.h(1).flatnetLine("ps", "shop.a"), "shop.a")
	for _, p := range []*pod{a, b, c} {
		p.remove()
	}
}

// flatnetLine is the first word of the line of a table that has a word.
func (n *node) flatnetLine(command, word string) string {
	n.s.Helper()
	for line := range strings.Lines(n.sh("flatnet %s", command)) {
		if f := strings.Fields(line); len(f) > 0 && strings.Contains(line, word) {
			return f[0]
		}
	}
	return ""
}

// gateway is the address of the cluster network that the host has.
func (n *node) gateway() string {
	n.s.Helper()
	out := strings.Fields(n.sh("ip -4 -o address show dev fn-cluster"))
	addr, _, _ := strings.Cut(out[3], "/")
	return addr
}

// Who asks is seen with the address that the table in docs/reference/reachability.md gives.
func hostPortAnswers(s *site) {
	h1, h2 := s.h(1), s.h(2)
	web, local := h1.pod("web", port{host: 8081, container: 80}), h1.pod("local", port{host: 8082, container: 80, hostIP: "127.0.0.1"})
	neighbour, far := h1.pod("neighbour"), h2.pod("far")
	h2.hears("192.0.2.1:8081", "192.0.2.2")
	h1.hears("192.0.2.1:8081", "192.0.2.1")
	h1.hears("127.0.0.1:8081", h1.gateway())
	h1.hears("127.0.0.1:8082", h1.gateway())
	far.hears("192.0.2.1:8081", far.ip)
	neighbour.hears("192.0.2.1:8081", h1.gateway())
	web.hears("192.0.2.1:8081", h1.gateway()) // itself
	if out, err := h2.trySh("fetch http://192.0.2.1:8082"); err == nil {
		s.Errorf("the port of 127.0.0.1 answers h2: %s", out)
	}
	for _, p := range []*pod{web, local, neighbour, far} {
		p.remove()
	}
	if out, err := h2.trySh("fetch http://192.0.2.1:8081"); err == nil {
		s.Errorf("the port answers without a pod: %s", out)
	}
}

func containersShareLocalhost(s *site) {
	p := s.h(1).pod("two")
	side := p.container("side", "/pause")
	for _, address := range []string{"127.0.0.1", "[::1]", p.ip} {
		got, err := p.exec(side, "/pause", "fetch", "http://"+address)
		s.must(err)
		s.want("the other container", strings.TrimSpace(got), fmt.Sprintf("hello %s, you asked %s", strings.Trim(address, "[]"), address))
	}
	p.remove()
}

// The annotations are those that kubelet and containerd have for it.
func podIsLimited(s *site) {
	h1 := s.h(1)
	config := h1.podConfig("slow")
	config.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}
	config.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"shop.svc"}}
	p, err := h1.tryConfig(config, 0)
	s.must(err)
	p.serve()
	h1.hears(p.ip, h1.gateway())
	if out := h1.sh("tc qdisc show | grep -w tbf"); !strings.Contains(out, "rate 10Mbit") || !strings.Contains(out, "rate 20Mbit") {
		s.Errorf("the limits are %s", out)
	}
	p.remove()
}

func containerdIsKilled(s *site) {
	a, b := s.h(1).pod("a", port{host: 8081, container: 80}), s.h(2).pod("b")
	s.h(1).killContainerd()
	b.hears(a.ip, b.ip)
	s.h(2).hears("192.0.2.1:8081", "192.0.2.2")
	s.h(1).runContainerd()
	a.hears(b.ip, a.ip)
	another := s.h(1).pod("another")
	another.hears(a.ip, another.ip)
	a.remove()
	b.remove()
	another.remove()
}

func flatnetdIsKilled(s *site) {
	h1 := s.h(1)
	a, b := h1.pod("a", port{host: 8081, container: 80}), s.h(2).pod("b")
	s.must(h1.Kill9())
	b.hears(a.ip, b.ip)
	s.h(2).hears("192.0.2.1:8081", "192.0.2.2")
	s.must(h1.Start(s.Context()))
	another := h1.pod("another")
	if another.ip == a.ip {
		s.Errorf("two pods have the address %s", a.ip)
	}
	another.hears(a.ip, another.ip)
	s.h(2).hears("192.0.2.1:8081", "192.0.2.2")
	a.remove()
	b.remove()
	another.remove()
}

// A kubelet tries again and again.
func flatnetdIsAway(s *site) {
	h1 := s.h(1)
	old := h1.pod("old")
	s.must(h1.Kill9())
	if p, err := h1.tryPod("new"); err == nil {
		s.Errorf("a pod at %q without flatnetd", p.ip)
	} else if !strings.Contains(err.Error(), "flatnetd") {
		s.Errorf("the reason is hard to see: %v", err)
	}
	if err := old.stop(); err == nil {
		s.Error("DEL succeeds without flatnetd: who would give the address back?")
	}
	s.must(h1.Start(s.Context()))
	var p *pod
	attempt := uint32(0)
	s.eventually("the pod comes up", func() (err error) {
		attempt++ // as the sandbox of the failed one is kept until it could be cleaned up
		p, err = h1.tryConfig(h1.podConfig("new"), attempt)
		return err
	})
	p.serve()
	h1.hears(p.ip, h1.gateway())
	p.remove()
	old.remove()
	h1.removeFailedPods()
}

func namespaceIsGone(s *site) {
	h1 := s.h(1)
	p := h1.pod("gone", port{host: 8081, container: 80})
	path := p.netns()
	h1.sh("ctr -n k8s.io tasks kill -s KILL %s; ctr -n k8s.io tasks kill -s KILL %s; umount %s; rm %s", p.main, p.id, path, path)
	s.eventually("the sandbox stops", p.stop) // not while containerd is about to notice
	p.remove()
}

// ctr asks for a network, and for its end only when it is told to remove the container at once. flatnetd sees by itself that the namespace is gone.
func ctrRuns(s *site) {
	h1 := s.h(1)
	far := s.h(2).pod("far")
	h1.sh("ctr run -d --cni --cgroup /%s/ctr %s t1 /pause serve 80", s.group, imageName)
	pid := strings.Fields(h1.sh("ctr task ls | grep -w t1"))[1]
	address, _, _ := strings.Cut(strings.Fields(h1.sh("nsenter --net=/proc/%s/ns/net ip -4 -o address show dev eth0", pid))[3], "/")
	h1.sh("until nsenter --net=/proc/%s/ns/net fetch http://127.0.0.1; do sleep 0.05; done", pid)
	far.hears(address, far.ip)
	h1.sh("ctr task kill -s KILL t1; while ctr task ls | grep -w t1 | grep -q RUNNING; do sleep 0.05; done; ctr task rm t1; ctr container rm t1")
	h1.sh("rm /var/lib/cni/results/*-t1-eth0") // libcni's notes, which DEL would have removed
	h1.sh("ctr run --rm --cni --cgroup /%s/ctr %s t2 /pause fetch http://%s", s.group, imageName, far.ip)
	far.remove()
}
