package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// manyEndpoints is how many a large host has.
const manyEndpoints = 1000

// emptyPass observes a host with many endpoints, finds nothing to do, and writes nothing.
func emptyPass(ctx context.Context, b *bench) error {
	n, passes := manyEndpoints, 20
	if b.quick {
		n, passes = 20, 3
	}
	h, err := newLoopHost("pass")
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
	fmt.Printf("%d endpoints, %d objects: %.1f ms CPU (best %.1f), %.1f ms wall (best %.1f) a pass; the kernel told of %d changes in %d passes\n",
		n, h.loop.Stats().Objects, millis(m.cpu), millis(least.cpu), millis(m.wall), millis(least.wall), heard, passes)
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

// wait returns when nothing was heard for two seconds: links tell of their carrier with a delay of up to one.
func (l *listener) wait(ctx context.Context) error {
	for ctx.Err() == nil {
		time.Sleep(2 * time.Second)
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
