// Package server runs an etcd inside of this process: etcd's own embed, in a directory, with the TLS files it is given. It is a
// package of its own, and for a program of its own, as importing it makes any program 11 MB larger and its start 10 ms longer:
// docs/decisions/0010.
//
//	s, err := server.Start(ctx, server.Config{Name: "a", Dir: "/var/lib/flatnet/etcd", ClientURL: "https://192.0.2.1:2379", PeerURL: "https://192.0.2.1:2380"})
//	defer s.Stop()
package server

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config is one member of an etcd cluster.
type Config struct {
	Name      string
	Dir       string            // data; made when there is none
	ClientURL string            // where nodes come; the host must be an address
	PeerURL   string            // where the other servers come
	Others    map[string]string // name → peer URL of the other servers of a new cluster
	Join      bool              // into a cluster that exists and has this server as a member already
	TLS       TLS               // for nodes
	PeerTLS   TLS               // for the other servers; who gets in there may write anything, so with an authority that has clients too it needs Name
	Tick      int               // ms between heartbeats of the consensus, default 100; elections take ten of them, and five with a single server
	Compact   string            // how much history is kept for watches that come late, default 1h
	Log       io.Writer         // of etcd's own warnings and errors; nil: nobody reads them
}

// TLS are files. All zero: none, which is for tests. With CA both sides must show a certificate of it.
type TLS struct {
	Cert, Key, CA string
	Name          string // which that certificate must be for; empty: any
}

// Server is an etcd that runs.
type Server struct{ etcd *embed.Etcd }

// Start starts the server, and waits until it is part of a cluster that has a leader, or ctx ends.
func Start(ctx context.Context, c Config) (*Server, error) {
	config, err := c.embed()
	if err != nil {
		return nil, fmt.Errorf("etcd server %q: %w", c.Name, err)
	}
	e, err := embed.StartEtcd(config)
	if err != nil {
		return nil, fmt.Errorf("etcd server %q: %w", c.Name, err)
	}
	select {
	case <-e.Server.ReadyNotify():
		return &Server{e}, nil
	case err = <-e.Err():
	case <-e.Server.StopNotify():
		err = fmt.Errorf("it stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Close()
	return nil, fmt.Errorf("etcd server %q: %w", c.Name, err)
}

// Failed tells when the server ends by itself.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Stop ends the server. Nothing that was confirmed is lost. It takes up to 5 s and two elections while somebody watches.
func (s *Server) Stop() { s.etcd.Close() }

// quota bounds the file, and with it the address space that etcd maps at once (10 GB unless told): 5,000 nodes with an hour
// of history are below 100 MB.
const quota = 1 << 30

func (c Config) embed() (*embed.Config, error) {
	e := embed.NewConfig()
	client, err := url.Parse(c.ClientURL)
	if err != nil {
		return nil, err
	}
	peer, err := url.Parse(c.PeerURL)
	if err != nil {
		return nil, err
	}
	e.Name, e.Dir = c.Name, c.Dir
	e.ListenClientUrls, e.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	members := []string{c.Name + "=" + c.PeerURL}
	for name, u := range c.Others {
		members = append(members, name+"="+u)
	}
	e.InitialCluster = strings.Join(members, ",")
	if c.Join {
		e.ClusterState = embed.ClusterStateFlagExisting
	}
	e.ClientTLSInfo, e.PeerTLSInfo = c.TLS.info(), c.PeerTLS.info()
	switch {
	case c.Tick != 0:
		e.TickMs, e.ElectionMs = uint(c.Tick), 10*uint(c.Tick)
	case len(c.Others) == 0 && !c.Join: // it has nobody to be out of step with; etcd wants five at least
		e.ElectionMs = 5 * e.TickMs
	}
	e.AutoCompactionMode, e.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	if c.Compact != "" {
		e.AutoCompactionRetention = c.Compact
	}
	e.QuotaBackendBytes = quota
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(c.logger())
	return e, nil
}

func (c Config) logger() *zap.Logger {
	if c.Log == nil {
		return zap.NewNop()
	}
	text := zap.NewProductionEncoderConfig()
	text.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(text), zapcore.AddSync(c.Log), zap.WarnLevel))
}

func (t TLS) info() transport.TLSInfo {
	info := transport.TLSInfo{CertFile: t.Cert, KeyFile: t.Key, TrustedCAFile: t.CA, ClientCertAuth: t.CA != ""}
	if t.Name != "" {
		info.AllowedHostnames = []string{t.Name}
	}
	return info
}
