package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/flatnet/flatnet/api/attach"
)

// built is the plugin as make links it.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flatnet-cni")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -E main.begin", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// service is the daemon's side: what it does with a connection, each in turn, the last for all that come later.
func service(t *testing.T, each ...func(*net.UnixConn, attach.Request)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "attach.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for i := 0; ; i++ {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			header := make([]byte, attach.HeaderSize)
			if _, err := io.ReadFull(c, header); err == nil {
				size, _ := attach.ParseHeader(header)
				body := make([]byte, size)
				io.ReadFull(c, body)
				if r, err := attach.ParseRequest(body); err == nil {
					each[min(i, len(each)-1)](c, r)
				}
			}
			c.Close()
		}
	}()
	return socket
}

// answer sends a reply.
func answer(c *net.UnixConn, exit int, stdout string) {
	frame, _ := attach.Reply{Exit: exit, Stdout: []byte(stdout)}.Append(nil)
	c.Write(frame)
}

// echo replies with what it was asked.
func echo(c *net.UnixConn, r attach.Request) {
	answer(c, 3, strings.Join([]string{r.Command, r.Container, r.Netns, r.IfName, r.Args, string(r.Config)}, "|"))
}

// The story of one container, with what happens on the way; each time once with the runtime and once, mostly, without. Nobody can tell from the
// outside, but by the threads.
func TestWhateverHappensEarlyComesToTheSameEnd(t *testing.T) {
	program := built(t)
	large := `{"name":"` + strings.Repeat("x", 70<<10) + `"}`
	dies := func(*net.UnixConn, attach.Request) {}
	for _, c := range []struct {
		story  string
		daemon []func(*net.UnixConn, attach.Request)
		env    []string
		stdin  string
		want   string // "SOCKET" stands for its path
		exit   int
		late   bool // the runtime is needed
	}{
		{"all as usual", nil, []string{"CNI_COMMAND=ADD", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0", "CNI_CONTAINERID=c1", "CNI_ARGS=a=b"}, `{"a":1}`,
			`ADD|c1|/proc/self/ns/net|eth0|a=b|{"a":1}`, 3, false},
		{"DEL without a namespace", nil, []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=c1"}, `{}`, `DEL|c1||||{}`, 3, false},
		{"a variable that is there twice", nil, []string{"CNI_COMMAND=DEL", "CNI_COMMAND=ADD", "CNI_IFNAME="}, ``, `ADD|||||`, 3, false},
		{"the socket in the configuration", nil, []string{"CNI_COMMAND=GC", attach.SocketVariable + "=/nowhere"}, `{"socket":"SOCKET"}`, `GC|||||{"socket":"SOCKET"}`, 3, false},
		{"an escape", nil, []string{"CNI_COMMAND=GC", attach.SocketVariable + "=/nowhere"}, `{"a":"\n", "s\u006fcket":"SOCKET"}`, `GC|||||{"a":"\n", "s\u006fcket":"SOCKET"}`, 3, true},
		{"a large configuration", nil, []string{"CNI_COMMAND=GC"}, large, `GC|||||` + large, 3, true},
		{"VERSION", nil, []string{"CNI_COMMAND=VERSION"}, `{}`, `{"cniVersion":"1.1.0","supportedVersions":` + supported + "}\n", 0, true},
		{"no command", nil, nil, ``, ``, 0, true},
		{"a namespace that is not there", nil, []string{"CNI_COMMAND=ADD", "CNI_NETNS=/gone"}, `{}`,
			`{"cniVersion":"1.1.0","code":4,"msg":"FN4103: CNI_NETNS=/gone cannot be opened","details":"no such file or directory; more: flatnet help FN4103"}` + "\n", 1, true},
		{"a daemon that dies over it", []func(*net.UnixConn, attach.Request){dies, echo}, []string{"CNI_COMMAND=DEL"}, `{}`, `DEL|||||{}`, 3, true},
		{"a daemon that takes its time", []func(*net.UnixConn, attach.Request){func(c *net.UnixConn, r attach.Request) { time.Sleep(1300 * time.Millisecond); echo(c, r) }},
			[]string{"CNI_COMMAND=DEL"}, `{}`, `DEL|||||{}`, 3, true},
		{"a reply in two parts", []func(*net.UnixConn, attach.Request){func(c *net.UnixConn, _ attach.Request) {
			frame, _ := attach.Reply{Exit: 4, Stdout: []byte("parts")}.Append(nil)
			c.Write(frame[:9])
			time.Sleep(50 * time.Millisecond)
			c.Write(frame[9:])
		}}, []string{"CNI_COMMAND=DEL"}, `{}`, `parts`, 4, true},
		{"a large reply", []func(*net.UnixConn, attach.Request){func(c *net.UnixConn, _ attach.Request) { answer(c, 0, large+large) }}, []string{"CNI_COMMAND=ADD"}, `{}`, large + large, 0, true},
		{"another version's reply", []func(*net.UnixConn, attach.Request){func(c *net.UnixConn, _ attach.Request) {
			c.Write([]byte("fna\x09\x00\x00\x00\x00"))
		}}, []string{"CNI_COMMAND=ADD"}, `{}`,
			`{"cniVersion":"1.1.0","code":5,"msg":"FN3001: flatnetd cannot be asked at SOCKET","details":"read the reply: a frame of version 9, not 1: flatnet-cni and flatnetd are of different releases; more: flatnet help FN3001"}` + "\n", 1, true},
	} {
		t.Run(c.story, func(t *testing.T) {
			if c.daemon == nil {
				c.daemon = append(c.daemon, echo)
			}
			socket := service(t, c.daemon...)
			named := func(s string) string { return strings.ReplaceAll(s, "SOCKET", socket) }
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, program)
			cmd.Env, cmd.Stdin = append(slices.Clone(c.env), attach.SocketVariable+"="+socket), strings.NewReader(named(c.stdin))
			out, err := cmd.Output()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != c.exit || string(out) != named(c.want) {
				t.Errorf("got %v and %.300s\nwant exit status %d and %.300s", err, out, c.exit, named(c.want))
			}
			if pages := cmd.ProcessState.SysUsage().(*syscall.Rusage).Minflt; c.late != (pages > fewPages) {
				t.Errorf("it took %d page faults, though the runtime is needed: %t", pages, c.late)
			}
		})
	}
}

// fewPages are more page faults than the plugin takes without Go's runtime, and less than it takes with it.
const fewPages = 60

// The part without the runtime takes no memory from it, whatever it reads.
func TestEarlyTakesNoMemory(t *testing.T) {
	text := func(s string) *byte { return unsafe.StringData(s + "\x00") }
	list := []*byte{text("A=b"), text("CNI_COMMAND=ADD"), text("CNI_COMMANDS=x"), text("CNI_NETNS=/proc/self/ns/net"), text("CNI_ARGS=" + strings.Repeat("K=V;", 99)), nil}
	env := environment{unsafe.Pointer(unsafe.SliceData(list))}
	var b beginning
	conf := `{"cniVersion":"1.0.0","name":"pods","a":[1,{"b":"}"}],"socket":"` + filepath.Join(t.TempDir(), "none") + `"}`
	b.read = copy(b.stdin[:], conf)
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	reply, _ := attach.Reply{Exit: 3, Stdout: bytes.Repeat([]byte("word "), 99)}.Append(nil)
	wrong := slices.Clone(reply)
	wrong[3] = 200
	for _, frame := range [][]byte{wrong, reply} {
		if n := testing.AllocsPerRun(20, func() {
			r := requestOf(env.value)
			r.Config = b.config()
			if r.Command != "ADD" || needsMemory(r.Config) || b.ask(socketOf(r.Config, env.value), r) {
				t.Error("the request is not what the environment says, or somebody listens nowhere")
			}
			syscall.RawSyscall(syscall.SYS_WRITE, uintptr(pair[0]), uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)))
			if _, ok := attach.Arrived(pair[1], b.room[:]); ok != (&frame[0] == &reply[0]) {
				t.Errorf("a reply of version %d: %t", frame[3], ok)
			}
			syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(pair[1]), uintptr(unsafe.Pointer(&b.room[0])), uintptr(len(b.room)), 0, 0, 0)
		}); n > 0 {
			t.Errorf("it takes memory %v times", n)
		}
	}
}
