// Package nft carries out the nft steps of a plan in one transaction of nf_tables, reads our two tables back as the same
// values, and tells when somebody else touches them. It speaks netlink; the nft program is not needed.
//
// It knows only the closed vocabulary of package dataplane: what it does not recognise in our tables it reports as an object
// that nobody wants, so that the next plan removes it. Other tools' tables are never read nor written here.
//
//	conn, err := nft.New(nft.Config{})
//	err = conn.Apply(ctx, dataplane.Plan{{Op: dataplane.Add, Object: dataplane.Table{Family: dataplane.Inet}}})
package nft

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// Config says where to work.
type Config struct {
	Netns int // descriptor of a network namespace; 0: the calling thread's
}

// Conn is a connection to nf_tables of one network namespace. Its methods may be called concurrently.
type Conn struct {
	notified *nfnl.Socket // for Watch only
	heard    heard

	mu    sync.Mutex
	sock  *nfnl.Socket
	known known
}

// New opens the connection. From then on it takes note of what others change, for Watch. It needs CAP_NET_ADMIN.
func New(cfg Config) (*Conn, error) {
	sock, err := nfnl.Dial(cfg.Netns)
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	notified, err := nfnl.Dial(cfg.Netns)
	if err == nil {
		err = notified.Join(unix.NFNLGRP_NFTABLES, sock.Port())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nft: %w", err), sock.Close())
	}
	return &Conn{sock: sock, notified: notified}, nil
}

// Close ends the connection and a Watch of it.
func (c *Conn) Close() error { return errors.Join(c.sock.Close(), c.notified.Close()) }

// Generation is the number of the ruleset's last change by anybody; equal numbers mean an unchanged ruleset.
func (c *Conn) Generation(ctx context.Context) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation(ctx)
}

func (c *Conn) generation(ctx context.Context) (uint32, error) {
	m, err := c.sock.Get(ctx, unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, nil)
	if err != nil {
		return 0, fmt.Errorf("nft: read generation: %w", err)
	}
	return nfnl.Get(m.Attrs, unix.NFTA_GEN_ID).Uint32(), nil
}

// families are those we have a table in.
var families = [...]dataplane.Family{dataplane.Inet, dataplane.BridgeNF}

// number is the family's number in nf_tables.
func number(f dataplane.Family) uint8 {
	if f == dataplane.BridgeNF {
		return unix.NFPROTO_BRIDGE
	}
	return unix.NFPROTO_INET
}
