package netlink_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

func unshare(t *testing.T) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("these tests need root: unshare: %v", err)
	}
}

func open(t *testing.T) *netlink.Conn {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func addBridge(b *netlink.Batch, name string) {
	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.Raw(make([]byte, unix.SizeofIfInfomsg))
	b.String(unix.IFLA_IFNAME, name)
	info := b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, "bridge")
	b.End(info)
}

func getLink(b *netlink.Batch, name string) {
	b.Begin(unix.RTM_GETLINK, 0)
	b.Raw(make([]byte, unix.SizeofIfInfomsg))
	b.String(unix.IFLA_IFNAME, name)
}

func TestEachMessageHasItsOwnError(t *testing.T) {
	unshare(t)
	c := open(t)
	var b netlink.Batch
	addBridge(&b, "a")
	addBridge(&b, "a")
	addBridge(&b, "b")
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(make([]byte, unix.SizeofIfInfomsg))
	b.String(unix.IFLA_IFNAME, "b")
	b.Uint32(unix.IFLA_MTU, 1)
	errs := c.Do(&b, nil)
	if len(errs) != 4 || errs[0] != nil || !errors.Is(errs[1], unix.EEXIST) || errs[2] != nil {
		t.Fatalf("got %v, want only the second refused as existing, and the fourth", errs)
	}
	const words = "invalid argument: mtu less than device minimum" // the kernel's own, from extended acks
	if errs[3] == nil || errs[3].Error() != words {
		t.Errorf("got %v, want %s", errs[3], words)
	}
}

func TestAnswersBelongToTheirMessages(t *testing.T) {
	unshare(t)
	c := open(t)
	var b netlink.Batch
	for i := range netlink.MaxBatch {
		getLink(&b, []string{"lo", "none"}[i%2])
	}
	answers := make([]int, netlink.MaxBatch)
	errs := c.Do(&b, func(i int, m netlink.Message) { answers[i]++ })
	for i, n := range answers {
		if n != 1-i%2 || errors.Is(errs[i], unix.ENODEV) != (i%2 == 1) {
			t.Fatalf("message %d: %d answers, error %v", i, n, errs[i])
		}
	}
}

func TestDumpsWhileLinksChangeAreWhole(t *testing.T) {
	unshare(t)
	c, other := open(t), open(t)
	var b netlink.Batch
	for i := range 100 {
		addBridge(&b, fmt.Sprintf("b%d", i))
	}
	for _, err := range other.Do(&b, nil) {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // makes and deletes one all the time
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			var b netlink.Batch
			addBridge(&b, "x")
			b.Begin(unix.RTM_DELLINK, 0)
			b.Raw(make([]byte, unix.SizeofIfInfomsg))
			b.String(unix.IFLA_IFNAME, "x")
			other.Do(&b, nil)
		}
	}()
	for range 20 {
		names := map[string]bool{}
		var b netlink.Batch
		b.Begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		b.Raw(make([]byte, unix.SizeofIfInfomsg))
		err := c.Dump(&b, func() { clear(names) }, func(m netlink.Message) error {
			for typ, a := range netlink.Attrs(m.Data[unix.SizeofIfInfomsg:]) {
				if typ == unix.IFLA_IFNAME {
					names[a.String()] = true
				}
			}
			return nil
		})
		delete(names, "x")
		if !errors.Is(err, netlink.ErrInterrupted) && (err != nil || len(names) != 101) {
			t.Errorf("%d links %v, want 101", len(names), err)
		}
	}
	close(stop)
	<-stopped
}

func TestListenerHearsAndEndsWithItsContext(t *testing.T) {
	unshare(t)
	l, err := netlink.Listen(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var b netlink.Batch
	addBridge(&b, "a")
	if errs := open(t).Do(&b, nil); errs != nil {
		t.Fatal(errs)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := l.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	heard := 0
	if _, err := l.Drain(func(m netlink.Message) error { heard++; return nil }); err != nil || heard == 0 {
		t.Errorf("heard %d messages, %v", heard, err)
	}
	cancel()
	if err := l.Wait(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after cancel: %v", err)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		netlink.Split(p, func(m netlink.Message) error {
			for _, a := range netlink.Attrs(m.Data) {
				_, _, _, _ = a.String(), a.Uint8(), a.Uint16BE(), a.Uint32()
				a.Uint32At(len(a) / 4)
			}
			return nil
		})
	})
}

// A link is gone when DoEarly returns; the kernel's answer, which comes later, is not taken for that to another message.
func TestAnEarlyAnswerIsTrue(t *testing.T) {
	unshare(t)
	c := open(t)
	for i := range 5 {
		name := fmt.Sprintf("b%d", i)
		var b netlink.Batch
		addBridge(&b, name)
		if errs := c.Do(&b, nil); errs != nil {
			t.Fatal(errs)
		}
		index := indexOf(t, c, name)
		if err := deleteEarly(c, index); err != nil {
			t.Fatalf("delete link %d: %v", index, err)
		}
		other := open(t)
		b.Reset()
		getLink(&b, name)
		if errs := other.Do(&b, nil); len(errs) != 1 || !errors.Is(errs[0], unix.ENODEV) {
			t.Errorf("after its deletion a look at %s: %v", name, errs)
		}
		if err := deleteEarly(c, index); !errors.Is(err, unix.ENODEV) {
			t.Errorf("deleted twice: %v, want %v", err, unix.ENODEV)
		}
		if indexOf(t, c, "lo") != 1 {
			t.Error("lo is not the first link")
		}
	}
}

// deleteEarly waits for the end too, as the Conn is used again.
func deleteEarly(c *netlink.Conn, index uint32) error {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], index)
	var b netlink.Batch
	b.Begin(unix.RTM_DELLINK, 0)
	b.Raw(header)
	ended := make(chan struct{})
	err := c.DoEarly(&b, func() { close(ended) })
	<-ended
	return err
}

func indexOf(t *testing.T, c *netlink.Conn, name string) (index uint32) {
	var b netlink.Batch
	getLink(&b, name)
	errs := c.Do(&b, func(_ int, m netlink.Message) { index = binary.NativeEndian.Uint32(m.Data[4:]) })
	if errs != nil {
		t.Fatal(errs)
	}
	return index
}
