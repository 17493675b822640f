package nft

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// Change is one transaction of somebody else.
type Change struct {
	Ours    bool   // it touched our tables
	Foreign bool   // it touched other tables
	By      string // `nft[4711]`; empty when unknown
}

// Watch reports every transaction since New that was not made by this Conn, until ctx ends, which it returns as nil. When
// notifications were lost it reports a change of everything. Only one Watch may run at a time.
func (c *Conn) Watch(ctx context.Context, each func(Change)) error {
	var seen Change
	defer c.heard.lost()
	for {
		err := c.notified.Receive(ctx, func(m nfnl.Message) {
			c.heard.note(m)
			seen = seen.with(m)
			if m.Type == unix.NFT_MSG_NEWGEN { // ends the transaction
				each(seen)
				seen = Change{}
			}
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			c.heard.lost()
			each(Change{Ours: true, Foreign: true})
			seen = Change{}
		case err != nil:
			return fmt.Errorf("nft: watch: %w", err)
		}
	}
}

// with is the change with one more notification of it.
func (c Change) with(m nfnl.Message) Change {
	if m.Type == unix.NFT_MSG_NEWGEN {
		c.By = author(m.Attrs)
		return c
	}
	// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …: the table's name is attribute 1 of all of them.
	if nfnl.Get(m.Attrs, unix.NFTA_TABLE_NAME).String() == dataplane.TableName && isOurFamily(m.Family) {
		c.Ours = true
	} else {
		c.Foreign = true
	}
	return c
}

func isOurFamily(n uint8) bool {
	_, is := familyOf(n)
	return is
}

func familyOf(n uint8) (f dataplane.Family, ours bool) {
	for _, f := range families {
		if number(f) == n {
			return f, true
		}
	}
	return "", false
}

func author(attrs []byte) string {
	name := nfnl.Get(attrs, unix.NFTA_GEN_PROC_NAME).String()
	if name == "" {
		return ""
	}
	return fmt.Sprintf("%s[%d]", name, nfnl.Get(attrs, unix.NFTA_GEN_PROC_PID).Uint32())
}
