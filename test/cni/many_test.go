package cni_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// rounds is how often ADD and DEL are done when many are: make test-cni says 10000.
func rounds(s *site) int {
	n, err := strconv.Atoi(os.Getenv("CNI_ROUNDS"))
	if err != nil {
		return 320
	}
	return n
}

const atOnce = 8

// manyAtOnce attaches and detaches, eight at a time. No two ever have an address in common, and what flatnetd has open, and its memory, do not grow.
func manyAtOnce(s *site) {
	n := s.h(1)
	r := n.libcni(conflist("pods", "1.1.0", flatnetPlugin))
	total := rounds(s)
	l := &live{at: map[string]string{}}
	n.batch(r, l, "warm", total/4) // Go's heap and the tables of the kernel grow to what this needs
	files, memory := len(n.descriptors()), n.memory()
	n.batch(r, l, "more", total-total/4)
	s.eventually("flatnetd has no more files open than before", func() error {
		if now := len(n.descriptors()); now > files+total/64 { // connections to etcd come and go
			return fmt.Errorf("%d, now %d: %s", files, now, strings.Join(n.descriptors(), " "))
		}
		return nil
	})
	// A megabyte for each 1000 rounds would be a leak of 1 kB each; the rest is what Go's heap may swing by.
	if limit, now := memory+16<<10+total, n.memory(); now > limit {
		s.Errorf("flatnetd had %d kB, and has %d kB after %d rounds", memory, now, total-total/4)
	}
	s.Logf("%d rounds: flatnetd had %d kB, has %d kB; journal %s", total, memory, n.memory(), strings.TrimSpace(n.sh("du -sk /run/flatnet/journal | cut -f1")))
}

// live are the addresses that containers have.
type live struct {
	sync.Mutex
	at   map[string]string // address → container
	errs []error
}

func (l *live) failed(err error) {
	l.Lock()
	defer l.Unlock()
	l.errs = append(l.errs, err)
}

func (l *live) take(address, container string) {
	l.Lock()
	defer l.Unlock()
	if other := l.at[address]; other != "" {
		l.errs = append(l.errs, fmt.Errorf("%s has the address %s of %s", container, address, other))
	}
	l.at[address] = container
}

func (l *live) free(address string) {
	l.Lock()
	defer l.Unlock()
	delete(l.at, address)
}

// batch does rounds, each in one of some namespaces.
func (n *node) batch(r *client, l *live, name string, rounds int) {
	n.s.Helper()
	var all sync.WaitGroup
	containers := make([]*container, atOnce)
	for worker := range atOnce {
		c := n.container(fmt.Sprint(name, worker), object{"portMappings": []object{{"hostPort": 9000 + worker, "containerPort": 80}}})
		containers[worker] = c
		all.Go(func() {
			for i := range rounds / atOnce {
				if err := c.round(r, l, fmt.Sprintf("%s-%d-%d", name, worker, i)); err != nil {
					l.failed(err)
					return
				}
			}
		})
	}
	all.Wait()
	for _, c := range containers {
		c.remove()
	}
	for _, err := range l.errs {
		n.s.Error(err)
	}
	l.errs = nil
}

// round is ADD, CHECK and DEL of another container in the same namespace.
func (c *container) round(r *client, l *live, id string) error {
	rt := c.rt
	rt.ContainerID = id
	result, err := r.AddNetworkList(context.Background(), r.list, &rt)
	if err != nil {
		return fmt.Errorf("ADD %s: %w", id, err)
	}
	ip := address(must(result, nil))
	l.take(ip, id)
	if err := r.CheckNetworkList(context.Background(), r.list, &rt); err != nil {
		return fmt.Errorf("CHECK %s: %w", id, err)
	}
	l.free(ip) // during DEL it may be another's already
	if err := r.DelNetworkList(context.Background(), r.list, &rt); err != nil {
		return fmt.Errorf("DEL %s: %w", id, err)
	}
	return nil
}

// memory is what flatnetd has of its own, in kB.
func (n *node) memory() int {
	for line := range strings.Lines(n.read(fmt.Sprintf("/proc/%d/status", n.Daemon.PID))) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kB, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kB
		}
	}
	return 0
}
