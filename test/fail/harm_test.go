package fail_test

import (
	"strings"
	"time"
)

// harmIsMeant: what cannot be used of the store is refused, said with its reason, and harms nobody.
func (s *site) harmIsMeant() {
	c := s.etcd()
	id2, id3 := s.id(2), s.id(3)
	node3, _ := s.get(c, "nodes/"+id3)
	network, _ := s.get(c, "networks/cluster")
	node := func(id, at string) string {
		return strings.NewReplacer(id3, id, `"192.0.2.3"`, `"`+at+`"`, `"2001:db8:1::3"`, `""`, `"h3"`, `"`+id+`"`).Replace(node3)
	}
	flows, x := s.mesh(), s.transfer("w1", "w2")
	values := map[string]string{
		"claims/" + id3 + "/cluster/10.245.0.0/24": "{}", "claims/" + id3 + "/cluster/0.0.0.0/0": "{}", "claims/" + id3 + "/cluster/10.244.0.0/24": "{}",
		"claims/" + id3 + "/cluster/10.244.9.0/25": "{}", "claims/" + id3 + "/cluster/192.0.2.0/24": "{}", "claims/n-ghost/cluster/10.244.7.0/24": "{}",
		"claims/" + id3 + "/other/10.244.8.0/24": "{}", "claims/" + id3 + "/cluster/10.244.1.0/33": "{}", "claims/x": "{}",
		"nodes/n-z-thief": node("n-z-thief", "192.0.2.2"), "nodes/n-zero": node("n-zero", "0.0.0.0"), "nodes/n-lo": node("n-lo", "127.0.0.1"), "nodes/n-group": node("n-group", "224.0.0.5"),
		"nodes/n-inside": node("n-inside", "10.244.1.2"), "nodes/n-junk": "{{{", "nodes/n-new": `{"schema":99,"value":{}}`, "nodes/n-other": node3, "nodes/n-esc": `{"schema":1,"value":{"ID":"n-esc","Name":"\u001b[31mred"}}`,
		"networks/junk": "\x00\x01", "networks/list": "[]", "networks/new": `{"schema":99,"value":{}}`,
		"networks/all":  strings.NewReplacer(`"Name":"cluster"`, `"Name":"all"`, `10.244.0.0/16`, `0.0.0.0/0`, `"VNI":1`, `"VNI":7`).Replace(network),
		"networks/lan":  strings.NewReplacer(`"Name":"cluster"`, `"Name":"lan"`, `10.244.0.0/16`, `192.0.2.0/24`, `"VNI":1`, `"VNI":8`).Replace(network),
		"networks/same": strings.NewReplacer(`"Name":"cluster"`, `"Name":"same"`, `10.244.0.0/16`, `10.244.0.0/17`, `"VNI":1`, `"VNI":9`).Replace(network),
	}
	for key, value := range values {
		s.put(c, key, value)
	}
	for n := range s.Hosts() {
		for _, words := range [][]string{{"10.245.0.0/24", "outside of network"}, {"0.0.0.0/0", "every address"}, {"10.244.9.0/25", "not one of the network's blocks"}, {"192.0.2.0/24"},
			{"n-ghost", "nothing is known"}, {"no cluster network", "other"}, {"nodes/n-junk"}, {"nodes/n-new", "schema 99"}, {"networks/junk"}} {
			s.finds(n+1, "FN5408", words...)
		}
		s.finds(n+1, "FN5401", "n-lo", "127.0.0.1")
	}
	if list := s.flatnet(2, "host", "ls", "-o", "wide"); len(lines(list, "n-z-thief", "FN")) == 0 {
		s.Errorf("host ls:\n%s", list)
	}
	time.Sleep(500 * time.Millisecond)
	for n := range s.Hosts() {
		s.settled(n + 1)
	}
	s.started(2, "amid", s.Workload("w1"))
	s.must(s.h(2).Kill9()) // whoever starts with them is not harmed either
	s.must(s.h(2).Start(s.Context()))
	s.settled(2)
	x.whole("values that mean harm")
	s.lossless("values that mean harm", 400, flows...)
	if got := s.blocks(1); len(got) != 1 || got[0] != "10.244.0.0/24" {
		s.Errorf("h1 holds %v", got)
	}
	for key := range values {
		s.put(c, key, "")
	}
	for n := range s.Hosts() {
		s.eventually("nothing is left to be told", func() bool {
			for _, f := range s.doctor(n + 1) {
				if f.Code == "FN5408" || f.Code == "FN5401" {
					return false
				}
			}
			return true
		})
	}

	// A claim that somebody deleted is claimed again. The other nodes have no way to the block from the deletion to the new claim.
	again := s.mesh()
	s.put(c, "claims/"+id2+"/cluster/10.244.1.0/24", "")
	s.eventually("h2 claims its block again", func() bool {
		v, _ := s.get(c, "claims/"+id2+"/cluster/10.244.1.0/24")
		return v != ""
	})
	time.Sleep(3 * time.Second) // longer than a block is used while it is asked for
	for _, f := range again {
		if got := f.stop(); got.lost > got.sent/4 || got.sent < 100 {
			s.Errorf("h2's claim deleted: %s: %v", f.about, got)
		} else if got.lost > 0 {
			s.Logf("h2's claim deleted: %s: %v", f.about, got)
		}
	}
	if told := s.told(2, "lease", time.Now().Add(-time.Minute)); len(told) == 0 {
		s.Error("h2 did not tell of its lost claim")
	}
}
