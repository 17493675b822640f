package join

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// Who opens connections and says nothing keeps nobody else out.
func TestOneAddressDoesNotHoldAllConnections(t *testing.T) {
	d := newDesk(t)
	for range mostAtOnce + 40 {
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := other.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second)) // those who are silent are hung up on after 10 s
	if err := tls.Client(c, Pinned(d.authority.Pin())).Handshake(); err != nil {
		t.Errorf("another host: %v", err)
	}
}

// A host that was taken out needs a use of its token that is left, as any other.
func TestWhoWasTakenOutDoesNotComeBackForFree(t *testing.T) {
	d := newDesk(t)
	token, key := d.token(1, time.Minute), newKey(t)
	_, err := d.newcomer(token).Join(t.Context(), request(t, token, host(2), key))
	want(t, "first", err, "ok")
	if err := errors.Join(Forget(t.Context(), d, host(2).ID), d.Dismiss(t.Context(), host(2).ID)); err != nil {
		t.Fatal(err)
	}
	_, err = d.newcomer(token).Join(t.Context(), request(t, token, host(2), key))
	want(t, "after it was taken out", err, model.CodeTokenRefused)
}
