package fabric

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Cache is a file in which a node keeps what it knows of its cluster, so that after a restart it goes on without the store. What stands
// in it is added to the kernel and kept there; nothing is taken away for it.
type Cache struct {
	Folder join.Folder
	BootID string           // of this boot of the machine
	Wall   func() time.Time // time.Now, unless it is a test's

	mu   sync.Mutex // held while the file is written
	mark string     // of what stands in it
	log  pictureLog
}

// record is what is known, or of members and leases only what is another way than in the records before.
type record struct {
	Schema   int                       `json:"schema"`
	Self     string                    `json:"self"`
	Networks map[string]model.Network  `json:"networks"`
	Members  []model.Member            `json:"members"`
	Leases   []model.Lease             `json:"leases"`
	Own      []ownRecord               `json:"own"`
	Former   map[string][]netip.Prefix `json:"former"`
	BootID   string                    `json:"bootID"`
	Written  time.Time                 `json:"written"`

	NoMembers []string         `json:"noMembers,omitempty"` // any more
	NoLeases  []model.LeaseKey `json:"noLeases,omitempty"`
}

// ownRecord is the right to a block: until when, on the clock of this boot and on the wall.
type ownRecord struct {
	Lease model.Lease   `json:"lease"`
	Boot  time.Duration `json:"boot"`
	Wall  time.Time     `json:"wall"`
}

const (
	cacheFile   = "picture.json"
	cacheSchema = 1
)

// Path is the file's.
func (c *Cache) Path() string { return c.Folder.Path(cacheFile) }

func (c *Cache) wall() time.Time {
	if c.Wall != nil {
		return c.Wall()
	}
	return time.Now()
}

// recall takes over what an earlier life knew.
func (f *Fabric) recall() {
	if f.deps.Cache == nil {
		return
	}
	r, known, err := f.deps.Cache.load()
	if err != nil {
		f.deps.Log.Warn("what is known of the cluster from before cannot be read; the store will tell", "err", err)
	}
	if r.Self != f.deps.Self || r.Self == "" {
		return
	}
	snap := store.ClusterSnapshot{Networks: r.Networks, Members: known.members, Leases: known.leases}
	if r.Former != nil {
		f.former = r.Former
	}
	f.sound, f.cached = judge(snap, f.deps.Self), true
	for _, o := range r.Own {
		f.tenure[o.Lease.Key()] = tenure{lease: o.Lease, is: store.Secure, until: f.until(o, r.BootID, r.Written)}
	}
}

// until is when a right from an earlier life ends. After a reboot the wall's clock must do; one that was set back says nothing, and the
// store has to.
func (f *Fabric) until(o ownRecord, boot string, written time.Time) time.Duration {
	if boot == f.deps.Cache.BootID {
		return max(o.Boot, 1)
	}
	now := f.deps.Cache.wall()
	if now.Before(written) {
		return 1
	}
	return max(f.deps.Now()+o.Wall.Sub(now), 1)
}

// record is what is known but for members and leases, which come beside it: there may be thousands.
func (f *Fabric) record() (record, others) {
	rights := f.rights()
	f.mu.Lock()
	defer f.mu.Unlock()
	snap := f.sound.snap
	r := record{Schema: cacheSchema, Self: f.deps.Self, Networks: snap.Networks, Former: maps.Clone(f.former), BootID: f.deps.Cache.BootID}
	now, wall := f.deps.Now(), f.deps.Cache.wall()
	r.Written = wall.UTC()
	for _, t := range rights {
		if t.usable(now) && t.until > now {
			r.Own = append(r.Own, ownRecord{Lease: t.lease, Boot: t.until, Wall: wall.Add(t.until - now).UTC()})
		}
	}
	return r, others{snap.Members, snap.Leases}
}

// rights are the node's blocks in order, each with the end of the right to it. The keeper is not asked under the lock: it tells under its own.
func (f *Fabric) rights() []tenure {
	f.mu.Lock()
	rights := slices.Collect(maps.Values(f.tenure))
	f.mu.Unlock()
	slices.SortFunc(rights, func(a, b tenure) int { return model.CompareLeases(a.lease.Key(), b.lease.Key()) })
	for i, t := range rights {
		if t.until == 0 && t.is == store.Secure {
			rights[i].until = f.keeper.Until(t.lease)
		}
	}
	return rights
}

// keep writes down what is known now, before anything is done for it: what the kernel has and nobody knows of would be taken away by the next
// start. Before the store has answered there is nothing new.
func (f *Fabric) keep() {
	c := f.deps.Cache
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	mark := f.mark()
	if mark == c.mark || mark == "" {
		return
	}
	r, known := f.record()
	if err := c.log.write(c.Folder, r, known); err != nil {
		f.deps.Log.Warn("keep what is known of the cluster", "err", err)
		return
	}
	c.mark = mark
}

// keeps writes the file soon after anything changed, and as renewals prolong the rights.
func (f *Fabric) keeps(ctx context.Context) error {
	for {
		began := time.Now()
		f.keep()
		rest := time.NewTimer(keepRest * time.Since(began)) // with thousands of nodes it is a large file
		select {
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		case <-rest.C:
		}
		timer := time.NewTimer(keepPause)
		select {
		case <-ctx.Done():
		case <-f.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

const (
	keepRest  = 10          // times as long as writing took, nothing is written after it
	keepPause = time.Second // between two looks whether rights were prolonged
)

// mark differs when the file should be written; it is empty before the store has answered.
func (f *Fabric) mark() string {
	f.mu.Lock()
	mark := f.sound.snap.Token
	f.mu.Unlock()
	if mark == "" {
		return ""
	}
	for _, t := range f.rights() {
		mark += fmt.Sprintf(" %v %s %d", t.lease.Block, t.is, t.until/prolonged)
	}
	return mark
}

// prolonged is how much longer a right must have become to be written down again.
const prolonged = time.Minute
