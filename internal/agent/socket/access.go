package socket

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/sys/unix"
)

// Access says who may do what: uid 0 changes, members of Group read, others are refused.
type Access struct {
	Group        int  // gid whose members may read; 0: root only
	GroupChanges bool // members of Group may change as well, which makes them as good as root
	EveryoneIs   bool // tests that do not run as root: the daemon's own uid counts as root
}

// peer is who is at the other end of a connection; groups are found when they are first asked for.
type peer struct {
	cred unix.Ucred
	err  error
}

type peerKey struct{}

// rememberPeer is an http.Server's ConnContext: it reads the credentials that the kernel kept from connect(2).
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
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if ctlErr != nil || err != nil {
		return peer{err: fmt.Errorf("read peer's credentials: %v%v", ctlErr, err)}
	}
	return peer{cred: *cred}
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

// member reports whether the peer is in the group. SO_PEERCRED tells the primary group only; the others are read from the
// process, whose PID is still its own as it waits for our answer.
func (p peer) member(gid int) bool {
	if int(p.cred.Gid) == gid {
		return true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cred.Pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if groups, ok := strings.CutPrefix(line, "Groups:"); ok {
			return slices.Contains(strings.Fields(groups), strconv.Itoa(gid))
		}
	}
	return false
}
