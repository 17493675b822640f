package fail_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"os/exec"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/store/etcd"
	"github.com/flatnet/flatnet/test/rig"
)

// etcd is the cluster's own, as who may write everything; the test itself is on the LAN for it.
func (s *site) etcd() *clientv3.Client {
	s.Helper()
	lan := s.LAN()
	commands := fmt.Sprintf("ip link show tester >/dev/null 2>&1 || { ip link add tester type veth peer name p-tester netns %d && ip addr add 192.0.2.200/24 dev tester && ip link set tester up; }", lan.Holder.PID)
	if out, err := exec.Command("sh", "-c", commands).CombinedOutput(); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	s.must(lan.IP(s.Context(), "link set p-tester master lan1 up"))
	authority, err := join.LoadAuthority(join.Folder(s.h(1).Path("/var/lib/flatnet/cluster")))
	s.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	der, err := authority.Issue(&key.PublicKey, join.Holder{ID: "root"}, time.Now(), time.Hour)
	s.must(err)
	own := join.Certificate(der, key)
	config := join.TLS(authority.Certificate(), func() (*tls.Certificate, error) { return &own, nil })
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://192.0.2.1:2379"}, TLS: config, Logger: zap.NewNop()})
	s.must(err)
	s.Cleanup(func() { c.Close() })
	return c
}

// put writes a key below the root; with no value it is deleted.
func (s *site) put(c *clientv3.Client, key, value string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	var err error
	if value == "" {
		_, err = c.Delete(ctx, etcd.Root+key)
	} else {
		_, err = c.Put(ctx, etcd.Root+key, value)
	}
	s.must(err)
}

func (s *site) get(c *clientv3.Client, key string) (value string, revision int64) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	resp, err := c.Get(ctx, etcd.Root+key)
	s.must(err)
	if len(resp.Kvs) == 0 {
		return "", resp.Header.Revision
	}
	return string(resp.Kvs[0].Value), resp.Header.Revision
}

// server is the process of h1's etcd.
func (s *site) server() string {
	out, _ := s.h(1).Exec(s.Context(), "pidof", "flatnet-etcd")
	return strings.TrimSpace(out)
}

func (s *site) live(n int) bool {
	c := s.h(n).Client()
	defer c.Close()
	m, err := c.Membership(s.Context())
	return err == nil && m.Live
}

func (s *site) allLive() {
	s.Helper()
	for n := range s.Hosts() {
		s.within(time.Minute, fmt.Sprintf("h%d hears the store", n+1), func() bool { return s.live(n + 1) })
	}
}

// id is the member ID of host n.
func (s *site) id(n int) string {
	s.Helper()
	c := s.h(n).Client()
	defer c.Close()
	m, err := c.Membership(s.Context())
	s.must(err)
	return m.ID
}

func (s *site) doctor(n int) []api.Finding {
	s.Helper()
	c := s.h(n).Client()
	defer c.Close()
	list, err := c.Doctor(s.Context())
	s.must(err)
	return list
}

// finds waits until doctor on host n says some words, all in one finding of a code.
func (s *site) finds(n int, code string, words ...string) string {
	s.Helper()
	var found string
	for end := time.Now().Add(rig.Patience); ; time.Sleep(50 * time.Millisecond) {
		list := s.doctor(n)
		for _, f := range list {
			if found = f.Code + " " + f.What + " " + f.Owner; f.Code == code && len(lines(found, words...)) > 0 {
				return found
			}
		}
		if time.Now().After(end) {
			for _, f := range list {
				s.Log(f.Code, f.What, f.Owner)
			}
			s.Fatalf("h%d: doctor does not say %s %q", n, code, words)
		}
	}
}
