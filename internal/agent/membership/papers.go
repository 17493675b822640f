package membership

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/store/etcd"
)

// papers are a host's keys and certificates: its own as a node, and on a server the authority, what the server shows, and etcd's root.
type papers struct {
	folder    join.Folder
	record    record
	now       func() time.Time
	key       *ecdsa.PrivateKey
	ca        *x509.Certificate
	authority *join.Authority // nil: no server

	mu     sync.Mutex
	node   *x509.Certificate
	server *tls.Certificate
	root   *tls.Certificate
	until  time.Time // of root
}

// openPapers reads them, and on a server makes those that are missing or do not fit.
func openPapers(f join.Folder, r record, now func() time.Time) (*papers, error) {
	p := &papers{folder: f, record: r, now: now}
	var err error
	if r.Server {
		if p.authority, err = join.MakeAuthority(f); err != nil {
			return nil, err
		}
	}
	if p.ca, err = f.Certificate(join.AuthorityFile); err != nil {
		return nil, err
	}
	if p.key, err = f.Key(nodeKeyFile); err != nil {
		return nil, err
	}
	p.node, err = f.Certificate(nodeFile)
	if r.Server { // it makes what is missing or damaged itself
		p.node = of(p.node, p.key)
		return p, p.issue(r.Underlay)
	}
	if err != nil {
		return nil, err
	}
	if p.ca == nil || p.node == nil {
		return nil, fmt.Errorf("there is no certificate in %s", f)
	}
	return p, nil
}

// of is a certificate if it is for the key; else nil.
func of(c *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	if c == nil || !key.PublicKey.Equal(c.PublicKey) {
		return nil
	}
	return c
}

// issue makes a server's own certificates where they do not fit. The key that it shows itself with is anybody's who has the authority.
func (p *papers) issue(addrs []netip.Addr) error {
	if p.due(addrs) {
		der, err := p.authority.Issue(&p.key.PublicKey, join.Holder{ID: p.record.ID, Addrs: addrs}, p.now(), join.Life)
		if err == nil {
			err = p.take(der)
		}
		if err != nil {
			return err
		}
	}
	key, err := p.folder.Key(serverKeyFile)
	if err != nil {
		if err = p.folder.Remove(serverKeyFile); err == nil {
			key, err = p.folder.Key(serverKeyFile)
		}
	}
	if err != nil {
		return err
	}
	cert, _ := p.folder.Certificate(serverFile)
	if cert = of(cert, key); !fits(cert, addrs, p.now()) {
		der, err := p.authority.Issue(&key.PublicKey, join.Holder{Addrs: addrs, Server: true}, p.now(), join.Life)
		if err == nil {
			cert, err = x509.ParseCertificate(der)
		}
		if err == nil { // etcd reads the file at every connection
			err = p.folder.WriteCertificate(serverFile, der, p.ca.Raw)
		}
		if err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = p.authority.TLSCertificate(cert.Raw, key)
	return nil
}

// due reports whether the node's certificate is to be renewed: two thirds of its life are over, or it is for other addresses.
func (p *papers) due(addrs []netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !fits(p.node, addrs, p.now())
}

func fits(c *x509.Certificate, addrs []netip.Addr, now time.Time) bool {
	if c == nil || len(c.IPAddresses) != len(addrs) || !now.Before(join.RenewAt(c.NotBefore, c.NotAfter)) {
		return false
	}
	for i, a := range addrs {
		if got, ok := netip.AddrFromSlice(c.IPAddresses[i]); !ok || got.Unmap() != a {
			return false
		}
	}
	return true
}

// take keeps a new certificate of the node.
func (p *papers) take(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if !p.key.PublicKey.Equal(cert.PublicKey) {
		return errors.New("the certificate is for another key")
	}
	if err := p.folder.WriteCertificate(nodeFile, der); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node = cert
	return nil
}

// pin is the hash of the node's key.
func (p *papers) pin() ([32]byte, error) { return join.KeyPin(&p.key.PublicKey) }

func (p *papers) nodeCertificate() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := join.Certificate(p.node.Raw, p.key)
	return &c, nil
}

func (p *papers) serverCertificate() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.server, nil
}

// rootLife is how long the certificate of etcd's root is valid. It is in no file: who has the authority can make one.
const rootLife = 24 * time.Hour

func (p *papers) rootCertificate() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.root != nil && p.now().Before(p.until) {
		return p.root, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := p.authority.Issue(&key.PublicKey, join.Holder{ID: "root"}, p.now(), rootLife)
	if err != nil {
		return nil, err
	}
	c := join.Certificate(der, key)
	p.root, p.until = &c, p.now().Add(rootLife/2)
	return p.root, nil
}

// etcd is how to reach the cluster's store as the node, or as the root.
func (p *papers) etcd(asRoot bool) (etcd.Config, error) {
	c := etcd.Config{Endpoints: p.record.Etcd, Cluster: p.record.Cluster}
	var err error
	switch {
	case p.record.External:
		c.TLS, err = p.external()
	case asRoot:
		c.TLS = join.TLS(p.ca, p.rootCertificate)
	default:
		c.TLS = join.TLS(p.ca, p.nodeCertificate)
	}
	return c, err
}

// external is what an external etcd was said to need.
func (p *papers) external() (*tls.Config, error) {
	e, err := p.externalFiles()
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(p.record.Etcd[0], "https:") {
		return nil, nil
	}
	return externalTLS(e)
}

// externalFiles are the keys of an external etcd.
func (p *papers) externalFiles() (e join.Etcd, err error) {
	e = join.Etcd{Endpoints: p.record.Etcd, External: p.record.External}
	if !e.External {
		return e, nil
	}
	for _, f := range []struct {
		name string
		into *[]byte
	}{{etcdCAFile, &e.CA}, {etcdCertFile, &e.Cert}, {etcdKeyFile, &e.Key}} {
		if *f.into, err = p.folder.Read(f.name); err != nil {
			return e, err
		}
	}
	return e, nil
}

// keepExternal writes the keys of an external etcd down.
func keepExternal(f join.Folder, e join.Etcd) error {
	var errs []error
	for name, data := range map[string][]byte{etcdCAFile: e.CA, etcdCertFile: e.Cert, etcdKeyFile: e.Key} {
		if e.External && len(data) > 0 {
			errs = append(errs, f.Write(name, data))
		} else {
			errs = append(errs, f.Remove(name))
		}
	}
	return errors.Join(errs...)
}

func externalTLS(e join.Etcd) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(e.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(e.CA) {
			return nil, errors.New("the CA of the external etcd has no certificate")
		}
	}
	if len(e.Cert) > 0 {
		pair, err := tls.X509KeyPair(e.Cert, e.Key)
		if err != nil {
			return nil, fmt.Errorf("the certificate for the external etcd: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
