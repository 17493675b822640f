package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// Client asks one server.
type Client struct {
	addr string // HOST:PORT
	tls  *tls.Config
}

// Newcomer asks on behalf of a host that knows no more of the cluster than the pin of a token. Nothing is sent to who cannot show a certificate
// that the pinned authority made for a server. Dates are not looked at, as the clock here may be wrong: see Answer's Skew.
func Newcomer(addr string, pin Pin) Client { return Client{addr, Pinned(pin)} }

// Pinned is how to speak to a server of the cluster with nothing but a pin.
func Pinned(pin Pin) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The usual verification asks for a known authority and a name; ours comes after it, with the authority that the pin names.
		InsecureSkipVerify: true,
		VerifyConnection:   func(c tls.ConnectionState) error { return verifyPinned(c.PeerCertificates, pin) },
	}
}

// errStranger is a peer that is not of the cluster.
var errStranger = errors.New("its certificate is not of the cluster that the token is of")

func verifyPinned(shown []*x509.Certificate, pin Pin) error {
	for _, authority := range shown {
		if PinOf(authority) != pin || !authority.IsCA {
			continue
		}
		_, err := shown[0].Verify(x509.VerifyOptions{Roots: poolOf(authority), DNSName: ServerName, CurrentTime: shown[0].NotBefore,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			return fmt.Errorf("%w: %w", errStranger, err)
		}
		return nil
	}
	return errStranger
}

// Member asks on behalf of a host that has a certificate.
func Member(addr string, authority *x509.Certificate, certificate tls.Certificate) Client {
	return Client{addr, TLS(authority, func() (*tls.Certificate, error) { return &certificate, nil })}
}

// TLS is how a node speaks to servers of its cluster: to the join port and to etcd. certificate is asked at every connection.
func TLS(authority *x509.Certificate, certificate func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: poolOf(authority), ServerName: ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate() }}
}

// Certificate is what a node shows.
func Certificate(der []byte, key *ecdsa.PrivateKey) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Path is what was learned of the way to a server by using it.
type Path struct {
	From netip.Addr    // the address here
	Skew time.Duration // how far the server's clock is ahead; exact to a second
}

// Preflight asks what Join would answer.
func (c Client) Preflight(ctx context.Context, q Request) (Answer, Path, error) {
	return c.post(ctx, pathPreflight, q)
}

// Join asks to be let in. It may be repeated with the same key.
func (c Client) Join(ctx context.Context, q Request) (Answer, error) {
	a, _, err := c.post(ctx, pathJoin, q)
	if err == nil && len(a.Certificate) == 0 {
		err = errors.New("join: the answer has no certificate")
	}
	return a, err
}

// Renew asks for a new certificate, for what the member is now.
func (c Client) Renew(ctx context.Context, q Request) (Answer, error) {
	a, _, err := c.post(ctx, pathRenew, q)
	if err == nil && len(a.Certificate) == 0 {
		err = errors.New("renew: the answer has no certificate")
	}
	return a, err
}

// Leave takes the host out of the cluster.
func (c Client) Leave(ctx context.Context) error {
	_, _, err := c.post(ctx, pathLeave, Request{})
	return err
}

func (c Client) post(ctx context.Context, path string, q Request) (Answer, Path, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return Answer{}, Path{}, err
	}
	var p Path
	transport := &http.Transport{TLSClientConfig: c.tls, DisableKeepAlives: true, TLSHandshakeTimeout: 10 * time.Second, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialer := net.Dialer{Timeout: 10 * time.Second}
		conn, err := dialer.DialContext(ctx, network, addr)
		if err == nil {
			p.From = localOf(conn)
		}
		return conn, err
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.addr+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, p, err
	}
	sent := time.Now()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return Answer{}, p, c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	p.Skew = skew(res, sent, time.Now())
	a, err := readAnswer(res)
	if err != nil && !isProblem(err) {
		err = c.unreachable(ctx, err)
	}
	return a, p, err
}

func localOf(c net.Conn) netip.Addr {
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// skew compares the server's date, which has whole seconds, with the middle of the call.
func skew(res *http.Response, sent, got time.Time) time.Duration {
	date, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		return 0
	}
	middle := sent.Add(got.Sub(sent) / 2)
	return date.Sub(middle.Truncate(time.Second))
}

func isProblem(err error) bool {
	var one model.Problem
	var many model.Problems
	return errors.As(err, &one) || errors.As(err, &many)
}

// unreachable says why there is no answer.
func (c Client) unreachable(ctx context.Context, err error) error {
	if errors.Is(err, errStranger) {
		return model.Problem{Code: model.CodeStranger, Reason: fmt.Sprintf("%s is not of the cluster that the token is of", c.addr), Owner: err.Error(),
			Fix: "nothing was told to it; check the address, or make a new token on a server of the cluster"}
	}
	if ctx.Err() == context.Canceled {
		return ctx.Err()
	}
	_, port, _ := net.SplitHostPort(c.addr)
	return model.Problem{Code: model.CodePeer, Reason: fmt.Sprintf("%s does not answer: %s", c.addr, err),
		Fix: fmt.Sprintf("check the address, that flatnetd runs there and is a server, and that tcp %s is open", port)}
}
