package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// desk is a server that lets hosts in, on a clock that tests move.
type desk struct {
	*memory
	t         *testing.T
	authority *Authority
	addr      string
	ahead     atomic.Int64 // of the real clock, in nanoseconds
}

func (d *desk) now() time.Time { return time.Now().Add(time.Duration(d.ahead.Load())) }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	authority, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{memory: newMemory(), t: t, authority: authority}
	key := newKey(t)
	der, err := authority.Issue(&key.PublicKey, Holder{Server: true, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, time.Now(), Life)
	if err != nil {
		t.Fatal(err)
	}
	d.serve(Server{Authority: authority, Tokens: d, Members: d, Now: d.now, Log: slog.New(slog.DiscardHandler),
		Cluster:     func(context.Context) (Cluster, error) { return testCluster(), nil },
		Certificate: func() (*tls.Certificate, error) { return authority.TLSCertificate(der, key), nil }})
	return d
}

func testCluster() Cluster {
	return Cluster{Name: "c1", Servers: []string{"192.0.2.1:7700"}, MTU: 1500, Networks: []model.Network{{Name: "cluster", Mode: model.Cluster}},
		Etcd: Etcd{Endpoints: []string{"https://192.0.2.1:2379"}, External: true, Cert: []byte("cert"), Key: []byte("key")}}
}

func (d *desk) serve(s Server) {
	d.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	d.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	d.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Error(err)
		}
	})
}

func (d *desk) token(uses int, life time.Duration) Token {
	d.t.Helper()
	token, _, err := CreateToken(d.t.Context(), d, d.authority.Pin(), Terms{life, uses}, d.now())
	if err != nil {
		d.t.Fatal(err)
	}
	return token
}

func host(n int) model.Member {
	return model.Member{ID: fmt.Sprintf("n-%d", n), Name: fmt.Sprintf("h%d", n), Underlay4: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), MTU: 1500, Version: "1", Schema: 1}
}

func request(t testing.TB, token Token, m model.Member, key *ecdsa.PrivateKey) Request {
	t.Helper()
	csr, err := CSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return Request{Token: token.String(), CSR: csr, Member: m}
}

func (d *desk) newcomer(token Token) Client { return Newcomer(d.addr, token.Pin) }

// code is that of the problem; "ok" of none.
func code(err error) string {
	var many model.Problems
	var one model.Problem
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &many):
		return many[0].Code
	case errors.As(err, &one):
		return one.Code
	}
	return err.Error()
}

func want(t *testing.T, what string, err error, expect string) {
	t.Helper()
	if got := code(err); got != expect {
		t.Errorf("%s: got %s (%v), want %s", what, got, err, expect)
	}
}

