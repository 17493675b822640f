package cni_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// passing is what may be different without being left behind: numbers of packets, what a set remembers for some seconds, the state of a link, which
// follows by itself.
var passing = []*regexp.Regexp{
	regexp.MustCompile(`counter packets \d+ bytes \d+`),
	regexp.MustCompile(`\bexpires \S+`),
	regexp.MustCompile(`<[A-Z,_-]+>`),
	regexp.MustCompile(`\bstate [A-Z]+`),
	regexp.MustCompile(`(?m)^\d+: |@if\d+|link-netnsid \d+`),
	regexp.MustCompile(`\b(linkdown|dead)\b`),
}

// world is all that attaching and detaching could leave on a host, a line each.
func (n *node) world() []string {
	n.s.Helper()
	// Link-local addresses and multicast groups come and go by themselves, some time after a carrier.
	text := n.sh(`
		ip -o link; ip route show table all; ip rule; ip -6 rule; ip neighbour show nud permanent; tc qdisc show; nft list ruleset
		{ ip -o address; ip -6 route show table all; } | grep -vE 'fe80:|ff00::/8'
		bridge fdb show | grep -w permanent | grep -vE '^(01:00:5e|33:33):' || true
		ls -d /run/netns/* /run/flatnet/netns/* /var/lib/cni/results/* /var/lib/cni/networks/*/* 2>/dev/null || true
		grep nsfs /proc/mounts | grep -v /run/netns/kt || true`) // kt: other packages' tests
	for _, p := range passing {
		text = p.ReplaceAllString(text, "")
	}
	all := strings.Split(text, "\n")
	all = append(all, n.workloads()...)
	all = append(all, n.heldNamespaces()...)
	for i, line := range all {
		all[i] = strings.Join(strings.Fields(line), " ")
	}
	slices.Sort(all)
	return all
}

// workloads are those that flatnetd knows, with their addresses.
func (n *node) workloads() []string {
	n.s.Helper()
	c := n.Client()
	defer c.Close()
	list, err := c.Workloads(context.Background())
	n.s.must(err)
	var all []string
	for _, w := range list {
		all = append(all, "workload "+w.Name)
		for _, e := range w.Endpoints {
			all = append(all, fmt.Sprint("endpoint ", w.Name, " ", e.IfName, " ", e.IPs))
		}
	}
	return all
}

// heldNamespaces are the descriptors of flatnetd's that are of network namespaces: each keeps one alive.
func (n *node) heldNamespaces() []string {
	var all []string
	for _, to := range n.descriptors() {
		if strings.HasPrefix(to, "net:[") {
			all = append(all, "flatnetd holds "+to)
		}
	}
	return all
}

// descriptors are what flatnetd has open.
func (n *node) descriptors() []string {
	dir := n.Path(fmt.Sprintf("/proc/%d/fd", n.Daemon.PID))
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			all = append(all, to)
		}
	}
	return all
}

// leavesNothing tells a story and wants nothing to be left of it on the hosts.
func (s *site) leavesNothing(tell func()) {
	s.Helper()
	var before [][]string
	for _, n := range s.nodes {
		before = append(before, n.world())
	}
	tell()
	for i, n := range s.nodes {
		s.eventually(n.Name+" is as it was", func() error { return difference(before[i], n.world()) })
	}
}

// restart ends flatnetd on all hosts as a crash does: what comes back then was on record.
func (s *site) restart() {
	s.Helper()
	for _, n := range s.nodes {
		s.must(n.Kill9())
		s.must(n.Start(s.Context()))
	}
}

// difference is an error with the lines that only one of two sorted lists has.
func difference(before, after []string) error {
	var all []error
	for _, line := range slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(before), after...)))) {
		if b, a := count(before, line), count(after, line); b != a {
			all = append(all, fmt.Errorf("%d, then %d: %s", b, a, line))
		}
	}
	return errors.Join(all...)
}

func count(list []string, line string) int {
	n := 0
	for _, l := range list {
		if l == line {
			n++
		}
	}
	return n
}

// there reports whether a host has a file.
func (n *node) there(path string) bool {
	_, err := os.Lstat(n.Path(path))
	return !errors.Is(err, fs.ErrNotExist)
}
