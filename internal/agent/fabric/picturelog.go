package fabric

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
)

// pictureLog is the cache's file while it is written: a record of everything in its first line, and in each line more what has changed by
// then. Among thousands of nodes one that moves does not have all of them written anew.
type pictureLog struct {
	whole int    // bytes of the first line; 0: this process has written none
	more  int    // bytes of the others
	known others // by all lines
}

// others are the members and leases of a cluster. The maps are a snapshot's: they are never written.
type others struct {
	members map[string]model.Member
	leases  map[model.LeaseKey]model.Lease
}

const (
	leastLog  = 64 << 10 // bytes of changes that there may be, however small the first line is
	mostAdded = 1000     // members and leases in one line
)

// write has the file say what is known, durably when it returns.
func (l *pictureLog) write(f join.Folder, r record, now others) error {
	if done, err := l.add(f, r, now); done || err != nil {
		return err
	}
	r.Members = make([]model.Member, 0, len(now.members))
	for id, m := range now.members {
		r.keep(id, m)
	}
	r.Leases = slices.AppendSeq(make([]model.Lease, 0, len(now.leases)), maps.Values(now.leases))
	line, err := lineOf(r)
	if err == nil {
		*l = pictureLog{}
		err = f.Write(cacheFile, line)
	}
	if err == nil {
		*l = pictureLog{whole: len(line), known: now}
	}
	return err
}

// add appends what has changed, if that is little beside the rest.
func (l *pictureLog) add(f join.Folder, r record, now others) (done bool, err error) {
	if l.whole == 0 {
		return false, nil
	}
	change, many := l.known.change(r, now)
	if many {
		return false, nil
	}
	line, err := lineOf(change)
	if err != nil || l.more+len(line) > max(l.whole, leastLog) {
		return false, err
	}
	if f.Append(cacheFile, line) != nil {
		l.whole = 0 // who knows what is in it
		return false, nil
	}
	l.more, l.known = l.more+len(line), now
	return true, nil
}

// keep takes a member into a record, unless it calls itself by another's id.
func (r *record) keep(id string, m model.Member) {
	if m.ID == id {
		r.Members = append(r.Members, m)
	} else {
		r.NoMembers = append(r.NoMembers, id)
	}
}

func lineOf(r record) ([]byte, error) {
	line, err := json.Marshal(r)
	return append(line, '\n'), err
}

// change adds to a record by what others differ from those known; many: by so many that all may be written as well.
func (o others) change(r record, now others) (change record, many bool) {
	ids, keys := changedIn(o.members, now.members), changedIn(o.leases, now.leases)
	if len(ids)+len(keys) > mostAdded {
		return r, true
	}
	for _, id := range ids {
		if m, there := now.members[id]; there {
			r.keep(id, m)
		} else {
			r.NoMembers = append(r.NoMembers, id)
		}
	}
	for _, key := range keys {
		if l, there := now.leases[key]; there {
			r.Leases = append(r.Leases, l)
		} else {
			r.NoLeases = append(r.NoLeases, key)
		}
	}
	return r, false
}

// load reads the file up to where it can be read: the error is about the rest. A last line that was cut short is none.
func (c *Cache) load() (last record, known others, err error) {
	data, err := c.Folder.Read(cacheFile)
	known = others{map[string]model.Member{}, map[model.LeaseKey]model.Lease{}}
	for n := 1; len(data) > 0 && err == nil; n++ {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		data = rest
		r, bad := parseRecord(line)
		switch {
		case bad == nil:
			last = r
			known.take(r)
		case ended || n == 1:
			err = fmt.Errorf("line %d: %w", n, bad)
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", c.Path(), err)
	}
	return last, known, err
}

func parseRecord(line []byte) (r record, err error) {
	if err = json.Unmarshal(line, &r); err == nil && r.Schema != cacheSchema {
		err = fmt.Errorf("written with schema %d", r.Schema)
	}
	return r, err
}

// take makes the maps be as a record says; they are the reader's own.
func (o others) take(r record) {
	for _, m := range r.Members {
		o.members[m.ID] = m
	}
	for _, l := range r.Leases {
		o.leases[l.Key()] = l
	}
	for _, id := range r.NoMembers {
		delete(o.members, id)
	}
	for _, key := range r.NoLeases {
		delete(o.leases, key)
	}
}
