package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// The authority's files in a server's folder; every node has the certificate.
const (
	AuthorityFile    = "ca.pem"
	authorityKeyFile = "ca.key"
)

// Pin is the SHA-256 of a public key (its SubjectPublicKeyInfo, as RFC 7469 pins keys): it stays when a certificate for the
// same key is made anew.
type Pin [sha256.Size]byte

// PinOf is that of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// Authority signs the cluster's certificates: ECDSA P-256. Who has its key can make any certificate, so it is as good as
// root on etcd.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// LoadAuthority reads the authority of a folder; nil when that has none. A crash in MakeAuthority leaves none or a whole one.
func LoadAuthority(f Folder) (*Authority, error) {
	cert, err := f.Certificate(AuthorityFile)
	if err != nil || cert == nil {
		return nil, err
	}
	data, err := f.Read(authorityKeyFile)
	if err != nil || data == nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(authorityKeyFile), err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s and %s do not belong together", f.Path(AuthorityFile), f.Path(authorityKeyFile))
	}
	return &Authority{cert, key}, nil
}

// MakeAuthority returns the authority of a folder, and makes it when there is none.
func MakeAuthority(f Folder) (*Authority, error) {
	a, err := LoadAuthority(f)
	if err != nil || a != nil {
		return a, err
	}
	key, err := f.Key(authorityKeyFile)
	if err != nil {
		return nil, err
	}
	a, err = newAuthority(key)
	if err != nil {
		return nil, err
	}
	return a, f.WriteCertificate(AuthorityFile, a.cert.Raw)
}

// NewAuthority makes one that is kept nowhere.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return newAuthority(key)
}

func newAuthority(key *ecdsa.PrivateKey) (*Authority, error) {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "flatnet cluster"},
		// It is trusted by its pin, so dates would add nothing but a day on which everything stops: RFC 5280, 4.1.2.5.
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // positive
	return new(big.Int).SetBytes(b[:])
}

// Pin is what tokens name the authority by.
func (a *Authority) Pin() Pin { return PinOf(a.cert) }

// Certificate is the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Pool has the authority only.
func (a *Authority) Pool() *x509.CertPool { return poolOf(a.cert) }

func poolOf(c *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

// Holder is whom a certificate is about.
type Holder struct {
	ID     string       // the common name, which etcd takes for the user; empty for what only serves
	Addrs  []netip.Addr // underlay addresses
	Server bool         // it may answer as ServerName
}

// Issue makes a certificate, for serving and for asking, valid from now for life. It returns what x509 parses.
func (a *Authority) Issue(key *ecdsa.PublicKey, h Holder, now time.Time, life time.Duration) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: h.ID}, NotBefore: now.Add(-early), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, addr := range h.Addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	if h.Server {
		template.DNSNames = []string{ServerName}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", h.ID, err)
	}
	return der, nil
}

// TLSCertificate is a certificate of the authority as a server shows it: with the authority's behind it, which newcomers pin.
func (a *Authority) TLSCertificate(der []byte, key *ecdsa.PrivateKey) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
}

// CSR asks for a certificate: it proves who has the key, and says nothing else.
func CSR(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// readCSR returns the key of a request that was signed by it.
func readCSR(der []byte) (*ecdsa.PublicKey, Pin, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, Pin{}, err
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, Pin{}, errors.New("the key is not ECDSA P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, Pin{}, err
	}
	return key, sha256.Sum256(csr.RawSubjectPublicKeyInfo), nil
}

// KeyPin is the Pin of a key.
func KeyPin(key *ecdsa.PublicKey) (Pin, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return Pin{}, err
	}
	return sha256.Sum256(der), nil
}
