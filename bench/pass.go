package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel"
)

// manyEndpoints is how many a large host has.
const manyEndpoints = 1000

// emptyPass observes a host with many endpoints, finds nothing to do, and writes nothing: in full, as at the start and every few
// minutes, and in short, as it is while the daemon watches.
func emptyPass(ctx context.Context, b *bench) error {
	n, passes := manyEndpoints, 40
	if b.quick {
		n, passes = 20, 3
	}
	h, err := newLoopHost("pass", labView(lab4, lab6))
	if err != nil {
		return err
	}
	if err := h.populate(ctx, n); err != nil {
		return err
	}
	quiet, err := newListener("/run/netns/host-pass")
	if err != nil {
		return err
	}
	defer quiet.close()
	if err := quiet.wait(ctx); err != nil {
		return err
	}
	fmt.Printf("%d endpoints, %d objects\n", n, h.loop.Stats().Objects)
	if err := h.idlePasses(ctx, "a full look", quiet, passes); err != nil {
		return err
	}
	end, err := h.watch(ctx)
	if err != nil {
		return err
	}
	return errors.Join(h.idlePasses(ctx, "a pass while watching", quiet, passes), end())
}

// watch has the kernel's notifications read, and returns when the first has come.
func (h *loopHost) watch(ctx context.Context) (end func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	begun, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- h.kernel.Watch(ctx, func(kernel.Event) { once.Do(func() { close(begun) }) })
	}()
	end = func() error {
		cancel()
		return <-ended
	}
	select {
	case <-begun:
		return end, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

func (h *loopHost) idlePasses(ctx context.Context, name string, quiet *listener, passes int) error {
	var took []spent
	for range passes {
		s, err := meter(func() error {
			changes, err := h.loop.Repair(ctx)
			if err == nil && len(changes) > 0 {
				err = fmt.Errorf("a pass over an unchanged host did something: %v", changes)
			}
			return err
		})
		if err != nil {
			return err
		}
		took = append(took, s)
	}
	heard, err := quiet.heard()
	if err != nil {
		return err
	}
	m, least := median(took), best(took)
	fmt.Printf("%-22s %.1f ms CPU (best %.1f), %.1f ms wall (best %.1f); the kernel told of %d changes in %d passes\n",
		name+":", millis(m.cpu), millis(least.cpu), millis(m.wall), millis(least.wall), heard, passes)
	if heard > 0 {
		return errors.New("a pass over an unchanged host wrote something")
	}
	return nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// listener counts what the kernel tells of changes of links, addresses, routes and nft.
type listener struct{ sockets []*socket }

func newListener(path string) (*listener, error) {
	groups := map[int][]int{
		unix.NETLINK_ROUTE: {unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE},
		unix.NETLINK_NETFILTER: {unix.NFNLGRP_NFTABLES},
	}
	l := &listener{}
	return l, within(path, func() error {
		for protocol, joined := range groups {
			s, err := openSocket(protocol)
			if err != nil {
				return err
			}
			l.sockets = append(l.sockets, s)
			if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return err
			}
			for _, g := range joined {
				if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// wait returns when nothing was heard for some seconds: links tell of their carrier with a delay of up to one, and more on a busy machine.
func (l *listener) wait(ctx context.Context) error {
	for ctx.Err() == nil {
		time.Sleep(5 * time.Second)
		if n, err := l.heard(); n == 0 || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// heard is the number of datagrams that are waiting.
func (l *listener) heard() (int, error) {
	n := 0
	for _, s := range l.sockets {
		for {
			_, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // there were more than the socket holds
				return n, err
			}
			n++
		}
	}
	return n, nil
}

func (l *listener) close() {
	for _, s := range l.sockets {
		s.close()
	}
}
