package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
	"github.com/flatnet/flatnet/internal/model"
)

// Listener is a socket of the host that waits on a port: TCP listening, or UDP bound and not connected.
type Listener struct {
	Proto   model.Proto
	Addr    netip.Addr // 0.0.0.0 or :: when it waits on every address
	V6Only  bool       // :: does not stand for IPv4 addresses too
	Port    uint16
	PID     int    // 0 when it was not asked for or could not be found: see PortHolder
	Process string // name of that process

	inode uint32
}

// String is the listener in words: `tcp 0.0.0.0:8080 (nginx[4711])`.
func (l Listener) String() string {
	s := fmt.Sprintf("%s %s", l.Proto, netip.AddrPortFrom(l.Addr, l.Port))
	if l.PID != 0 {
		s += fmt.Sprintf(" (%s[%d])", l.Process, l.PID)
	}
	return s
}

// holds reports whether packets to some address of the host (to every one when to is the zero Addr) come to the listener.
func (l Listener) holds(proto model.Proto, to netip.Addr, ports model.Ports) bool {
	if l.Proto != proto || l.Port < ports.First || l.Port > ports.Last {
		return false
	}
	switch {
	case !to.IsValid():
		return true
	case !l.Addr.IsUnspecified():
		return l.Addr == to
	case l.Addr.Is6() == to.Is6():
		return true
	}
	return l.Addr.Is6() && !l.V6Only
}

// Listeners returns all listeners of the host, without their processes.
func (k *Kernel) Listeners(ctx context.Context) ([]Listener, error) {
	var diag *netlink.Conn
	err := (&space{ns: k.hostNS}).do(func() (err error) {
		diag, err = netlink.Open(unix.NETLINK_SOCK_DIAG)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listeners: %w", err)
	}
	defer diag.Close()
	var all []Listener
	for _, proto := range []model.Proto{model.TCP, model.UDP, model.SCTP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			some, err := dumpListeners(diag, proto, family)
			if err = ignoring(err, unix.ENOENT); err != nil { // ENOENT: the kernel has no such sockets
				return nil, fmt.Errorf("listeners: %s: %w", proto, err)
			}
			all = append(all, some...)
		}
	}
	return all, ctx.Err()
}

// PortHolder returns a listener that waits on one of the ports of an address (of any when addr is the zero Addr), with its
// process. Finding that reads the descriptors of all processes, for which CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH are needed;
// without them, or when it is in a container's namespace of processes, PID is 0.
func (k *Kernel) PortHolder(ctx context.Context, proto model.Proto, addr netip.Addr, ports model.Ports) (Listener, bool, error) {
	all, err := k.Listeners(ctx)
	if err != nil {
		return Listener{}, false, err
	}
	for _, l := range all {
		if l.holds(proto, addr, ports) {
			l.PID, l.Process = socketOwner(l.inode)
			return l, true, nil
		}
	}
	return Listener{}, false, nil
}

// Of linux/inet_diag.h and net/tcp_states.h.
const (
	diagRequest = 56      // sizeof(struct inet_diag_req_v2)
	diagAnswer  = 72      // sizeof(struct inet_diag_msg)
	diagV6Only  = 11      // INET_DIAG_SKV6ONLY
	tcpListen   = 1 << 10 // of the states in a request: a bit each
	tcpClose    = 1 << 7  // what an unconnected UDP socket is in
)

func dumpListeners(c *netlink.Conn, proto model.Proto, family uint8) ([]Listener, error) {
	request := make([]byte, diagRequest)
	request[0], request[1] = family, uint8(proto)
	binary.NativeEndian.PutUint32(request[4:], tcpListen)
	if proto == model.UDP {
		binary.NativeEndian.PutUint32(request[4:], tcpClose)
	}
	var b netlink.Batch
	b.Begin(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	b.Raw(request)
	var found []Listener
	err := c.Dump(&b, func() { found = nil }, func(m netlink.Message) error {
		if l, ok := parseListener(m.Data); ok && l.Port != 0 {
			l.Proto = proto
			found = append(found, l)
		}
		return nil
	})
	return found, err
}

// parseListener reads struct inet_diag_msg: family, state, timer, retrans; then struct inet_diag_sockid: ports and addresses;
// the inode comes last.
func parseListener(p []byte) (l Listener, ok bool) {
	if len(p) < diagAnswer {
		return Listener{}, false
	}
	l.Port = binary.BigEndian.Uint16(p[4:])
	if p[0] == unix.AF_INET6 {
		l.Addr = netip.AddrFrom16([16]byte(p[8:24]))
	} else {
		l.Addr = netip.AddrFrom4([4]byte(p[8:12]))
	}
	l.Addr = l.Addr.Unmap()
	l.inode = binary.NativeEndian.Uint32(p[68:])
	for typ, a := range netlink.Attrs(p[diagAnswer:]) {
		if typ == diagV6Only {
			l.V6Only = a.Uint8() != 0
		}
	}
	return l, true
}

// socketOwner finds the first process that has a socket open.
func socketOwner(inode uint32) (pid int, name string) {
	want := fmt.Sprintf("socket:[%d]", inode)
	fds, err := filepath.Glob("/proc/[0-9]*/fd")
	if err != nil {
		return 0, ""
	}
	for _, dir := range fds {
		if holdsLink(dir, want) {
			process := filepath.Dir(dir)
			comm, err := os.ReadFile(filepath.Join(process, "comm"))
			pid, errPID := strconv.Atoi(filepath.Base(process))
			if errors.Join(err, errPID) == nil {
				return pid, strings.TrimSpace(string(comm))
			}
		}
	}
	return 0, ""
}

func holdsLink(dir, want string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // a process that ends meanwhile has none
	for _, name := range names {
		if to, err := os.Readlink(filepath.Join(dir, name)); err == nil && to == want {
			return true
		}
	}
	return false
}
