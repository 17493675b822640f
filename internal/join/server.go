package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// Members keeps who was let in: its description, and the Pin of its key.
type Members interface {
	// Judge says what keeps a host from being let in: another has its id or an address of its. The same id with the same key is the
	// same host, which may come again.
	Judge(ctx context.Context, m model.Member, key [32]byte) error
	// Admit lets a host in, and judges again: of two that come with one address at once one is refused.
	Admit(ctx context.Context, m model.Member, key [32]byte) error
	// Admitted returns the key of who was let in.
	Admitted(ctx context.Context, id string) (key [32]byte, ok bool, err error)
	// Dismiss takes a host and all its rights away; it is no error when there is none.
	Dismiss(ctx context.Context, id string) error
}

// Server lets hosts in, renews their certificates and lets them go.
type Server struct {
	Authority *Authority
	Tokens    Tokens
	Members   Members

	// Cluster is what a host is told. The keys of an external etcd in it are told to those only that were let in.
	Cluster func(context.Context) (Cluster, error)
	// Certificate is the server's own, for ServerName.
	Certificate func() (*tls.Certificate, error)

	// Explain puts an error of Tokens, Members or Cluster into a model.Problem, where it can; may be nil.
	Explain func(error) error

	Now func() time.Time
	Log *slog.Logger

	limit *limiter
}

// Serve answers until ctx ends.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
	s.limit = newLimiter()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	srv := &http.Server{
		Handler: s.handler(), Protocols: protocols, TLSConfig: s.tls(),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() {
		soon, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(soon)
		_ = srv.Close()
	})
	defer stop()
	if err := srv.ServeTLS(limitListener(ctx, l), "", ""); ctx.Err() == nil {
		return fmt.Errorf("join port %s: %w", l.Addr(), err)
	}
	return nil
}

func (s Server) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: s.Authority.Pool(), Time: s.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Certificate() },
	}
}

// call is one request, read and judged as far as it is the same for all.
type call struct {
	Request
	from netip.Addr
	at   netip.Addr        // the server's address that was called
	peer *x509.Certificate // of mTLS; nil: none was shown
}

func (s Server) handler() http.Handler {
	mux := http.NewServeMux()
	on := func(path string, answer func(context.Context, call) (Answer, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			a, err := s.answer(r, answer)
			if err != nil {
				s.Log.Warn("a host is refused", "call", path, "from", r.RemoteAddr, "err", err)
				writeAnswer(w, s.Now(), statusOf(err), failed{problemsOf(err)})
				return
			}
			writeAnswer(w, s.Now(), http.StatusOK, a)
		})
	}
	on(pathPreflight, s.preflight)
	on(pathJoin, s.join)
	on(pathRenew, s.renew)
	on(pathLeave, s.leave)
	return mux
}

// answer does what is the same for all calls. Whoever fails, fails only so often.
func (s Server) answer(r *http.Request, answer func(context.Context, call) (Answer, error)) (Answer, error) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return Answer{}, err
	}
	if !s.limit.take(from.Addr(), s.Now()) {
		return Answer{}, model.Problem{Code: model.CodeTooOften, Reason: "too many attempts from this address", Fix: "try again in a minute"}
	}
	c := call{from: from.Addr().Unmap()}
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		c.at = at.AddrPort().Addr().Unmap()
	}
	if len(r.TLS.VerifiedChains) > 0 {
		c.peer = r.TLS.VerifiedChains[0][0]
	}
	if c.Request, err = readRequest(r); err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	a, err := answer(ctx, c)
	if err != nil && s.Explain != nil {
		err = s.Explain(err)
	}
	if !guesses(err) {
		s.limit.give(from.Addr(), s.Now())
	}
	return a, err
}

// answerTime is how long a store may take.
const answerTime = 15 * time.Second

// guesses reports whether a refusal is for something that one could try out: a token, a key, a form.
func guesses(err error) bool {
	if err == nil {
		return false
	}
	status := statusOf(err)
	return status == http.StatusForbidden || status == http.StatusBadRequest
}

// preflight judges as join does, and changes nothing.
func (s Server) preflight(ctx context.Context, c call) (Answer, error) {
	if _, err := s.examine(ctx, c, true); err != nil {
		return Answer{}, err
	}
	a, err := s.tell(ctx, c)
	if err == nil && c.Probes != nil {
		failed := c.Probes.send(c.at, c.Member.Underlays())
		if a.Probed = failed == nil; failed != nil {
			s.Log.Warn("a host asks for datagrams", "from", c.from, "err", failed)
		}
	}
	a.Cluster.Etcd.CA, a.Cluster.Etcd.Cert, a.Cluster.Etcd.Key = nil, nil, nil
	return a, err
}

