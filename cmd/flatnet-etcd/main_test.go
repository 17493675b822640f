package main

import (
	"io"
	"testing"

	"github.com/flatnet/flatnet/internal/join"
)

// Nodes have certificates of the same authority as servers, and must not speak where servers speak to each other.
func TestOnlyServersSpeakAmongServers(t *testing.T) {
	s, err := readFlags([]string{"--name", "n", "--dir", "d", "--lock", "l", "--client-url", "c", "--peer-url", "p", "--cert", "C", "--key", "K", "--ca", "A"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.PeerTLS.Name != join.ServerName || s.TLS.Name != "" || s.PeerTLS.CA != "A" || s.PeerTLS.Cert != "C" || s.PeerTLS.Key != "K" {
		t.Errorf("nodes %+v, servers %+v", s.TLS, s.PeerTLS)
	}
}
