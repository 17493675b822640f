package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority is a CA, with the files that a server at 127.0.0.1 needs.
type authority struct {
	ca, cert, key string // files
	root          *x509.Certificate
	secret        *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	dir := t.TempDir()
	a := authority{ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	a.secret = newKey(t)
	der := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.secret)
	a.root, _ = x509.ParseCertificate(der)
	writePEM(t, a.ca, "CERTIFICATE", der)
	secret := newKey(t)
	writePEM(t, a.cert, "CERTIFICATE", a.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, secret)) // no name: etcd's gateway uses it as a client
	raw, err := x509.MarshalECPrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.key, "EC PRIVATE KEY", raw)
	return a
}

// client is what a user shows; hosts are names that the certificate is for.
func (a authority) client(t *testing.T, name string, hosts ...string) *tls.Config {
	t.Helper()
	secret := newKey(t)
	der := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: hosts, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, secret)
	roots := x509.NewCertPool()
	roots.AddCert(a.root)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: secret}}}
}

func (a authority) sign(t *testing.T, c *x509.Certificate, secret *ecdsa.PrivateKey) []byte {
	t.Helper()
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.root
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &secret.PublicKey, a.secret)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
