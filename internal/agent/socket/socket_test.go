package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// place is a directory whose name fits a socket's address.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fns")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "s.sock")
}

func listen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTheSocketIsForItsGroupOnly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root")
	}
	path := place(t)
	l, err := Listen(path, "12345")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 12345 {
		t.Errorf("got mode %v group %d", info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := Listen(path, "no-such-group-here"); err == nil || !strings.Contains(err.Error(), "groupadd") {
		t.Errorf("unknown group: %v", err)
	}
}

func TestAStaleSocketIsReplacedALiveOneRefused(t *testing.T) {
	path := place(t)
	l := listen(t, path)
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "another flatnetd answers") {
		t.Errorf("a second one: %v", err)
	}
	l.now.Close() // as kill -9: the file stays
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	listen(t, path).Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("over a file: %v", err)
	}
}

// Somebody removes the socket's file, or its directory: it is put back, and connections that were made go on.
func TestARemovedSocketIsPutBack(t *testing.T) {
	path := place(t)
	l := listen(t, path)
	var got sync.WaitGroup
	got.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	})
	echo := func(c net.Conn) {
		t.Helper()
		answer := make([]byte, 1)
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(answer); err != nil {
			t.Error(err)
		}
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		echo(c)
		return c
	}
	first := dial()
	if l.Missing() {
		t.Error("missing while it is there")
	}
	for _, remove := range []func() error{
		func() error { return os.Remove(path) },
		func() error { return os.RemoveAll(filepath.Dir(path)) },
		func() error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".old") },
	} {
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		if !l.Missing() {
			t.Error("not missing when it is gone")
		}
		if err := l.Restore(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode || l.Missing() {
			t.Errorf("put back: %v, mode %v", err, info.Mode())
		}
		dial().Close()
		echo(first)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("precious"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := l.Restore(); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("over a file: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil || l.Missing() || l.Restore() != nil {
		t.Errorf("closed, it took away another's file or came back: %v", err)
	}
	got.Wait()
	first.Close()
}

// serve answers at a path until the test ends.
func serve(t *testing.T, s Server) *http.Client {
	t.Helper()
	path := place(t)
	l := listen(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s.Grace = time.Second
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	go func() { done <- s.Serve(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return client
}

func problem(t *testing.T, r *http.Response) api.Error {
	t.Helper()
	defer r.Body.Close()
	var e api.Error
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil || len(e.Problems) == 0 {
		t.Fatalf("status %d, %v: no problem", r.StatusCode, err)
	}
	return e
}

func TestPanicsAreAnsweredAndTold(t *testing.T) {
	told := make(chan string, 1)
	client := serve(t, Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh no") }),
		Access: Access{EveryoneIs: true}, Panicked: func(what string) { told <- what }})
	for range 2 {
		r, err := client.Get("http://x/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		if e := problem(t, r); r.StatusCode != 500 || e.Problems[0].Code != model.CodeInternal || !strings.Contains(e.Problems[0].Reason, "oh no") {
			t.Errorf("got %d %+v", r.StatusCode, e)
		}
		if what := <-told; !strings.Contains(what, "GET /v1/status") {
			t.Errorf("told %q", what)
		}
	}
}

func TestLargeBodiesAreRefused(t *testing.T) {
	client := serve(t, Server{Access: Access{EveryoneIs: true}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v []string
		if err := Body(r, &v); err != nil {
			Fail(w, err)
			return
		}
		Answer(w, len(v))
	})})
	post := func(body io.Reader) *http.Response {
		t.Helper()
		r, err := client.Post("http://x/", "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := post(strings.NewReader(`["a", "b"]`)); r.StatusCode != 200 {
		t.Errorf("a small one: %d", r.StatusCode)
	}
	r := post(bytes.NewReader(bytes.Repeat([]byte(" "), MaxBody+1)))
	if e := problem(t, r); r.StatusCode != http.StatusRequestEntityTooLarge || e.Problems[0].Code != model.CodeTooLarge {
		t.Errorf("got %d %+v", r.StatusCode, e)
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root")
	}
	for _, c := range []struct {
		name   string
		access Access
		uid    uint32
		gid    uint32
		method string
		ok     bool
	}{
		{"root changes", Access{}, 0, 0, "POST", true},
		{"nobody looks", Access{}, 65534, 65534, "GET", false},
		{"a member looks", Access{Group: 4242}, 65534, 4242, "GET", true},
		{"a member does not change", Access{Group: 4242}, 65534, 4242, "POST", false},
		{"a member changes when allowed", Access{Group: 4242, GroupChanges: true}, 65534, 4242, "DELETE", true},
		{"others do not look", Access{Group: 4242}, 65534, 65534, "GET", false},
		{"a member by another group looks", Access{Group: 4343}, 65534, 65534, "GET", true},
	} {
		r, err := http.NewRequest(c.method, "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		p := peer{}
		p.cred.Uid, p.cred.Gid, p.groups = c.uid, c.gid, []uint32{100, 4343}
		err = c.access.check(r.WithContext(context.WithValue(context.Background(), peerKey{}, p)))
		var refused model.Problem
		if ok := err == nil; ok != c.ok || !ok && (!errors.As(err, &refused) || refused.Code != model.CodeNotPermitted) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	if err := (Access{}).check(&http.Request{}); err == nil {
		t.Error("a request from nowhere was let in")
	}
}

func TestThePeerIsWhoConnected(t *testing.T) {
	got := make(chan peer, 1)
	client := serve(t, Server{Access: Access{EveryoneIs: true}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Context().Value(peerKey{}).(peer)
	})})
	if _, err := client.Get("http://x/"); err != nil {
		t.Fatal(err)
	}
	if p := <-got; p.err != nil || int(p.cred.Pid) != os.Getpid() || int(p.cred.Uid) != os.Getuid() {
		t.Errorf("got %+v", p)
	}
}

// Groups count as they were at connect: many, and left since.
func TestThePeersGroupsAreThoseOfConnect(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root")
	}
	path := place(t)
	l := listen(t, path)
	defer l.Close()
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 64, 65, 3000} {
		groups := make([]uint32, n)
		for i := range groups {
			groups[i] = uint32(5000 + i)
		}
		done := make(chan net.Conn)
		go func() { done <- connectAs(t, path, 65534, groups) }()
		theirs, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ours := <-done
		p := peerOf(theirs)
		if p.err != nil || p.cred.Uid != 65534 || !slices.Equal(p.groups, groups) {
			t.Errorf("%d groups: got uid %d, %d groups, %v", n, p.cred.Uid, len(p.groups), p.err)
		}
		if n > 0 && (!p.member(5000+n-1) || p.member(5000+n)) {
			t.Errorf("%d groups: it is not a member of its last, or of one more", n)
		}
		ours.Close()
		theirs.Close()
	}
}

// connectAs connects with a uid and groups, then lets go of the groups. Only its own thread changes, and ends.
func connectAs(t *testing.T, path string, uid uintptr, groups []uint32) net.Conn {
	runtime.LockOSThread()
	setGroups := func(n int) error {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(n), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); errno != 0 {
			return errno
		}
		return nil
	}
	setUID := func(uid uintptr) error { // the effective one only
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0)); errno != 0 {
			return errno
		}
		return nil
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
	}
	if err := errors.Join(setGroups(len(groups)), setUID(uid), syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}), setUID(0), setGroups(0)); err != nil {
		t.Error(err)
	}
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Error(err)
	}
	return c
}

