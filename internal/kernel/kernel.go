package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/kernel/nft"
)

// Part is a part of the host's dataplane, done in a package of its own.
type Part interface {
	Apply(ctx context.Context, p dataplane.Plan) error
	Close() error
}

// Nft is the part with tables, chains, rules, sets and elements: an *nft.Conn. Its Apply does all steps or none.
type Nft interface {
	Part
	// Observe returns all that is ours, for the caller to keep. What it knows without reading it need not read, but afresh.
	Observe(ctx context.Context, afresh bool) (dataplane.State, error)
	Watch(ctx context.Context, each func(nft.Change)) error
}

// BPF is the part with programs and what they look up: a *bpf.Conn.
type BPF interface {
	Part
	// Observe returns all that is ours.
	Observe(ctx context.Context) ([]dataplane.Object, error)
}

// Config says what a Kernel needs.
type Config struct {
	RunDir string // a directory of ours for marks that the kernel can't hold; its content is worthless after a reboot
	Nft    Nft    // nil: the host has no nft objects
	BPF    BPF    // nil: the host has no programs

	// TakeOver has what another program left become ours when it is what is wanted, but for the mark: tunnel links of the host, and routes. For
	// the daemon that takes flanneld's place. Otherwise it is in the way, and refused.
	TakeOver bool

	// Another lets Go code run on one processor more until done; it is called while a deletion that was answered keeps its thread in the kernel,
	// and with it the processor that Go's runtime believes to be in use. nil: there are enough.
	Another func() (done func())
}

// Kernel is this machine's kernel, seen from the network namespace that New was called in: "the host". Its methods may be
// called concurrently.
type Kernel struct {
	nft      Nft
	bpf      BPF
	host     *netlink.Conn
	hostNS   *os.File
	owned    *netns.Owned
	changed  *originals
	borrowed *borrowed
	radios   *radios
	proxied  bell // rings when there is a proxied neighbour
	memory   memory
	broom    *broom
	told     told
	lent     lent
	ear      ear
	wrote    wrote
	heir     bool          // see Config.TakeOver
	groups   atomic.Uint32 // of links to delete at once, used so far
	applied  atomic.Uint64 // plans carried out on the host
	busy     sync.RWMutex  // read-locked while Apply changes the host: Watch does not look at what is half done
}

// New opens the host's socket and reads RunDir, which is made when it is not there. Close the Kernel to free them.
func New(c Config) (*Kernel, error) {
	runtime.LockOSThread() // both must be of one namespace
	defer runtime.UnlockOSThread()
	owned, err := netns.OpenOwned(filepath.Join(c.RunDir, "netns"))
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	changed, err := openOriginals(filepath.Join(c.RunDir, "sysctls.json"))
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	borrowed, err := openBorrowed(filepath.Join(c.RunDir, "ports.json"))
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	hostNS, err := netns.Current()
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	host, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		hostNS.Close()
		return nil, fmt.Errorf("kernel: %w", err)
	}
	k := &Kernel{nft: c.Nft, bpf: c.BPF, host: host, hostNS: hostNS, owned: owned, changed: changed, borrowed: borrowed, memory: newMemory(), broom: newBroom(c.Another), heir: c.TakeOver, proxied: make(bell, 1)}
	k.radios = newRadios(k.isRadio)
	return k, nil
}

// Close frees what New opened, and the parts in the Config.
func (k *Kernel) Close() error {
	k.broom.close()
	errs := []error{k.host.Close(), k.hostNS.Close()}
	for _, p := range k.parts() {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

func (k *Kernel) parts() (parts []Part) {
	if k.nft != nil {
		parts = append(parts, k.nft)
	}
	if k.bpf != nil {
		parts = append(parts, k.bpf)
	}
	return parts
}

// Leave takes back what was done to directories of the host for our namespaces; the namespaces must be gone. Nothing else of
// ours is outside of a State.
func (k *Kernel) Leave() error { return k.owned.Leave() }

// Damaged names the files of RunDir that New could not read and moved aside, by their new names. What they said is forgotten:
// values of the host from before our changes are not put back.
func (k *Kernel) Damaged() (files []string) {
	for _, file := range []string{k.changed.file.damaged, k.borrowed.file.damaged} {
		if file != "" {
			files = append(files, file)
		}
	}
	return files
}

// Missing reports whether files in RunDir are gone, which somebody removed: what they say of the kernel would be forgotten.
func (k *Kernel) Missing() bool { return k.owned.Missing() || k.changed.missing() }

// Restore writes the missing files anew.
func (k *Kernel) Restore() error {
	err := k.owned.Restore()
	if k.changed.missing() {
		err = errors.Join(err, k.changed.write())
	}
	return err
}

// space is a network namespace while we work in it.
type space struct {
	path string
	ns   *os.File
	conn *netlink.Conn // of NETLINK_ROUTE
}

// enter opens a namespace: the host's is open all the time, another's only until leave, as a socket keeps it alive. When it
// is gone the error is fs.ErrNotExist.
func (k *Kernel) enter(path string) (*space, error) {
	if path == dataplane.HostNetns {
		return &space{ns: k.hostNS, conn: k.host}, nil
	}
	ns, err := k.open(path)
	if err != nil {
		return nil, err
	}
	s := &space{path: path, ns: ns}
	err = netns.DoFile(ns, func() (err error) {
		s.conn, err = netlink.Open(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("netns %q: %w", path, err)
	}
	return s, nil
}

func (s *space) leave() {
	if s.path != dataplane.HostNetns {
		s.conn.Close()
		s.ns.Close()
	}
}

// do runs fn on a thread inside, for what depends on the thread: /proc/sys/net and new sockets.
func (s *space) do(fn func() error) error { return netns.DoFile(s.ns, fn) }
