package socket

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"unsafe"

	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/sys/unix"
)

// Access says who may do what: uid 0 changes, members of Group read, others are refused.
type Access struct {
	Group        int  // gid whose members may read; 0: root only
	GroupChanges bool // members of Group may change as well, which makes them as good as root
	EveryoneIs   bool // tests that do not run as root: the daemon's own uid counts as root
}

// peer is who connected, as the kernel noted it in connect(2): what the process became since, or that it ended, changes nothing.
type peer struct {
	cred   unix.Ucred
	groups []uint32 // supplementary ones; of root not asked for
	err    error
}

type peerKey struct{}

// rememberPeer is an http.Server's ConnContext.
func rememberPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerOf(c))
}

func peerOf(c net.Conn) peer {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{err: fmt.Errorf("connection is not a unix socket")}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{err: err}
	}
	var p peer
	if err := raw.Control(func(fd uintptr) { p = credentials(int(fd)) }); err != nil {
		return peer{err: err}
	}
	return p
}

func credentials(fd int) peer {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{err: fmt.Errorf("read peer's credentials: %w", err)}
	}
	if cred.Uid == 0 {
		return peer{cred: *cred}
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return peer{err: fmt.Errorf("read peer's groups: %w", err)}
	}
	return peer{cred: *cred, groups: groups}
}

// peerGroups is SO_PEERGROUPS (Linux 4.13). With ERANGE the kernel tells how many bytes it needs.
func peerGroups(fd int) ([]uint32, error) {
	const gid = unsafe.Sizeof(uint32(0))
	groups := make([]uint32, 64)
	for {
		size := uint32(uintptr(len(groups)) * gid)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		n := int(uintptr(size) / gid)
		switch {
		case errno == 0:
			return groups[:n], nil
		case errno == unix.ERANGE && n > len(groups):
			groups = make([]uint32, n)
		default:
			return nil, errno
		}
	}
}

// check is nil when the sender may make the request.
func (a Access) check(r *http.Request) error {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok || p.err != nil {
		return notPermitted("the caller cannot be told", "")
	}
	if p.cred.Uid == 0 || a.EveryoneIs && int(p.cred.Uid) == os.Getuid() {
		return nil
	}
	who := fmt.Sprintf("uid %d", p.cred.Uid)
	if a.Group == 0 || !p.member(a.Group) {
		return notPermitted(who+" may not speak to flatnetd", "run it as root, or as a member of the socket's group")
	}
	if reads(r.Method) || a.GroupChanges {
		return nil
	}
	return notPermitted(who+" may look but not change", "run it as root")
}

func reads(method string) bool { return method == http.MethodGet || method == http.MethodHead }

func notPermitted(reason, fix string) error {
	return model.Problem{Code: model.CodeNotPermitted, Reason: reason, Fix: fix}
}

func (p peer) member(gid int) bool {
	return int(p.cred.Gid) == gid || slices.Contains(p.groups, uint32(gid))
}