type shape struct {
	Name  string            `json:"name"`
	Parts []part            `json:"parts"`
	Any   map[string]string `json:"any"`
	On    *bool             `json:"on"`
}

type part struct {
	Size int `json:"size"`
}

func TestDecodeIsStrict(t *testing.T) {
	for text, want := range map[string]string{
		`{"name": "a", "parts": [{"size": 1}], "any": {"x": "y"}, "on": true}`: "",
		`null`:                            "",
		``:                                "FN1001: the request is empty; it should be a JSON value",
		`{`:                               "FN1001: not JSON: it ends too early",
		`{"name": x}`:                     "FN1001: not JSON at byte 10: invalid character 'x' looking for beginning of value",
		`{} []`:                           "FN1001: something follows the JSON value at byte 2",
		`{"Name": "a"}`:                   `FN1002: Name: there is no field "Name" here; did you mean "name"?`,
		`{"parts": [{}, {"sise": 1}]}`:    `FN1002: parts[1].sise: there is no field "sise" here; did you mean "size"?`,
		`{"name": "a", "name": "b"}`:      `FN1001: name: field "name" is given twice`,
		`{"any": {"k": "1", "k": "2"}}`:   `FN1001: any.k: field "k" is given twice`,
		`{"parts": [{"size": "big"}]}`:    `FN1001: parts.size: want a number, not string`,
		`[]`:                              `FN1001: want an object, not array`,
		`{"x": {"y": [1, {"z": 1}]}}`:     `FN1002: x: there is no field "x" here`,
		`{"on": "yes"}`:                   `FN1001: on: want true or false, not string`,
		"{\"name\": \"\x01\"}":            "FN1001: not JSON at byte 11: invalid character '\\x01' in string literal",
		strings.Repeat("[", 200_000) + "": "FN1001: not JSON at byte 10001: invalid character '[' exceeded max depth",
	} {
		var v shape
		err := Decode([]byte(text), &v)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.60q:\n got %s\nwant %s", text, got, want)
		}
	}
}