func TestAHostJoinsRenewsAndLeaves(t *testing.T) {
	d := newDesk(t)
	token, key := d.token(1, time.Minute), newKey(t)
	asked, path, err := d.newcomer(token).Preflight(t.Context(), request(t, token, host(2), key))
	if err != nil {
		t.Fatal(err)
	}
	if asked.Cluster.Name != "c1" || asked.Cluster.Seen != "127.0.0.1" || asked.Certificate != nil || asked.Cluster.Etcd.Key != nil || path.From.String() != "127.0.0.1" || path.Skew.Abs() > 3*time.Second {
		t.Errorf("preflight: got %+v, %+v", asked, path)
	}
	if len(d.members) != 0 {
		t.Errorf("a preflight let %v in", d.members)
	}
	answer, err := d.newcomer(token).Join(t.Context(), request(t, token, host(2), key))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(answer.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(cert.Subject.CommonName, cert.IPAddresses, cert.DNSNames, cert.ExtKeyUsage); got != "n-2[192.0.2.2] [] [serverAuth clientAuth]" || string(answer.Cluster.Etcd.Key) != "key" {
		t.Errorf("got a certificate for %s, %+v", got, answer.Cluster)
	}

	authority, _ := x509.ParseCertificate(answer.Authority)
	member := Member(d.addr, authority, Certificate(answer.Certificate, key))
	moved := host(2)
	moved.Underlay4 = netip.MustParseAddr("192.0.2.22")
	d.ahead.Store(int64(Life * 2 / 3))
	again, err := member.Renew(t.Context(), request(t, Token{}, moved, key))
	if err != nil {
		t.Fatal(err)
	}
	renewed, _ := x509.ParseCertificate(again.Certificate)
	if got := fmt.Sprint(renewed.IPAddresses); got != "[192.0.2.22]" || !renewed.NotAfter.After(cert.NotAfter) {
		t.Errorf("renewed for %s until %s, before until %s", got, renewed.NotAfter, cert.NotAfter)
	}
	if err := member.Leave(t.Context()); err != nil || len(d.members) != 0 {
		t.Errorf("left: %v, members %v", err, d.members)
	}
	_, err = member.Renew(t.Context(), request(t, Token{}, moved, key))
	want(t, "renew after leaving", err, model.CodeNotPermitted)
}

func TestTokensAreCountedAcrossParallelJoins(t *testing.T) {
	d := newDesk(t)
	const uses, hosts = 5, 16
	token := d.token(uses, time.Minute)
	var all sync.WaitGroup
	var in, out atomic.Int32
	for n := range hosts {
		q := request(t, token, host(n+1), newKey(t))
		all.Go(func() {
			_, err := d.newcomer(token).Join(context.Background(), q)
			switch code(err) {
			case "ok":
				in.Add(1)
			case model.CodeTokenRefused:
				out.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if in.Load() != uses || out.Load() != hosts-uses || len(d.members) != uses {
		t.Errorf("%d of %d came in and %d were refused, with a token for %d; members %d", in.Load(), hosts, out.Load(), uses, len(d.members))
	}
}

func TestTheSameHostMayRepeatItsJoin(t *testing.T) {
	d := newDesk(t)
	token, key := d.token(1, time.Minute), newKey(t)
	for range 3 {
		if _, err := d.newcomer(token).Join(t.Context(), request(t, token, host(2), key)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := d.newcomer(token).Join(t.Context(), request(t, token, host(2), newKey(t)))
	want(t, "the same id with another key", err, model.CodeTokenRefused)
	_, err = d.newcomer(token).Join(t.Context(), request(t, d.token(1, time.Minute), host(2), newKey(t)))
	want(t, "the same id with another key and token", err, model.CodeMemberTaken)
}

func TestTokensEnd(t *testing.T) {
	d := newDesk(t)
	join := func(token Token) error {
		_, err := d.newcomer(token).Join(t.Context(), request(t, token, host(2), newKey(t)))
		return err
	}
	token := d.token(5, time.Minute)
	wrong, unknown, foreign := token, token, token
	wrong.Secret[0] ^= 1
	unknown.ID[0] ^= 1
	e1, e2 := join(wrong), join(unknown)
	if e1 == nil || e2 == nil || e1.Error() != e2.Error() {
		t.Errorf("a wrong secret says %v, an unknown token %v", e1, e2)
	}
	foreign.Pin[0] ^= 1
	_, err := d.newcomer(token).Join(t.Context(), request(t, foreign, host(2), newKey(t)))
	want(t, "the token of another cluster", err, model.CodeTokenRefused)
	if err := RevokeToken(t.Context(), d, token.Name()); err != nil {
		t.Fatal(err)
	}
	want(t, "a revoked token", join(token), model.CodeTokenRefused)
	want(t, "revoke once more", RevokeToken(t.Context(), d, token.Name()), model.CodeNotFound)
	late := d.token(5, time.Minute)
	d.ahead.Add(int64(time.Minute))
	want(t, "an expired token", join(late), model.CodeTokenRefused)
	list, err := ListTokens(t.Context(), d, d.now())
	if err != nil || len(list) != 1 || list[0].Name != late.Name() {
		t.Errorf("listed %+v, %v", list, err)
	}
	d.ahead.Add(int64(25 * time.Hour))
	if list, err = ListTokens(t.Context(), d, d.now()); err != nil || len(list) != 0 || len(d.tokens) != 0 {
		t.Errorf("a day later: listed %+v, %v, kept %d", list, err, len(d.tokens))
	}
	for _, terms := range []Terms{{time.Minute, 0}, {time.Minute, MaxTokenUses + 1}, {0, 1}, {MaxTokenLife + 1, 1}} {
		_, _, err := CreateToken(t.Context(), d, d.authority.Pin(), terms, d.now())
		want(t, fmt.Sprint(terms), err, model.CodeMalformed)
	}
}

// A man in the middle, the wrong host, and a node of the cluster that plays a server hear nothing.
func TestNothingIsToldToAStranger(t *testing.T) {
	d := newDesk(t)
	other, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	issue := func(a *Authority, h Holder) *tls.Certificate {
		der, err := a.Issue(&key.PublicKey, h, time.Now(), Life)
		if err != nil {
			t.Fatal(err)
		}
		return a.TLSCertificate(der, key)
	}
	forged := issue(other, Holder{Server: true})
	forged.Certificate[1] = d.authority.cert.Raw // shown, but not who signed
	for what, cert := range map[string]*tls.Certificate{
		"another cluster": issue(other, Holder{Server: true}), "a forged chain": forged,
		"a node of the cluster": issue(d.authority, Holder{ID: "n-9", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}),
	} {
		heard := make(chan []byte, 1)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				heard <- nil
				return
			}
			defer c.Close()
			text, _ := io.ReadAll(io.LimitReader(c, 10))
			heard <- text
		}()
		token := d.token(1, time.Minute)
		_, err = Newcomer(l.Addr().String(), token.Pin).Join(t.Context(), request(t, token, host(2), newKey(t)))
		want(t, what, err, model.CodeStranger)
		if text := <-heard; len(text) != 0 {
			t.Errorf("%s heard %q", what, text)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	d := newDesk(t)
	token := d.token(5, time.Minute)
	good := request(t, token, host(2), newKey(t))
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaCSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(good.CSR)
	forged[len(forged)-1] ^= 1
	for what, change := range map[string]func(*Request){
		"no CSR":           func(q *Request) { q.CSR = nil },
		"another key kind": func(q *Request) { q.CSR = rsaCSR },
		"a forged CSR":     func(q *Request) { q.CSR = forged },
		"too long":         func(q *Request) { q.Member.Name = strings.Repeat("x", maxRequest) },
	} {
		q := good
		change(&q)
		_, err := d.newcomer(token).Join(t.Context(), q)
		want(t, what, err, model.CodeMalformed)
	}
	bad := good
	bad.Member.ID = "../a"
	_, err = d.newcomer(token).Join(t.Context(), bad)
	want(t, "an id with a slash", err, model.CodeMember)
	res, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}).Get("https://" + d.addr + pathJoin)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", res.Status)
	}
	if len(d.members) != 0 {
		t.Errorf("let in: %v", d.members)
	}
}

func TestWhoFailsOftenWaits(t *testing.T) {
	d := newDesk(t)
	token := d.token(5, time.Hour)
	d.ahead.Add(1) // from here on the real clock's few milliseconds do not matter: a try comes back after seconds
	wrong := token
	wrong.Secret[0] ^= 1
	key := newKey(t)
	try := func(with Token) error {
		_, err := d.newcomer(token).Join(t.Context(), request(t, with, host(2), key))
		return err
	}
	failed := 0
	for err := try(wrong); code(err) == model.CodeTokenRefused; err = try(wrong) {
		failed++
	}
	if failed < burst || failed > 2*burst {
		t.Errorf("%d attempts, want about %d", failed, burst)
	}
	want(t, "the right token at that moment", try(token), model.CodeTooOften)
	d.ahead.Add(int64(refill * burst))
	want(t, "the right token a minute later", try(token), "ok")
	for range 2 * burst {
		want(t, "the right token, often", try(token), "ok")
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l, now := newLimiter(), time.Now()
	for i := range 3 * mostTold {
		l.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(l.spent) > mostTold {
		t.Errorf("%d addresses are remembered", len(l.spent))
	}
	one, sibling := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for range burst {
		l.take(one, now)
	}
	if l.take(sibling, now) {
		t.Error("an address of the same /64 may try more")
	}
}

func TestRenewalsAreForWhoAsks(t *testing.T) {
	d := newDesk(t)
	token := d.token(5, time.Minute)
	k2, k3 := newKey(t), newKey(t)
	a2, err2 := d.newcomer(token).Join(t.Context(), request(t, token, host(2), k2))
	_, err3 := d.newcomer(token).Join(t.Context(), request(t, token, host(3), k3))
	if err := errors.Join(err2, err3); err != nil {
		t.Fatal(err)
	}
	me := Member(d.addr, d.authority.cert, Certificate(a2.Certificate, k2))
	_, err := me.Renew(t.Context(), request(t, Token{}, host(3), k2))
	want(t, "for another node", err, model.CodeNotPermitted)
	_, err = me.Renew(t.Context(), request(t, Token{}, host(2), k3))
	want(t, "for another key", err, model.CodeNotPermitted)
	thief := host(2)
	thief.Underlay4 = host(3).Underlay4
	_, err = me.Renew(t.Context(), request(t, Token{}, thief, k2))
	want(t, "for another's address", err, model.CodeUnderlayTaken)
	_, err = d.newcomer(token).Renew(t.Context(), request(t, token, host(2), k2))
	want(t, "without a certificate", err, model.CodeNotPermitted)

	// Taken out, and another host has the id by now: the old certificate does not come to life again.
	if err := d.Dismiss(t.Context(), "n-2"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.newcomer(token).Join(t.Context(), request(t, token, host(2), newKey(t))); err != nil {
		t.Fatal(err)
	}
	_, err = me.Renew(t.Context(), request(t, Token{}, host(2), k2))
	want(t, "taken out", err, model.CodeNotPermitted)
}

func TestClocksAreCompared(t *testing.T) {
	d := newDesk(t)
	token := d.token(5, 3*time.Hour)
	_, path, err := d.newcomer(token).Preflight(t.Context(), request(t, token, host(2), newKey(t)))
	if err != nil || path.Skew.Abs() > 3*time.Second {
		t.Errorf("skew %v, %v", path.Skew, err)
	}
	d.ahead.Store(int64(time.Hour))
	_, path, err = d.newcomer(token).Preflight(t.Context(), request(t, token, host(2), newKey(t)))
	if err != nil || (path.Skew-time.Hour).Abs() > 3*time.Second {
		t.Errorf("an hour ahead: skew %v, %v", path.Skew, err)
	}
}

func TestTokensAreReadAsTheyAreWritten(t *testing.T) {
	token := Token{Pin: Pin{1}, ID: [6]byte{2}, Secret: [16]byte{3}}
	if got, err := ParseToken(" " + token.String() + "\n"); err != nil || got != token {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{"", "fn1.", "fn2." + token.String()[4:], token.String()[:70], token.String() + "A", strings.Replace(token.String(), "A", "+", 1)} {
		_, err := ParseToken(s)
		want(t, s, err, model.CodeToken)
		if s != "" && len(s) > 20 && strings.Contains(err.Error(), s[10:]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{ID: [6]byte{1}}.String())
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err == nil && token.String() != strings.TrimSpace(s) {
			t.Errorf("%q is read as %s", s, token)
		}
	})
}

func TestTheAuthorityIsKept(t *testing.T) {
	f := Folder(t.TempDir() + "/cluster")
	if a, err := LoadAuthority(f); a != nil || err != nil {
		t.Fatalf("of an empty folder: %v, %v", a, err)
	}
	first, err := MakeAuthority(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(AuthorityFile); err != nil { // killed between the key and its certificate
		t.Fatal(err)
	}
	second, err := MakeAuthority(f)
	if err != nil || second.Pin() != first.Pin() {
		t.Errorf("after a crash: another key, or %v", err)
	}
	third, err := LoadAuthority(f)
	if err != nil || !third.cert.Equal(second.cert) {
		t.Errorf("loaded another one, or %v", err)
	}
	for _, name := range []string{AuthorityFile, authorityKeyFile} {
		if info, err := os.Stat(f.Path(name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(string(f)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
}
