package fail_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/lab"
)

func TestStoreFails(t *testing.T) {
	s := newSite(t, lab.Spec{Hosts: hosts(3)})
	s.part("values that mean harm", (*site).harmIsMeant)
	s.part("etcd fails", (*site).storeFails)
	s.part("boot without etcd", (*site).bootsAlone)
	s.part("gone while nobody looked", (*site).goneUnseen)
}

// storeFails: killed, frozen, kept from one node and compacted meanwhile. Nothing is lost by it, and what changed meanwhile arrives.
func (s *site) storeFails() {
	flows, x := s.mesh(), s.transfer("w1", "w2")

	before := s.server()
	s.run(s.h(1), "kill -9 "+before)
	back := s.eventually("flatnetd starts etcd again", func() bool { now := s.server(); return now != "" && now != before })
	s.started(2, "afterkill", s.Workload("w1"))
	s.allLive()
	s.Logf("etcd killed: another one runs %v after", back.Round(time.Millisecond))

	s.run(s.h(1), "kill -STOP "+s.server())
	frozen := time.Now()
	s.started(2, "frozen2", s.Workload("w1"))
	s.started(3, "frozen3", s.Workload("w1"))
	for n := range s.Hosts() {
		s.Logf("etcd frozen: h%d: %s", n+1, s.finds(n+1, "FN5402", "since"))
	}
	time.Sleep(time.Until(frozen.Add(15 * time.Second)))
	s.run(s.h(1), "kill -CONT "+s.server())
	thawed := time.Now()
	s.allLive()
	s.Logf("etcd frozen for %v: all hear it %v after", thawed.Sub(frozen).Round(time.Second), time.Since(thawed).Round(time.Millisecond))

	c := s.etcd()
	const table = "nft add table bridge cut; nft 'add chain bridge cut c { type filter hook prerouting priority 0; }'; nft add rule bridge cut c ip saddr 192.0.2.3 tcp dport 2379 drop; nft add rule bridge cut c ip daddr 192.0.2.3 tcp sport 2379 drop"
	s.run(s.LAN(), table)
	s.eventually("h3 hears nothing", func() bool { return !s.live(3) })
	s.started(3, "cutoff", s.Workload("w2"))
	s.flatnet(1, "net", "create", "second", "--mode", "cluster")
	_, revision := s.get(c, "cluster")
	_, err := c.Compact(s.Context(), revision)
	s.must(err)
	s.run(s.LAN(), "nft delete table bridge cut")
	healed := time.Now()
	s.within(time.Minute, "what was changed arrives at h3", func() bool {
		client := s.h(3).Client()
		defer client.Close()
		n, err := client.Network(s.Context(), "second")
		return err == nil && len(n.Status.Subnets) == 1 && len(n.Status.Nodes) == 3
	})
	s.Logf("h3 cut off from etcd, which was compacted: it has the network made meanwhile %v after", time.Since(healed).Round(time.Millisecond))
	s.flatnet(1, "net", "rm", "second")
	s.allLive()
	for n := range s.Hosts() {
		s.settled(n + 1)
	}
	x.whole("etcd killed, frozen, cut off")
	s.lossless("etcd killed, frozen, cut off", 400, flows...)
}

// bootsAlone: a host that boots while etcd is away has its block, and gives its workloads the addresses that they had.
func (s *site) bootsAlone() {
	id, blocks, addr, macs := s.id(3), s.blocks(3), s.address("w3"), s.macs(3)
	others := []*flow{s.flow("w1", "w2"), s.flow("w2", "w1")}
	s.run(s.h(1), "kill -STOP "+s.server())
	s.must(s.h(3).PowerOff(s.Context()))
	s.must(s.h(3).PowerOn(s.Context()))
	s.must(s.h(3).Start(s.Context()))
	booted := time.Now()
	s.flatnet(3, "run", "-d", "--name", "w3", "--network", "cluster", "--", "sleep", "1d")
	back := s.answered("w1", "w3")
	s.Logf("h3 booted without etcd: its workload answers from another host %v after flatnetd did", time.Since(booted).Round(time.Millisecond))
	s.run(s.h(1), "kill -CONT "+s.server())
	s.allLive()
	s.settled(3)
	if now := s.address("w3"); s.id(3) != id || now != addr || fmt.Sprint(s.blocks(3)) != fmt.Sprint(blocks) || s.macs(3) != macs {
		s.Errorf("h3 was %s with %v, w3 at %s, links %s; it is %s with %v, w3 at %s, links %s", id, blocks, addr, macs, s.id(3), s.blocks(3), now, s.macs(3))
	}
	time.Sleep(time.Second)
	s.lossless("h3 booted without etcd, afterwards", 0, back)
	s.lossless("h3 booted without etcd, the others", 100, others...)
}

// goneUnseen: what happened while a flatnetd was down is done at its start: a node's claims deleted, and a node that left.
func (s *site) goneUnseen() {
	flows := []*flow{s.flow("w1", "w2"), s.flow("w2", "w1")}
	id3, block := s.id(3), "10.244.2.0/24"
	trace := "ip route | grep " + block + "; ip neigh | grep 10.244.2.0; bridge fdb show dev fx-cluster | grep 192.0.2.3; nft list set inet flatnet members4 | grep 192.0.2.3; true"
	if got := s.run(s.h(2), trace); len(lines(got, "10.244.2.0", "fx-cluster")) == 0 {
		s.Fatalf("h2 has of h3:\n%s", got)
	}
	s.must(s.h(2).Kill9())
	s.must(s.h(3).Kill9())
	c := s.etcd()
	s.put(c, "claims/"+id3+"/cluster/"+block, "")
	s.put(c, "nodes/"+id3, "")
	s.must(s.h(2).Start(s.Context()))
	s.eventually("h2 keeps nothing of h3, whose keys were deleted", func() bool { return s.run(s.h(2), trace) == "" })
	s.settled(2)
	s.must(s.h(3).Start(s.Context()))
	s.eventually("h3 has its block again", func() bool { return fmt.Sprint(s.blocks(3)) == "["+block+"]" })
	back := s.answered("w1", "w3")
	s.lossless("h3 back", 0, back)

	s.must(s.h(2).Kill9())
	client := s.h(3).Client()
	defer client.Close()
	on3, err := client.Workloads(s.Context())
	s.must(err)
	for _, w := range on3 {
		s.flatnet(3, "rm", "-f", w.Name)
	}
	s.flatnet(3, "leave", "-y")
	s.must(s.h(2).Start(s.Context()))
	s.eventually("h2 keeps nothing of h3, which left", func() bool { return s.run(s.h(2), trace) == "" })
	s.settled(2)
	s.lossless("h3's keys deleted, then it left, while h2's flatnetd was down", 100, flows...)
}
