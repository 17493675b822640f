// Package join lets hosts into a cluster: the cluster's certificate authority, the tokens that let a host ask for a certificate, the
// TLS port where it asks (tcp 7700), and renewals. It keeps nothing but files in one directory: tokens and members are kept
// by who implements Tokens and Members.
//
// A token holds the hash of the authority's key, so the newcomer knows whom to trust before it has said anything; then its secret,
// which the cluster keeps a digest of, with how often and until when it may be used.
//
//	authority, err := join.NewAuthority()
//	token, err := join.CreateToken(ctx, tokens, authority.Pin(), join.Terms{Life: 15 * time.Minute, Uses: 10}, time.Now())
//	go join.Server{Authority: authority, Tokens: tokens, Members: members, …}.Serve(ctx, listener)
//
// and on the other host:
//
//	answer, err := join.Newcomer("192.0.2.1:7700", token.Pin).Join(ctx, join.Request{Token: token.String(), CSR: csr, Member: me})
package join

import "time"

// Port is where servers let hosts in: tcp. (No service is registered at that number that a host with containers would run.)
const Port = 7700

// ServerName is a name that only certificates of servers have, whatever their addresses: a node cannot play a server, though it has a
// certificate of the same authority.
const ServerName = "server.flatnet"

// Life is how long a certificate is valid. It is renewed when two thirds of that are over; so a host may be off for four months.
const Life = 365 * 24 * time.Hour

// early is how long before its making a certificate is valid: clocks differ.
const early = 24 * time.Hour

// RenewAt is when a certificate is to be renewed: after two thirds of its life.
func RenewAt(notBefore, notAfter time.Time) time.Time {
	return notBefore.Add(notAfter.Sub(notBefore) * 2 / 3)
}
