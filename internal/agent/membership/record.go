package membership

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
)

// The files in the folder, beside the authority's.
const (
	recordFile     = "member.json"
	nodeKeyFile    = "node.key"
	nodeFile       = "node.pem"
	serverKeyFile  = "server.key"
	serverFile     = "server.pem"
	etcdCAFile     = "etcd-ca.pem" // of an external etcd, as the next two
	etcdCertFile   = "etcd.pem"
	etcdKeyFile    = "etcd.key"
	etcdDir        = "etcd"
	etcdLockFile   = "etcd.lock"
	etcdLogFile    = "etcd.log"
	recordSchema   = 1
	clientPort     = 2379 // etcd's own, IANA
	peerPort       = 2380
	firstNetwork   = "cluster"
	unnamedHost    = "host"
	defaultPool    = "10.244.0.0/16"
	defaultBlocks4 = 24
	defaultBlocks6 = 64
)

// phase is how far a host is in or out of a cluster. It is written before what it names is done.
type phase string

const (
	founding phase = "founding" // init: the next start carries it through
	joining  phase = "joining"  // the host may have been let in; it has no certificate yet
	in       phase = "in"
	leaving  phase = "leaving" // the next start carries it through
)

// record is what a host keeps of its place. A change of a field's meaning is a new schema.
type record struct {
	Schema   int
	Phase    phase
	ID       string // of the member
	Name     string
	Cluster  string   // what its etcd was founded as
	Server   bool     // has the authority
	Asked    []string // by --underlay: a link or addresses; none: chosen
	Underlay []netip.Addr
	Why      string   // that
	Servers  []string // ADDRESS:PORT
	Etcd     []string // endpoints
	External bool     // the etcd is not flatnet's
	Pools    []model.BlockPool
}

// load reads the record; nil: the host is in no cluster.
func load(f join.Folder) (*record, error) {
	data, err := f.Read(recordFile)
	if err != nil || data == nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(recordFile), err)
	}
	if r.Schema != recordSchema {
		return nil, fmt.Errorf("%s: written with schema %d, this flatnetd reads %d: use a newer one", f.Path(recordFile), r.Schema, recordSchema)
	}
	return &r, nil
}

func (r record) save(f join.Folder) error {
	r.Schema = recordSchema
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return f.Write(recordFile, append(data, '\n'))
}

// runsEtcd reports whether etcd runs on this host by our doing.
func (r record) runsEtcd() bool { return r.Server && !r.External }

// EtcdLock is the file by which the etcd of a folder is found: see etcdserver.Stop.
func EtcdLock(f join.Folder) string { return f.Path(etcdLockFile) }