// keyOf is a host's key, which it has proven to have.
type keyOf struct {
	public *ecdsa.PublicKey
	pin    Pin
}

func keyFrom(csr []byte) (keyOf, error) {
	public, pin, err := readCSR(csr)
	if err != nil {
		return keyOf{}, malformed(fmt.Errorf("CSR: %w", err))
	}
	return keyOf{public, pin}, nil
}

// examine judges token, key and member, in the order of what they cost and give away.
func (s Server) examine(ctx context.Context, c call, dry bool) (keyOf, error) {
	t, err := ParseToken(c.Token)
	if err != nil {
		return keyOf{}, err
	}
	if t.Pin != s.Authority.Pin() {
		return keyOf{}, refused("it is of another cluster")
	}
	key, err := keyFrom(c.CSR)
	if err != nil {
		return keyOf{}, err
	}
	by := Use{Member: c.Member.ID, Key: key.pin[:], At: s.Now().UTC()}
	if err := spend(ctx, s.Tokens, t, by, true); err != nil {
		return keyOf{}, err
	}
	if err := s.Members.Judge(ctx, c.Member, key.pin); err != nil || dry {
		return key, err
	}
	return key, spend(ctx, s.Tokens, t, by, false)
}

// join lets a host in. Each step may have been done before by the same host, whose connection was cut or who was killed: then it is
// done again, and counts once.
func (s Server) join(ctx context.Context, c call) (Answer, error) {
	key, err := s.examine(ctx, c, false)
	if err != nil {
		return Answer{}, err
	}
	if err := s.Members.Admit(ctx, c.Member, key.pin); err != nil {
		return Answer{}, err
	}
	s.Log.Info("a host joins", "node", c.Member.ID, "name", c.Member.Name, "from", c.from)
	return s.certify(ctx, c, key)
}

// renew makes the certificate anew, for the same key and the addresses of now.
func (s Server) renew(ctx context.Context, c call) (Answer, error) {
	id, pin, err := s.member(ctx, c)
	if err != nil {
		return Answer{}, err
	}
	key, err := keyFrom(c.CSR)
	if err != nil {
		return Answer{}, err
	}
	if key.pin != pin || c.Member.ID != id {
		return Answer{}, model.Problem{Code: model.CodeNotPermitted, Reason: "a certificate is renewed for the key and the node that it is of",
			Fix: "flatnet leave --force on the host that asks, then join again: it has a copy of another node's certificate, or another key than it joined with"}
	}
	if err := s.Members.Judge(ctx, c.Member, pin); err != nil {
		return Answer{}, err
	}
	s.Log.Info("a certificate is renewed", "node", id, "from", c.from)
	return s.certify(ctx, c, key)
}

// leave takes out who asks.
func (s Server) leave(ctx context.Context, c call) (Answer, error) {
	id, _, err := s.member(ctx, c)
	if err != nil {
		return Answer{}, err
	}
	s.Log.Info("a host leaves", "node", id, "from", c.from)
	return Answer{}, errors.Join(s.Members.Dismiss(ctx, id), Forget(ctx, s.Tokens, id))
}

// member is who shows a certificate of the cluster, and was not taken out since. The key must be that which was let in: so the certificate of a
// node that was taken out does not come to life again when its id does.
func (s Server) member(ctx context.Context, c call) (id string, pin Pin, err error) {
	if c.peer == nil {
		return "", Pin{}, model.Problem{Code: model.CodeNotPermitted, Reason: "this call needs a certificate of the cluster", Fix: "flatnet join ADDRESS --token TOKEN gets one"}
	}
	id = c.peer.Subject.CommonName
	key, ok, err := s.Members.Admitted(ctx, id)
	if err != nil {
		return "", Pin{}, err
	}
	if !ok || key != PinOf(c.peer) {
		return "", Pin{}, model.Problem{Code: model.CodeNotPermitted, Reason: fmt.Sprintf("node %q is not of this cluster any more", id), Fix: "flatnet leave --force there, then join again"}
	}
	return id, key, nil
}

func (s Server) certify(ctx context.Context, c call, key keyOf) (Answer, error) {
	a, err := s.tell(ctx, c)
	if err != nil {
		return Answer{}, err
	}
	a.Certificate, err = s.Authority.Issue(key.public, Holder{ID: c.Member.ID, Addrs: c.Member.Underlays()}, s.Now(), Life)
	return a, err
}

func (s Server) tell(ctx context.Context, c call) (Answer, error) {
	cluster, err := s.Cluster(ctx)
	if err != nil {
		return Answer{}, err
	}
	cluster.Seen = c.from.String()
	return Answer{Cluster: cluster, Authority: s.Authority.cert.Raw}, nil
}
