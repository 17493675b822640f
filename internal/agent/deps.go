package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/store"
)

// Config says where the agent keeps things and how it calls itself.
type Config struct {
	RunDir   string // of the workloads' files: RunDir/workloads/NAME/resolv.conf
	NetnsDir string // where namespaces that the agent makes are kept
	BootID   string // changes with each boot of the machine: then networks start as their Autostart says
	Version  string

	ClusterDir string // what this host keeps of its cluster; empty: nothing

	HostLocalDir string // where CNI's host-local plugin keeps which addresses it has given; empty: nobody looks

	Elsewhere *Elsewhere // a cluster in another system's records; nil: none
}

// Deps are all that the agent needs from outside.
type Deps struct {
	Store      Store
	Journal    Journal
	Kernel     reconcile.Kernel
	Host       Host
	Namespaces Namespaces
	Processes  Processes
	Kept       map[string]Kept // files that are put back when somebody removes them, by what they are
	Foreign    Foreign         // nil: nobody looks for foreign rules
	Surveyor   Surveyor        // nil: doctor looks at what is flatnet's only
	Remove     func() error    // ends an uninstall: the files of store, journal and kernel go
	Log        *slog.Logger
	Now        func() time.Time

	processors *processors
}

// Kept is a file, or several, that can be written anew from memory.
type Kept interface {
	Missing() bool // cheap: it is asked every few seconds
	Restore() error
}

// Store keeps what is asked for across reboots; any store.Store is one.
type Store interface {
	Load(ctx context.Context, kinds ...store.Kind) (store.Snapshot, error)
	Write(ctx context.Context, changes ...store.Change) ([]store.Object, error)
}

// Journal keeps this boot's workloads across restarts of the daemon.
type Journal interface {
	Load() map[string]model.Workload
	Past() []model.Workload // in order, with those that are no more, as far back as it knows
	Put(w model.Workload) error
	Delete(name string) error
}

// Host tells facts of the host's network, and forgets connections.
type Host interface {
	Lister
	Node(ctx context.Context) (model.Node, error)
	Listeners(ctx context.Context) ([]Listener, error)
	// Owner names the process of a listener, as openvpn[812]; empty when it cannot be told.
	Owner(ctx context.Context, l Listener) string
	// FlushConntrack forgets the connections that were first sent to these ports of dest; of any address when that is zero.
	FlushConntrack(ctx context.Context, proto model.Proto, dest netip.Addr, ports model.Ports) (int, error)
	// ForgetNeighbour has a namespace ask anew who has an address on one of its links.
	ForgetNeighbour(ctx context.Context, netns, link string, addr netip.Addr) error
	// FlushConntrackFrom forgets the connections that were begun from an address in the prefix; only those that nobody has answered, or all.
	FlushConntrackFrom(ctx context.Context, prefix netip.Prefix, unrepliedOnly bool) (int, error)
	// Watch calls each for what changes, one call at a time, until ctx ends. The first event is a Resync.
	Watch(ctx context.Context, each func(Event)) error
	// Features says what the kernel has: "no: …" for what it lacks.
	Features() map[string]string
}

// Listener is a socket of the host that waits for peers.
type Listener struct {
	Proto  model.Proto
	Addr   netip.Addr // unspecified: every address
	V6Only bool       // :: does not stand for IPv4 addresses too
	Port   uint16
}

// Event is a change of the host's namespace.
type Event struct {
	Hint    reconcile.Hint
	Foreign bool   // it concerns links, addresses or routes that are not ours
	By      string // who did it, as nft[4711], when the kernel tells
}

// Namespaces looks at namespaces that others made.
type Namespaces interface {
	// Identify returns what tells the namespace at path from any other; an error when there is none.
	Identify(path string) (string, error)
	// Lend makes an open namespace stand for its path until back is called, and tells its identity.
	Lend(path string, ns *os.File) (identity string, back func(), err error)
	// Expect has nothing done at a path but in the namespace of that identity; empty expects none.
	Expect(path, identity string)
	// Own is the identity of the host's own namespace.
	Own() (string, error)
}

// Processes watches and ends commands; package process does it.
type Processes interface {
	Start(pid int) (uint64, error)
	Add(name string, pid int, start uint64) error
	Forget(name string)
	Run(ctx context.Context, exited func(name string, code int)) error
	Stop(ctx context.Context, pid int, start uint64, ours string, timeout time.Duration) error
}

// Foreign finds rules of others that break our networks, or keep what is on bridges of others from the outside.
type Foreign interface {
	// Findings also names those of the other bridges that a rule keeps closed on purpose.
	Findings(ctx context.Context, v model.View, others []checkup.OtherBridge) (list []api.Finding, closed []string, err error)
}

// Surveyor reads what a diagnosis looks at beyond flatnet's own: a *kernel.Kernel.
type Surveyor interface {
	Survey(ctx context.Context, netns string) (kernel.Space, error)
	Switches(ctx context.Context) (kernel.Switches, error)
	Attached(ctx context.Context, dir string) ([]kernel.Attachment, error)
	DefaultRoutes(ctx context.Context) ([]kernel.DefaultRoute, error)
}
