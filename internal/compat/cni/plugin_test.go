package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api/attach"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/rig"
	"golang.org/x/sys/unix"
)

// site is a socket with a fake daemon behind it, for the real plugin.
type site struct {
	t      *testing.T
	socket string
	plugin string
	daemon *fake
	log    bytes.Buffer
	stop   func() // ends Serve, and waits for it
}

func newSite(t *testing.T) *site {
	if os.Geteuid() != 0 {
		t.Fatal("only root may attach: run this as root")
	}
	s := &site{t: t, socket: filepath.Join(t.TempDir(), "attach.sock"), plugin: rig.Program(t, "flatnet-cni"), daemon: newFake()}
	s.serve()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *site) serve() {
	s.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, s.daemon, l, slog.New(slog.NewTextHandler(&s.log, nil))) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
}

// command is the plugin as a runtime starts it.
func (s *site) command(command, container string, env ...string) (*exec.Cmd, *bytes.Buffer) {
	var stdout bytes.Buffer
	cmd := exec.Command(s.plugin)
	cmd.Env = append([]string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net", "FLATNET_ATTACH_SOCKET=" + s.socket}, env...)
	cmd.Stdin, cmd.Stdout = strings.NewReader(`{"cniVersion":"1.0.0","name":"pods","type":"flatnet"}`), &stdout
	return cmd, &stdout
}

// call runs the plugin, and returns CNI's code of what it says: 0 for success.
func (s *site) call(command, container string, env ...string) (code uint, said string) {
	s.t.Helper()
	cmd, stdout := s.command(command, container, env...)
	err := cmd.Run()
	var f failure
	if err != nil && (json.Unmarshal(stdout.Bytes(), &f) != nil || f.Code == 0) {
		s.t.Errorf("%s %s: %v, and not an error of CNI: %s", command, container, err, stdout)
	}
	return f.Code, stdout.String()
}

func (s *site) asked() []string {
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	return slices.Clone(s.daemon.asked)
}

// eventually waits for what takes milliseconds on an idle machine.
func (s *site) eventually(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(rig.Patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s; asked %q\n%s", rig.Patience, what, s.asked(), &s.log)
		}
	}
}

// openNamespaces are how many descriptors of network namespaces this process has.
func openNamespaces(t *testing.T) (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "net:[") {
			n++
		}
	}
	return n
}

func TestThePluginLendsTheNamespaceForOneRequest(t *testing.T) {
	s := newSite(t)
	want, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	before := openNamespaces(t)
	same, flags := false, 0
	s.daemon.see = func(ns *os.File) {
		got, err := ns.Stat()
		same = err == nil && os.SameFile(got, want)
		flags, _ = unix.FcntlInt(ns.Fd(), unix.F_GETFD, 0)
	}
	if code, said := s.call("ADD", "c1"); code != 0 || !strings.Contains(said, `"sandbox":"/proc/self/ns/net"`) {
		t.Fatalf("ADD: %d %s", code, said)
	}
	if !same {
		t.Error("the daemon got another namespace")
	}
	if flags&unix.FD_CLOEXEC == 0 {
		t.Error("a program that the daemon starts would hold the container's namespace")
	}
	s.eventually("the namespace is let go", func() bool { return openNamespaces(t) == before })
	if code, said := s.call("DEL", "c1", "CNI_NETNS=/gone"); code != 0 || said != "" {
		t.Errorf("DEL without the namespace: %d %s", code, said)
	}
	want2 := []string{`attach pods/c1/eth0 {"netns":"/proc/self/ns/net","endpoints":[{"network":"","ifName":"eth0"}]}`, "detach pods/c1/eth0 {}"}
	if got := s.asked(); !slices.Equal(got, want2) {
		t.Errorf("the daemon was asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want2, "\n"))
	}
}

func TestSixteenAtATime(t *testing.T) {
	s := newSite(t)
	before := openNamespaces(t)
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			for i := range 4 {
				container := fmt.Sprintf("c%d-%d", worker, i)
				for _, command := range []string{"ADD", "DEL"} {
					if code, said := s.call(command, container); code != 0 {
						t.Errorf("%s %s: %s", command, container, said)
					}
				}
			}
		})
	}
	all.Wait()
	if left := s.daemon.attached; len(left) > 0 || len(s.asked()) != 128 {
		t.Errorf("%d requests, and %d attachments are left; want 128 and none", len(s.asked()), len(left))
	}
	s.eventually("all namespaces are let go", func() bool { return openNamespaces(t) == before })
}

