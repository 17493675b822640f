package bpf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

func TestObserveGivesBackWhatWasApplied(t *testing.T) {
	s := newSpace(t)
	conn := s.conn(t, t.TempDir())
	random := rand.New(rand.NewPCG(1, 2))
	have := dataplane.State{}
	for round := range 20 {
		want := randomState(random)
		s.apply(t, conn, want)
		have = s.observe(t, conn)
		if !maps.Equal(have, want) {
			t.Fatalf("round %d: %d objects seen, %d applied; still to do:\n%s", round, len(have), len(want), dataplane.Diff(want, have))
		}
	}
	s.end(t, conn)
	if left := s.observe(t, conn); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// randomState has any of the programs and up to 3,000 forwards, which are more than one system call reads.
func randomState(r *rand.Rand) dataplane.State {
	s := dataplane.State{}
	for _, p := range dataplane.LoopbackPrograms() {
		if r.IntN(3) > 0 {
			s[p.Key()] = p
		}
	}
	for range r.IntN(2) * r.IntN(3000) {
		f := dataplane.LoopbackForward{
			Proto: []model.Proto{model.TCP, model.UDP, model.SCTP}[r.IntN(3)], Port: uint16(1 + r.IntN(4000)),
			To: netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(r.Uint32()), 15: byte(r.Uint32())}), ToPort: uint16(r.Uint32()),
		}
		s[f.Key()] = f
	}
	return s
}

func TestEveryPortOfEveryProtocolFits(t *testing.T) {
	s := newSpace(t)
	conn := s.conn(t, t.TempDir())
	want := dataplane.State{}
	for _, proto := range []model.Proto{model.TCP, model.UDP} {
		for port := 1; port < 1<<16; port++ {
			f := dataplane.LoopbackForward{Proto: proto, Port: uint16(port), To: netip.MustParseAddr(workload), ToPort: uint16(port)}
			want[f.Key()] = f
		}
	}
	s.apply(t, conn, want)
	defer s.end(t, conn)
	if have := s.observe(t, conn); !maps.Equal(have, want) {
		t.Errorf("%d objects seen, %d applied", len(have), len(want))
	}
}

func TestASecondApplyOfTheSameChangesNothing(t *testing.T) {
	s := newSpace(t)
	conn := s.conn(t, t.TempDir())
	s.apply(t, conn, wanted())
	defer s.end(t, conn)
	if plan := s.apply(t, conn, wanted()); len(plan) > 0 {
		t.Errorf("not empty:\n%s", plan)
	}
	whole := dataplane.Diff(wanted(), dataplane.State{}) // as after a crash between kernel and memory
	if err := conn.applyIn(s, whole); err != nil {
		t.Error(err)
	}
	if n := len(links(t)); n != 4 {
		t.Errorf("%d links after applying twice, want 4", n)
	}
}

func (c *Conn) applyIn(s *space, plan dataplane.Plan) (err error) {
	s.do(func() { err = c.Apply(context.Background(), plan) })
	return err
}

func TestDeletingWhatIsNotThereIsNoError(t *testing.T) {
	s := newSpace(t)
	dir := t.TempDir()
	conn := s.conn(t, dir)
	if err := conn.applyIn(s, dataplane.Diff(dataplane.State{}, wanted())); err != nil {
		t.Error(err)
	}
	s.mustBeClean(t, dir)
}

func TestNothingIsLeft(t *testing.T) {
	s := newSpace(t)
	dir := t.TempDir()
	conn := s.conn(t, dir)
	s.apply(t, conn, wanted())
	if n := len(links(t)); n != 4 {
		t.Errorf("%d links, want 4", n)
	}
	s.end(t, conn)
	s.mustBeClean(t, dir)
}

func (s *space) mustBeClean(t *testing.T, runDir string) {
	t.Helper()
	if left := links(t); len(left) > 0 {
		t.Errorf("links left: %v", left)
	}
	if left := attachedPrograms(t); left > 0 {
		t.Errorf("%d programs left", left)
	}
	s.do(func() {
		mounts, err := readMounts()
		if err != nil {
			t.Error(err)
		}
		for _, m := range mounts {
			if strings.HasPrefix(m.point, runDir) {
				t.Errorf("mount left: %v", m)
			}
		}
		if left, err := os.ReadDir(runDir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", runDir, left, err)
		}
	})
}

