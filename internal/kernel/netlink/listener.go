package netlink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenBuffer holds the notifications of some ten thousand changes while nobody reads.
const listenBuffer = 16 << 20

// Listener receives what the kernel tells everybody, in the network namespace that it was opened in.
type Listener struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
	kept []byte // messages that Keep took
	lost bool   // when Keep found it
}

// Listen joins multicast groups of a netlink protocol, by number (RTNLGRP_LINK …).
func Listen(protocol int, groups ...int) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", os.NewSyscallError("socket", err))
	}
	l := &Listener{file: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, dumpBuffer)}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, listenBuffer)
	err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	for _, g := range groups {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
		}
	}
	if err == nil {
		l.raw, err = l.file.SyscallConn()
	}
	if err != nil {
		l.file.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return l, nil
}

// Filter drops the notifications for which a program of the classic packet filter returns 0, before they are queued; it runs on whole
// messages. A new one takes the place of the last.
func (l *Listener) Filter(program []unix.SockFilter) error {
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	var err error
	controlErr := l.raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p))
	})
	if err = errors.Join(controlErr, err); err != nil {
		return fmt.Errorf("netlink: filter: %w", err)
	}
	return nil
}

// Close ends the membership.
func (l *Listener) Close() error { return l.file.Close() }

// Wait returns when there are notifications, or with ctx's error when it ends.
func (l *Listener) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := l.raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0) // unlike a peek it leaves ENOBUFS to Drain
		return n > 0 || err != nil && err != unix.EINTR
	})
	return errors.Join(ctx.Err(), err)
}

// Drain hands the notifications that have come so far to each, without waiting. Lost says that there were more, for which
// there was no room.
func (l *Listener) Drain(each func(Message) error) (lost bool, err error) {
	kept := l.kept
	lost, l.kept, l.lost = l.lost, nil, false
	if err := Split(kept, each); err != nil {
		return lost, err
	}
	for {
		p, err := l.read()
		switch {
		case err == unix.EAGAIN:
			return lost, nil
		case err == unix.ENOBUFS:
			lost = true
			continue
		case err == nil:
			err = Split(p, each)
		}
		if err != nil {
			return lost, err
		}
	}
}

// Keep takes what has come so far out of the kernel's queue for the next Drain, for when that has to wait: here a notification takes a
// tenth of the room.
func (l *Listener) Keep() error {
	for {
		p, err := l.read()
		switch err {
		case unix.EAGAIN:
			return nil
		case unix.ENOBUFS:
			l.lost = true
		case nil:
			l.kept = append(l.kept, p...)
			l.kept = append(l.kept, make([]byte, align(len(l.kept))-len(l.kept))...)
		default:
			return err
		}
	}
}

// read returns one datagram of the kernel's; what other processes send is empty.
func (l *Listener) read() (p []byte, err error) {
	controlErr := l.raw.Control(func(fd uintptr) {
		for {
			n, _, _, from, e := unix.Recvmsg(int(fd), l.buf, nil, unix.MSG_DONTWAIT)
			if e == unix.EINTR {
				continue
			}
			p, err = l.buf[:max(n, 0)], e
			if sender, ok := from.(*unix.SockaddrNetlink); e == nil && (!ok || sender.Pid != 0) {
				p = nil
			}
			return
		}
	})
	if controlErr != nil {
		return nil, controlErr
	}
	return p, err
}
