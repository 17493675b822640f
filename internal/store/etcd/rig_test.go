package etcd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // they mostly wait
	os.Exit(kerneltest.Main(m))
}

// ports are given once in the namespace.
var ports atomic.Int32

func freeURL() string { return fmt.Sprintf("http://127.0.0.1:%d", 20000+ports.Add(1)) }

// machine is one server of an etcd cluster: a real process, that can be killed and frozen.
type machine struct {
	t       testing.TB
	name    string
	dir     string
	client  string
	peer    string
	initial string
	more    []string // arguments
	process *exec.Cmd
}

// cluster starts n servers, ready when it returns. They elect fast, so that tests are short.
func cluster(t *testing.T, n int) []*machine {
	t.Helper()
	var all []*machine
	var initial []string
	for i := range n {
		m := &machine{t: t, name: fmt.Sprint("s", i), dir: t.TempDir(), client: freeURL(), peer: freeURL()}
		initial = append(initial, m.name+"="+m.peer)
		all = append(all, m)
	}
	for _, m := range all {
		m.initial = strings.Join(initial, ",")
		m.start()
	}
	ready(t, all...)
	return all
}

func (m *machine) start() {
	m.t.Helper()
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.process = exec.Command("etcd", "--name", m.name, "--data-dir", m.dir, "--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer, "--initial-cluster", m.initial,
		"--heartbeat-interval", "30", "--election-timeout", "300")
	m.process.Args = append(m.process.Args, m.more...)
	m.process.Stdout, m.process.Stderr = log, log
	m.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() { // Pdeathsig is about the thread that started it
		runtime.LockOSThread()
		started <- m.process.Start()
		select {}
	}()
	if err := <-started; err != nil {
		m.t.Fatalf("etcd (hack/deps installs it): %v", err)
	}
	m.t.Cleanup(m.kill)
}

func (m *machine) kill() {
	if m.process.Process != nil && m.process.ProcessState == nil {
		_ = m.process.Process.Kill()
		_ = m.process.Wait()
	}
}

func (m *machine) freeze() { _ = m.process.Process.Signal(syscall.SIGSTOP) }
func (m *machine) thaw()   { _ = m.process.Process.Signal(syscall.SIGCONT) }

func urls(all []*machine) []string {
	var u []string
	for _, m := range all {
		u = append(u, m.client)
	}
	return u
}

// raw is a client of etcd's own, for what strangers and admins do.
func raw(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ready waits until the servers have a leader.
func ready(t testing.TB, all ...*machine) {
	t.Helper()
	c := raw(t, urls(all)...)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		one, stop := context.WithTimeout(ctx, time.Second)
		_, err := c.Get(one, "x")
		stop()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			log, _ := os.ReadFile(filepath.Join(all[0].dir, "log"))
			t.Fatalf("etcd does not become ready: %v\n%s", err, log)
		}
	}
}

// quick is the configuration of tests: seconds instead of a day.
func quick(root string, endpoints ...string) Config {
	return Config{Endpoints: endpoints, Root: root, Grace: 2 * time.Second, Alive: 2 * time.Second, Probe: 250 * time.Millisecond}
}

func open(t testing.TB, config Config) *Client {
	t.Helper()
	c, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// shared is a store below a root of its own.
func shared(t *testing.T, endpoints ...string) storetest.Shared {
	admin := raw(t, endpoints...)
	config := quick(fmt.Sprintf("/test/%d/", ports.Add(1)), endpoints...)
	return storetest.Shared{
		Grace: config.Grace, Alive: config.Alive,
		Client: func() store.Cluster {
			c, err := Open(config)
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
		Wipe: func(l model.Lease) {
			if _, err := admin.Delete(t.Context(), config.Root+claimKey(l)); err != nil {
				t.Fatal(err)
			}
		},
		Plant: func(kind store.Kind, name, data string) {
			if _, err := admin.Put(t.Context(), config.Root+objectKey(kind, name), data); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// proxy stands between one client and a server, and can hold back or cut what passes.
type proxy struct {
	url    string
	target string
	listen net.Listener

	mu    sync.Mutex
	open  *sync.Cond
	held  bool
	conns map[net.Conn]bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{url: "http://" + l.Addr().String(), target: strings.TrimPrefix(target, "http://"), listen: l, conns: map[net.Conn]bool{}}
	p.open = sync.NewCond(&p.mu)
	go p.serve()
	t.Cleanup(func() { l.Close(); p.hold(false); p.cut() })
	return p
}

func (p *proxy) serve() {
	for {
		in, err := p.listen.Accept()
		if err != nil {
			return
		}
		go func() {
			p.pass() // held: not even connected
			out, err := net.Dial("tcp", p.target)
			if err != nil {
				in.Close()
				return
			}
			p.mu.Lock()
			p.conns[in], p.conns[out] = true, true
			p.mu.Unlock()
			go p.copy(in, out)
			p.copy(out, in)
		}()
	}
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.pass()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil && !errors.Is(err, io.EOF) || n == 0 {
			return
		}
	}
}

// pass waits while everything is held back.
func (p *proxy) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.held {
		p.open.Wait()
	}
}

// hold holds everything back, as a network does that loses every packet; what was sent arrives later.
func (p *proxy) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	p.open.Broadcast()
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
		delete(p.conns, c)
	}
}