// links are all that are attached to the cgroup of the tests, with the ids of their programs.
func links(t *testing.T) map[link.ID]uint32 {
	t.Helper()
	_, id, err := openCgroup(testCgroup())
	if err != nil {
		t.Fatal(err)
	}
	found := map[link.ID]uint32{}
	var all link.Iterator
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil {
			t.Fatal(err)
		}
		if c := info.Cgroup(); c != nil && c.CgroupId == id {
			found[info.ID] = uint32(info.Program)
		}
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestForwardsOutliveTheDaemon(t *testing.T) {
	p := newPair(t, "workload")
	dir := t.TempDir()
	p.host.kill9(t, dir, testCgroup())
	clients := []client{
		{proto: tcp, connect: true, to: "[::1]:8080"},
		{proto: udp, connect: true, to: "[::1]:8080"},
		{proto: udp, to: "[::1]:8080"},
	}
	compare(t, p.host.table(clients), `
		tcp connect [::1]:8080                     workload to fd00:5::1, peer [::1]:8080
		udp connect [::1]:8080                     workload to fd00:5::1, peer [::1]:8080
		udp sendto [::1]:8080                      workload to fd00:5::1, peer [::1]:8080
	`)
	conn := p.host.conn(t, dir)
	if have := p.host.observe(t, conn); !maps.Equal(have, wanted()) {
		t.Errorf("the next daemon finds %v", have)
	}
	p.host.end(t, conn)
	p.host.mustBeClean(t, dir)
}

// kill9 runs a daemon in the namespace until it has applied what is wanted, and kills it.
func (s *space) kill9(t *testing.T, runDir, cgroup string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), daemonEnv+"="+runDir+","+cgroup)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Errorf("daemon: %q %v", line, err)
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
}

// The whole machine's cgroup, found by itself, as a real daemon does; only our namespace's sockets are touched.
func TestTheRootOfAllCgroups(t *testing.T) {
	p := newPair(t, "workload")
	dir := t.TempDir()
	var conn *Conn
	var err error
	p.host.do(func() { conn, err = New(Config{RunDir: dir}) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.cgroup.Name() != cgroupRoot() {
		t.Errorf("attaches to %s, want %s", conn.cgroup.Name(), cgroupRoot())
	}
	p.host.apply(t, conn, wanted())
	if err := p.mustAnswer(t.Context()); err != nil {
		t.Error(err)
	}
	p.host.end(t, conn)
	p.host.mustBeClean(t, dir)
}

// Connections are made all the time while an older version's programs are replaced: none may fail.
func TestANewVersionTakesOver(t *testing.T) {
	p := newPair(t, "workload")
	dir := t.TempDir()
	old := p.host.conn(t, dir)
	old.version = "0123456789ab-1"
	p.host.apply(t, old, wanted())
	before := links(t)

	conn := p.host.conn(t, dir)
	if got, want := dataplane.Diff(wanted(), p.host.observe(t, conn)).String(), `add loopback tcp [::1]:8080 to [fd00:5::2]:80
add loopback udp [::1]:8080 to [fd00:5::2]:80
replace program cgroup/connect6
replace program cgroup/getpeername6
replace program cgroup/recvmsg6
replace program cgroup/sendmsg6
`; got != want {
		t.Errorf("plan:\n%swant:\n%s", got, want)
	}
	stop := p.connectAlways(t)
	p.host.apply(t, conn, wanted())
	stop()
	if have := p.host.observe(t, conn); !maps.Equal(have, wanted()) {
		t.Errorf("after: %v", have)
	}
	after := links(t)
	if !slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))) {
		t.Errorf("links were %v, are %v: want the same ones", before, after)
	}
	for id, program := range after {
		if before[id] == program {
			t.Errorf("link %d still has program %d", id, program)
		}
	}
	p.host.mustBeVersions(t, dir, conn.version)
	p.host.end(t, conn)
	p.host.mustBeClean(t, dir)
}