// FuzzDecode: what is accepted has no field that is unknown, and nothing panics.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name": "a", "parts": [{"size": 1}], "any": {"x": "y"}}`))
	f.Add([]byte(`{"Name": "a", "parts": [{"sise": 1}]} x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v shape
		if Decode(data, &v) != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(new(shape)); err != nil {
			t.Errorf("%q was accepted: %v", data, err)
		}
	})
}

func TestExplain(t *testing.T) {
	wrapped := errors.Join(errors.New("x"), model.Problems{{Code: model.CodeMTU, Reason: "a"}, {Code: model.CodeInUse, Reason: "b"}})
	for _, c := range []struct {
		err    error
		exit   int
		status int
		n      int
	}{
		{wrapped, api.ExitUsage, 400, 2},
		{model.Problem{Code: model.CodeInUse}, api.ExitConflict, 409, 1},
		{model.Problem{Code: model.CodeNotFound}, api.ExitNegative, 404, 1},
		{model.Problem{Code: model.CodeNotPermitted}, api.ExitNotPermitted, 403, 1},
		{model.Problem{Code: model.CodeKernelRefused}, api.ExitNegative, 500, 1},
		{model.Problem{Code: model.CodeStopping}, api.ExitNegative, 503, 1},
		{io.ErrUnexpectedEOF, api.ExitNegative, 500, 1},
	} {
		if e := Explain(c.err); e.Exit != c.exit || status(e) != c.status || len(e.Problems) != c.n {
			t.Errorf("%v: got %+v status %d", c.err, e, status(e))
		}
	}
}

// A few megabytes of JSON, nested deep under long names, must not become gigabytes of paths.
func TestDeepBodiesAreRefusedCheaply(t *testing.T) {
	key := strings.Repeat("k", 380)
	body := strings.Repeat(`{"`+key+`":`, 9000) + "1" + strings.Repeat("}", 9000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var spec api.WorkloadSpec
	err := Decode([]byte(body), &spec)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "nested deeper than 32 levels") {
		t.Errorf("error %.200v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("it took %d MB", used>>20)
	}
}

// Neither must long names over many values, nor may an answer hold every unknown field.
func TestLongNamesAreRefusedCheaply(t *testing.T) {
	fields := strings.TrimSuffix(strings.Repeat(`"abc":1,`, 20_000), ",")
	for name, body := range map[string]string{
		"object":  `{"` + strings.Repeat("k", 200_000) + `":{` + fields + `}}`,
		"list":    `{"` + strings.Repeat("k", 200_000) + `":[` + strings.TrimSuffix(strings.Repeat("1,", 20_000), ",") + `]}`,
		"unknown": `{` + fields + `}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var spec api.WorkloadSpec
		err := Decode([]byte(body), &spec)
		runtime.ReadMemStats(&after)
		if err == nil || len(err.Error()) > 64<<10 {
			t.Errorf("%s: error %.200v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("%s: it took %d MB", name, used>>20)
		}
	}
}
