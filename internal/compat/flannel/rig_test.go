package flannel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // they mostly wait
	os.Exit(kerneltest.Main(m))
}

// ports are given once in the namespace.
var ports atomic.Int32

// server is an etcd, a real one, spoken to as a stranger does: by its JSON.
type server struct {
	t       testing.TB
	dir     string
	url     string
	peer    string
	process *exec.Cmd
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), url: freeURL(), peer: freeURL()}
	s.start()
	return s
}

func freeURL() string { return fmt.Sprintf("http://127.0.0.1:%d", 20000+ports.Add(1)) }

// start returns when it answers.
func (s *server) start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.process = exec.Command("etcd", "--name", "s", "--data-dir", s.dir, "--listen-client-urls", s.url, "--advertise-client-urls", s.url,
		"--listen-peer-urls", s.peer, "--initial-advertise-peer-urls", s.peer, "--initial-cluster", "s="+s.peer, "--heartbeat-interval", "30", "--election-timeout", "300")
	s.process.Stdout, s.process.Stderr = log, log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() { // Pdeathsig is about the thread that started it
		runtime.LockOSThread()
		started <- s.process.Start()
		select {}
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("etcd (hack/deps installs it): %v", err)
	}
	s.t.Cleanup(s.kill)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := s.call("kv/range", map[string]any{"key": []byte("x")}); err == nil {
			return
		} else if time.Now().After(end) {
			s.t.Fatal("etcd does not become ready: ", err)
		}
	}
}

func (s *server) kill() {
	if s.process.Process != nil && s.process.ProcessState == nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	}
}

// call is one request of etcd's JSON (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/): bytes are in base64, as encoding/json has them.
func (s *server) call(method string, request any) (map[string]json.RawMessage, error) {
	body, _ := json.Marshal(request)
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Post(s.url+"/v3/"+method, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, data)
	}
	answer := map[string]json.RawMessage{}
	return answer, errors.Join(err, json.Unmarshal(data, &answer))
}

func (s *server) must(method string, request any) map[string]json.RawMessage {
	s.t.Helper()
	answer, err := s.call(method, request)
	if err != nil {
		s.t.Fatalf("%s: %v", method, err)
	}
	return answer
}

func (s *server) put(key, value string) {
	s.t.Helper()
	s.must("kv/put", map[string]any{"key": []byte(key), "value": []byte(value)})
}

// grant makes an etcd lease; seconds.
func (s *server) grant(ttl int) string {
	s.t.Helper()
	var id string
	_ = json.Unmarshal(s.must("lease/grant", map[string]any{"TTL": ttl})["ID"], &id)
	return id
}

func (s *server) putLeased(key, value, lease string) {
	s.t.Helper()
	s.must("kv/put", map[string]any{"key": []byte(key), "value": []byte(value), "lease": lease})
}

func (s *server) delete(key string) {
	s.t.Helper()
	s.must("kv/deleterange", map[string]any{"key": []byte(key)})
}

// compact takes all history away.
func (s *server) compact() {
	s.t.Helper()
	var header struct{ Revision string }
	_ = json.Unmarshal(s.must("kv/range", map[string]any{"key": []byte("x")})["header"], &header)
	s.must("kv/compaction", map[string]any{"revision": header.Revision, "physical": true})
}

// stored is a key as it stands in etcd.
type stored struct {
	value string
	lease string // "0": none
	ttl   int    // seconds that were granted
}

// get is the key; ok is false when there is none.
func (s *server) get(key string) (stored, bool) {
	s.t.Helper()
	var kvs []struct {
		Value []byte
		Lease string
	}
	_ = json.Unmarshal(s.must("kv/range", map[string]any{"key": []byte(key)})["kvs"], &kvs)
	if len(kvs) == 0 {
		return stored{}, false
	}
	st := stored{value: string(kvs[0].Value), lease: kvs[0].Lease}
	if st.lease != "" && st.lease != "0" {
		var ttl string
		_ = json.Unmarshal(s.must("lease/timetolive", map[string]any{"ID": st.lease})["grantedTTL"], &ttl)
		st.ttl, _ = strconv.Atoi(ttl)
	}
	return st, true
}

const (
	prefix = "/coreos.com/network"
	conf   = prefix + "/config"
	subs   = prefix + "/subnets/"
)

// node is a flatnetd's part of the tests: one address, and a way to flannel's keys.
type node struct {
	*Cluster
	t  testing.TB
	id string
	ip string
}

// quick is a way to a server with the times of tests.
func quick(s *server, more func(*Settings)) Settings {
	settings := Settings{Endpoints: []string{s.url}, Probe: 250 * time.Millisecond}
	if more != nil {
		more(&settings)
	}
	return settings
}

func newNode(t testing.TB, s *server, ip string, more func(*Settings)) *node {
	t.Helper()
	n := &node{t: t, ip: ip, id: MemberID(netip.MustParseAddr(ip))}
	c, err := Open(quick(s, more))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	n.Cluster = c
	n.publish(ip, "")
	return n
}

// publish says where the node is.
func (n *node) publish(v4, v6 string) {
	n.t.Helper()
	m := model.Member{ID: n.id, Name: "host-" + n.ip, Underlay4: netip.MustParseAddr(v4), MTU: 1500, Version: "v0", Schema: store.Schema}
	if v6 != "" {
		m.Underlay6 = netip.MustParseAddr(v6)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	if _, err := n.Write(ctx, store.PutMember(m, store.Any)); err != nil {
		n.t.Fatal(err)
	}
}

// sees waits for a live snapshot of which ok is true.
func (n *node) sees(what string, ok func(store.ClusterSnapshot) bool) store.ClusterSnapshot {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	var last store.ClusterSnapshot
	var mu sync.Mutex
	done := false
	_ = n.Watch(ctx, func(s store.ClusterSnapshot) {
		mu.Lock()
		defer mu.Unlock()
		if last = s; s.Live && ok(s) {
			done = true
			cancel()
		}
	})
	if !done {
		n.t.Fatalf("%s was never seen; last live %v, leases %v, members %v, unread %v", what, last.Live, last.Leases, last.Members, last.Unread)
	}
	return last
}

func (n *node) lease(block string) model.Lease {
	return model.Lease{Network: "flannel", Block: netip.MustParsePrefix(block), Node: n.id}
}

// claims claims, and wants it done.
func (n *node) claims(block string) store.Held {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	held, err := n.Claim(ctx, n.lease(block))
	if err != nil {
		n.t.Fatal(err)
	}
	return held
}