func (p pair) connectAlways(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	host := p.host.twin(t)
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil || n < 10; n++ {
			if err := (pair{host: host}).mustAnswer(ctx); err != nil {
				t.Errorf("connection %d: %v", n, err)
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// twin is another thread in the same network namespace.
func (s *space) twin(t *testing.T) *space {
	t.Helper()
	twin := newSpace(t)
	var err error
	twin.do(func() {
		var fd int
		if fd, err = unix.Open(s.path(), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return twin
}

func (s *space) mustBeVersions(t *testing.T, dir string, want ...string) {
	t.Helper()
	s.do(func() {
		var got []string
		entries, err := os.ReadDir(filepath.Join(dir, "bpf"))
		for _, e := range entries {
			if isVersion(e.Name()) { // the kernel may put files of its own beside them
				got = append(got, e.Name())
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("directories %v %v, want %v", got, err, want)
		}
	})
}

// An older version's programs go also when nothing is wanted any longer.
func TestAnOldVersionIsRemoved(t *testing.T) {
	s := newSpace(t)
	dir := t.TempDir()
	old := s.conn(t, dir)
	old.version = "0123456789ab-1"
	s.apply(t, old, wanted())
	s.end(t, s.conn(t, dir))
	s.mustBeClean(t, dir)
}

// The same state directory in another namespace, as after the lab was made anew.
func TestANewNamespaceTakesOver(t *testing.T) {
	dir := t.TempDir()
	p := newPair(t, "new")
	// The old daemon was another process in another namespace, on the same file system.
	old := p.host.conn(t, dir)
	old.ours, old.version = 1, version(1)
	p.host.apply(t, old, wanted())
	if err := p.mustAnswer(t.Context()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("programs of namespace 1 act in ours: %v", err)
	}
	conn := p.host.conn(t, dir)
	p.host.apply(t, conn, wanted())
	if err := p.mustAnswer(t.Context()); err != nil {
		t.Error(err)
	}
	p.host.mustBeVersions(t, dir, conn.version)
	p.host.end(t, conn)
	p.host.mustBeClean(t, dir)
}

func TestWhatOthersBreakIsSeenAndRepaired(t *testing.T) {
	for name, harm := range map[string]func(c *Conn) error{
		"link detached": func(c *Conn) error {
			a, err := openAttached(c.pin("connect6"))
			if err != nil {
				return err
			}
			defer a.link.Close()
			return a.link.Detach()
		},
		"pin removed":        func(c *Conn) error { return os.Remove(c.pin("connect6")) },
		"map's pin removed":  func(c *Conn) error { return os.Remove(c.pin("forwards")) },
		"peers' pin removed": func(c *Conn) error { return os.Remove(c.pin("peers")) },
		"unmounted":          func(c *Conn) error { return unix.Unmount(c.root, unix.MNT_DETACH) },
		"everything removed": func(c *Conn) error { return os.RemoveAll(c.pin("")) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, "workload")
			dir := t.TempDir()
			conn := p.host.conn(t, dir)
			p.host.apply(t, conn, wanted())
			var err error
			p.host.do(func() { err = harm(conn) })
			if err != nil {
				t.Fatal(err)
			}
			if plan := p.host.apply(t, conn, wanted()); len(plan) == 0 {
				t.Error("not seen")
			}
			if plan := p.host.apply(t, conn, wanted()); len(plan) != 0 {
				t.Errorf("still to do:\n%s", plan)
			}
			waitForPrograms(t, 4) // the kernel lets go of what nothing holds a moment later
			p.work.answer(t, "[::]:81", "moved")
			p.host.apply(t, conn, moved())
			compare(t, p.host.table([]client{{proto: tcp, connect: true, to: "[::1]:8080"}}), `
				tcp connect [::1]:8080                     moved to fd00:5::1, peer [::1]:8080
			`)
			p.host.end(t, conn)
			p.host.mustBeClean(t, dir)
		})
	}
}

// waitForPrograms waits until that many are attached: links are gone from the list before they are detached.
func waitForPrograms(t *testing.T, n int) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for attachedPrograms(t) != n {
		if time.Now().After(end) {
			t.Fatalf("%d programs, want %d", attachedPrograms(t), n)
		}
		time.Sleep(time.Millisecond)
	}
}

func attachedPrograms(t *testing.T) int {
	t.Helper()
	dir, err := os.Open(testCgroup())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	n := 0
	for _, hook := range []ebpf.AttachType{
		ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet6GetPeername,
	} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hook})
		if err != nil {
			t.Fatal(err)
		}
		n += len(found.Programs)
	}
	return n
}

// moved is wanted with another port of the workload.
func moved() dataplane.State {
	s := wanted()
	for key, o := range s {
		if f, ok := o.(dataplane.LoopbackForward); ok {
			f.ToPort = 81
			s[key] = f
		}
	}
	return s
}

func TestErrorsNameTheStep(t *testing.T) {
	s := newSpace(t)
	conn := s.conn(t, t.TempDir())
	defer s.end(t, conn)
	err := conn.applyIn(s, dataplane.Plan{
		{Op: dataplane.Add, Object: dataplane.LoopbackForward{Proto: model.TCP, Port: 1, To: netip.MustParseAddr("192.0.2.1"), ToPort: 2}},
		{Op: dataplane.Add, Object: dataplane.Program{Name: "bind6"}},
		{Op: dataplane.Add, Object: dataplane.Table{Family: dataplane.Inet}},
	})
	compare(t, fmt.Sprint(err), `
		add loopback tcp [::1]:1 to 192.0.2.1:2: 192.0.2.1 is no IPv6 address that sockets can be sent to
		add program cgroup/bind6: no program "bind6" in this version
	`)
}
