package attach

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// daemon is what answers in these tests: one function for each connection, in order; the last for all that come later.
func daemon(t *testing.T, socket string, each ...func(*net.UnixConn)) *net.UnixListener {
	t.Helper()
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
			each[min(i, len(each)-1)](c)
			c.Close()
		}
	}()
	return l
}

// read reads a request, and what came beside it.
func read(c *net.UnixConn) (Request, []int) {
	header, control := make([]byte, HeaderSize), make([]byte, 64)
	_, n, _, _, err := c.ReadMsgUnix(header, control)
	if err != nil {
		return Request{}, nil
	}
	var fds []int
	if messages, err := syscall.ParseSocketControlMessage(control[:n]); err == nil {
		for _, m := range messages {
			some, _ := syscall.ParseUnixRights(&m)
			fds = append(fds, some...)
		}
	}
	size, _ := ParseHeader(header)
	body := make([]byte, size)
	io.ReadFull(c, body)
	r, _ := ParseRequest(body)
	return r, fds
}

func replying(r Reply) func(*net.UnixConn) {
	return func(c *net.UnixConn) {
		_, fds := read(c)
		for _, fd := range fds {
			syscall.Close(fd)
		}
		frame, _ := r.Append(nil)
		c.Write(frame)
	}
}

func dying(c *net.UnixConn) {
	_, fds := read(c)
	for _, fd := range fds {
		syscall.Close(fd)
	}
}

func socketIn(t *testing.T) string { return filepath.Join(t.TempDir(), "attach.sock") }

var patient = Patience{Start: 20 * time.Second, Answer: 20 * time.Second}

func TestTheNamespaceTravelsWithTheRequest(t *testing.T) {
	socket := socketIn(t)
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var got Request
	var same bool
	done := make(chan bool)
	daemon(t, socket, func(c *net.UnixConn) {
		defer close(done)
		r, fds := read(c)
		got = r
		if len(fds) == 1 {
			theirs := os.NewFile(uintptr(fds[0]), "namespace")
			a, err1 := theirs.Stat()
			b, err2 := ns.Stat()
			same = err1 == nil && err2 == nil && os.SameFile(a, b)
			theirs.Close()
		}
		frame, _ := Reply{Exit: 7, Stdout: []byte("words")}.Append(nil)
		c.Write(frame)
	})
	reply, err := Call(socket, sample, int(ns.Fd()), patient)
	if err != nil || reply.Exit != 7 || string(reply.Stdout) != "words" {
		t.Fatalf("got %+v, %v; want exit 7 and words", reply, err)
	}
	<-done
	if got.Command != "ADD" || got.Container != "c1" || !bytes.Equal(got.Config, sample.Config) {
		t.Errorf("the daemon read %+v", got)
	}
	if !same {
		t.Error("the daemon got no descriptor, several, or one of another namespace")
	}
}

func TestRequestsAndRepliesOfAnySize(t *testing.T) {
	socket := socketIn(t)
	daemon(t, socket, func(c *net.UnixConn) {
		r, _ := read(c)
		frame, _ := Reply{Stdout: r.Config}.Append(nil)
		c.Write(frame)
	})
	for _, size := range []int{0, 1, 64 << 10, 1<<20 + 3, MaxFrame - 100} {
		config := bytes.Repeat([]byte("x"), size)
		reply, err := Call(socket, Request{Config: config}, -1, patient)
		if err != nil || !bytes.Equal(reply.Stdout, config) {
			t.Errorf("%d bytes: got %d back, %v", size, len(reply.Stdout), err)
		}
	}
}

func TestARestartIsNotNoticed(t *testing.T) {
	socket := socketIn(t)
	answer := make(chan error, 1)
	go func() { _, err := Call(socket, sample, -1, patient); answer <- err }()
	time.Sleep(30 * time.Millisecond) // nobody is there yet
	var l *net.UnixListener
	died := make(chan bool)
	up := make(chan bool)
	l = daemon(t, socket, func(c *net.UnixConn) { // takes the request, and dies
		<-up
		read(c)
		l.Close()
		close(died)
	})
	close(up)
	<-died
	daemon(t, socket, replying(Reply{}))
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

func TestOneThatDiesOverEachRequestIsNotAskedForEver(t *testing.T) {
	socket := socketIn(t)
	var asked atomic.Int32
	daemon(t, socket, func(c *net.UnixConn) { asked.Add(1); read(c) })
	_, err := Call(socket, sample, -1, patient)
	if n := asked.Load(); !errors.Is(err, ErrAway) || n != 2 {
		t.Errorf("got %v after %d requests, want %v after 2", err, n, ErrAway)
	}
}

func TestNobodyAnswers(t *testing.T) {
	socket := socketIn(t)
	short := Patience{Start: 30 * time.Millisecond, Answer: 30 * time.Millisecond}
	check := func(what, says string) {
		t.Helper()
		if _, err := Call(socket, sample, -1, short); !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q and to be told to try again", what, err, says)
		}
	}
	check("no socket", "no such file")
	release := make(chan bool)
	l := daemon(t, socket, func(c *net.UnixConn) { read(c); <-release })
	check("a daemon that hangs", "i/o timeout")
	close(release)
	l.SetUnlinkOnClose(false)
	l.Close()
	check("a socket that a dead daemon left", "connection refused")
}

func TestAnAnswerThatIsNoneIsNotTriedAgain(t *testing.T) {
	socket := socketIn(t)
	var asked atomic.Int32
	daemon(t, socket, func(c *net.UnixConn) { asked.Add(1); read(c); io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") })
	if _, err := Call(socket, sample, -1, patient); !errors.Is(err, ErrNotOurs) || errors.Is(err, ErrAway) || asked.Load() != 1 {
		t.Errorf("got %v after %d requests, want %v after one", err, asked.Load(), ErrNotOurs)
	}
}

// Whatever becomes of a call, it leaves no descriptor open.
func TestCallsLeaveNothingOpen(t *testing.T) {
	socket := socketIn(t)
	daemon(t, socket, replying(Reply{}), dying, dying, func(c *net.UnixConn) { io.WriteString(c, "what") })
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	call := func() { Call(socket, sample, 0, Patience{Start: 10 * time.Millisecond, Answer: time.Second}) }
	call()
	before := open()
	for range 20 {
		call()
		Call(socket+".none", sample, 0, Patience{})
	}
	for deadline := time.Now().Add(20 * time.Second); open() > before && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// the other end of the last connection is open until the daemon of this test sees that it ended
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}
