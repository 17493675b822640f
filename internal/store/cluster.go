package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// Cluster is what the nodes of a cluster share: its networks, its members, and who holds which block. It is one for all,
// may be away, and then says so instead of blocking its readers. Its methods may be called by several goroutines.
//
// A block has one holder: the first that claimed it, until that one releases it or has not renewed for the grace, which is a
// property of the store (a day, unless configured). There is no transaction over several objects. Calls other than Watch may
// wait for a store that does not answer until their ctx ends: give it a deadline.
type Cluster interface {
	// Watch calls each with a snapshot at once and after every change, one call at a time, until ctx ends, whose error it
	// returns, or the store closes: ErrClosed. Changes that come faster than each returns are one snapshot. While the store
	// is away the last snapshot stands, with Live false; before anything was ever read that is an empty one without a Token.
	Watch(ctx context.Context, each func(ClusterSnapshot)) error

	// Write does changes of networks and members, durably when it returns: see Store.
	Write(ctx context.Context, changes ...Change) ([]Object, error)

	// Claim makes the lease's node the holder of the block, and is no error when it is already. The error is a *TakenError
	// when another node is. After any other error it may be the holder or not: the next live snapshot tells.
	Claim(ctx context.Context, l model.Lease) (Held, error)

	// Renew prolongs all that a node holds, and says what that is. A lease whose grace was over, or that somebody deleted, is
	// not among it. Who has claimed before a restart needs nothing but Renew.
	Renew(ctx context.Context, node string) ([]Held, error)

	// Release gives a block back. It is no error when the lease's node does not hold it.
	Release(ctx context.Context, l model.Lease) error

	// Heartbeat says that a node is alive. Snapshots have it as alive for about half a minute; nothing else follows from it.
	// The error is ErrTwin when another process has beaten for the same node since.
	Heartbeat(ctx context.Context, node string) error

	// Close ends all use. It releases nothing.
	Close() error
}

// Member is the kind of what nodes publish of themselves: by ID, model.Member. A cluster keeps these and Network.
const Member Kind = "member"

// PutMember stores a member.
func PutMember(m model.Member, base Version) Change { return put(Member, m.ID, m, base) }

// ClusterSnapshot is everything that a cluster shares at one moment. Its maps are shared and never written again.
type ClusterSnapshot struct {
	Token    string // names the moment; equal tokens of one store are equal snapshots, apart from Live
	Live     bool   // the store answers; false: this is what was last read. From what is not live only add or keep
	Networks map[string]model.Network
	Members  map[string]model.Member // by ID
	Leases   map[model.LeaseKey]model.Lease
	Alive    map[string]bool  // by member ID: who has beaten of late
	Unread   map[string]error // what could not be read, by its key in the store; it is in none of the above
	versions map[Kind]map[string]Version
}

// Version is that of a network or member; New when there is none.
func (s ClusterSnapshot) Version(kind Kind, name string) Version {
	return s.versions[kind][name]
}

// MemberBefore reports whether what one member says of itself was written before what another one says. The store counts
// that, so nobody can say to have been first.
func (s ClusterSnapshot) MemberBefore(a, b string) bool {
	return s.Version(Member, a).Before(s.Version(Member, b))
}

// Held is a lease that a node holds.
type Held struct {
	Lease model.Lease

	// Until is when it must be seen as lost if no renewal succeeds: no other node can have the block before. It is on the
	// clock of Boottime, counted from before the renewal was sent, with a margin for clocks that run apart.
	Until time.Duration
}

// Margin is how much earlier than the store a holder takes its grace as over: a tenth, at most five minutes. Clocks of two
// machines may run apart by 500 ppm (adjtimex(2)), 43 s a day, and a leader of a consensus that was cut off may
// confirm renewals for one election timeout, about a second.
func Margin(grace time.Duration) time.Duration { return min(grace/10, 5*time.Minute) }

// The reasons why a cluster does not do what it is asked.
var (
	ErrAway   = errors.New("the cluster's store does not answer")
	ErrDenied = errors.New("the cluster's store lets only its servers change that")
	ErrTwin   = errors.New("another flatnetd says that it is this node: two machines have one node id")
)

// TakenError says who holds a block.
type TakenError struct {
	Lease  model.Lease // that was claimed
	Holder string      // member ID
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("store: claim %s of %q: node %s holds it", e.Lease.Block, e.Lease.Network, e.Holder)
}

// Problem says it to a person.
func (e *TakenError) Problem() model.Problem {
	return model.Problem{Code: model.CodeBlockTaken, Reason: fmt.Sprintf("block %s of network %q is taken", e.Lease.Block, e.Lease.Network),
		Owner: "node " + e.Holder, Fix: "another block, or none: a free one is chosen"}
}

// clusterKinds are the kinds of which a cluster keeps objects.
func clusterKind(kind Kind) bool { return kind == Network || kind == Member }

// ForCluster refuses changes of what belongs to one host.
func (c Change) ForCluster() error {
	if !clusterKind(c.Kind) {
		return c.Fail(errors.New("a cluster does not keep these: they belong to one host"))
	}
	return nil
}

// WhyAway is what was behind an ErrAway in the words of who could not reach the store, without the way that they came; empty when there is
// no more than that nobody answered in time.
func WhyAway(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if i := strings.LastIndex(text, ErrAway.Error()); i >= 0 {
		text = text[i+len(ErrAway.Error()):]
	}
	text, _, _ = strings.Cut(strings.TrimLeft(text, ": \n"), "\n")
	if strings.HasSuffix(text, context.DeadlineExceeded.Error()) {
		return ""
	}
	return text
}