func TestGCOfANodeWithTenThousandContainers(t *testing.T) {
	s := newSite(t)
	cmd, stdout := s.command("GC", "")
	cmd.Stdin = strings.NewReader(gcOfTenThousand())
	if err := cmd.Run(); err != nil || stdout.Len() > 0 {
		t.Fatalf("%v: %s", err, stdout)
	}
	if asked := s.asked(); len(asked) != 1 || strings.Count(asked[0], `"Container":`) != 10_000 {
		t.Errorf("the daemon was asked %d times, with %d containers; want 10000 at once", len(asked), strings.Count(strings.Join(asked, ""), `"Container":`))
	}
}

// flatnetd is stopped in the middle of an ADD, and another one started: the runtime sees a successful ADD that took a little longer.
func TestARuntimeDoesNotNoticeARestart(t *testing.T) {
	s := newSite(t)
	first := s.daemon
	begun, resume := make(chan bool), make(chan bool)
	first.during = func(string) { close(begun); <-resume }
	cmd, stdout := s.command("ADD", "c1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-begun
	first.refusal = model.Problem{Code: model.CodeStopping, Reason: "flatnetd is stopping"}
	stopped := make(chan bool)
	go func() { s.stop(); close(stopped) }()
	s.eventually("the socket is closed", func() bool { _, err := os.Stat(s.socket); return err != nil })
	close(resume)
	<-stopped
	s.daemon = newFake()
	s.serve()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if len(s.daemon.attached) != 1 || len(first.attached) != 0 {
		t.Errorf("the first daemon attached %d, the second %d; want 0 and 1", len(first.attached), len(s.daemon.attached))
	}
	if slices.ContainsFunc(first.asked, func(a string) bool { return strings.HasPrefix(a, "detach") }) {
		t.Error("the first daemon took back what the second is to make")
	}
}

// TestMain is, where a test starts this binary anew with a socket, a daemon in a process of its own: it says that it was asked, and never
// answers.
func TestMain(m *testing.M) {
	socket := os.Getenv("CNI_TEST_SOCKET")
	if socket == "" {
		os.Exit(m.Run())
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d := newFake()
	d.during = func(string) { fmt.Println("asked"); select {} }
	Serve(context.Background(), d, l, slog.New(slog.DiscardHandler))
}

func TestADaemonThatIsKilledOverARequest(t *testing.T) {
	s := newSite(t)
	s.stop()
	helper := exec.Command(os.Args[0])
	helper.Env = append(os.Environ(), "CNI_TEST_SOCKET="+s.socket)
	says, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	killed := make(chan bool)
	go func() {
		defer close(killed)
		io.ReadFull(says, make([]byte, len("asked")))
		helper.Process.Kill()
		helper.Wait()
	}()
	if code, said := s.call("ADD", "c1"); code != 11 || !strings.Contains(said, "connection refused") {
		t.Errorf("got %d, want 11, as nobody is there any more: %s", code, said)
	}
	<-killed
}

// The runtime lost patience and killed the plugin: nobody will use what the ADD makes, and its DEL comes to an end, too.
func TestAPluginThatIsKilledOverAnADD(t *testing.T) {
	s := newSite(t)
	begun, resume := make(chan bool), make(chan bool)
	var first atomic.Bool
	s.daemon.during = func(string) {
		if first.CompareAndSwap(false, true) {
			close(begun)
			<-resume
		}
	}
	cmd, _ := s.command("ADD", "c1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-begun
	cmd.Process.Kill()
	cmd.Wait()
	del := make(chan uint, 1)
	go func() { code, _ := s.call("DEL", "c1"); del <- code }()
	other, said := s.call("ADD", "c2")
	if other != 0 {
		t.Errorf("another container waits for the first: %s", said)
	}
	if slices.ContainsFunc(s.asked(), func(a string) bool { return strings.HasPrefix(a, "detach pods/c1") }) {
		t.Error("the DEL went ahead of the ADD")
	}
	close(resume)
	if code := <-del; code != 0 {
		t.Errorf("DEL: %d", code)
	}
	s.eventually("nothing of c1 is left", func() bool {
		s.daemon.mu.Lock()
		defer s.daemon.mu.Unlock()
		return len(s.daemon.attached) == 1
	})
}

func TestABugIsTheFailureOfOneRequest(t *testing.T) {
	s := newSite(t)
	var once sync.Once
	s.daemon.during = func(string) { once.Do(func() { panic("of the test") }) }
	if code, said := s.call("ADD", "c1"); code != 999 || !strings.Contains(said, "FN3008") {
		t.Errorf("got %d %s", code, said)
	}
	if code, said := s.call("ADD", "c1"); code != 0 {
		t.Errorf("the next request: %s", said)
	}
	s.stop()
	if !strings.Contains(s.log.String(), "of the test") {
		t.Errorf("the log does not tell of it:\n%s", &s.log)
	}
}

func TestOnlyRootAttaches(t *testing.T) {
	s := newSite(t)
	for path, mode := range map[string]os.FileMode{s.socket: 0o666, filepath.Dir(s.socket): 0o755, filepath.Dir(filepath.Dir(s.socket)): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	cmd, stdout := s.command("ADD", "c1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err == nil || !strings.Contains(stdout.String(), `"code":4001`) {
		t.Errorf("got %v %s, want code 4001", err, stdout)
	}
	if got := s.asked(); len(got) > 0 {
		t.Errorf("the daemon was asked %q", got)
	}
}

// Who does not speak as the plugin does gets no answer, and leaves no descriptor.
func TestStrangersAreLetGo(t *testing.T) {
	s := newSite(t)
	before := openNamespaces(t)
	frame, err := attach.Request{Command: "ADD", Container: "c1", IfName: "eth0", Config: []byte(`{}`)}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	fd := int(ns.Fd())
	for name, send := range map[string]struct {
		bytes []byte
		fds   []int
	}{
		"two descriptors":  {frame, []int{fd, fd}},
		"many descriptors": {frame, slices.Repeat([]int{fd}, 200)},
		"HTTP":             {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), []int{fd}},
		"half a request":   {frame[:len(frame)-1], []int{fd}},
		"half a header":    {frame[:3], []int{fd}},
		"nothing":          {nil, nil},
		"damaged fields":   {slices.Concat(frame[:attach.HeaderSize], bytes.Repeat([]byte{0xff}, len(frame)-attach.HeaderSize)), []int{fd}},
	} {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if len(send.bytes) > 0 {
			if _, _, err := c.WriteMsgUnix(send.bytes, unix.UnixRights(send.fds...), nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		c.CloseWrite()
		c.SetReadDeadline(time.Now().Add(rig.Patience))
		if got, err := io.ReadAll(c); len(got) > 0 || os.IsTimeout(err) {
			t.Errorf("%s: got %q, %v; want to be let go", name, got, err)
		}
		c.Close()
	}
	s.eventually("all descriptors are closed", func() bool { return openNamespaces(t) == before+1 })
	if got := s.asked(); len(got) > 0 {
		t.Errorf("the daemon was asked %q", got)
	}
}

// Where no daemon is, the plugin says of what is no configuration for it what a daemon says.
func TestThePluginSaysTheSameAsTheDaemon(t *testing.T) {
	s := newSite(t)
	said := func(stdin string) string {
		cmd, stdout := s.command("ADD", "c1")
		cmd.Stdin = strings.NewReader(stdin)
		if err := cmd.Run(); err == nil {
			t.Errorf("%q is taken", stdin)
		}
		return stdout.String()
	}
	inputs := []string{``, `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"flatnet","socket":"/run/x/attach.sock"}]}`}
	var daemons []string
	for _, stdin := range inputs {
		daemons = append(daemons, said(stdin))
	}
	s.stop()
	for i, stdin := range inputs {
		if got := said(stdin); !sameJSON(got, daemons[i]) {
			t.Errorf("with %q the plugin says\n%s\nthe daemon\n%s", stdin, got, daemons[i])
		}
	}
}

func sameJSON(a, b string) bool {
	var x, y failure
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && x == y
}
