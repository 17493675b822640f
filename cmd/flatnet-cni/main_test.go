package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/flatnet/flatnet/api/attach"
)

// mostBytes is how large the plugin may become.
const mostBytes = 3 << 20

// allowed are the packages that the plugin is made of, beside those inside of the standard library: each costs every start.
var allowed = []string{"errors", "io", "io/fs", "iter", "cmp", "math/bits", "os", "path", "runtime", "slices", "strconv", "sync", "sync/atomic", "syscall", "time",
	"unicode/utf8", "unsafe", "github.com/flatnet/flatnet/api/attach", "github.com/flatnet/flatnet/cmd/flatnet-cni"}

func TestThePluginIsSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if !strings.HasPrefix(p, "internal/") && !slices.Contains(allowed, p) {
			t.Errorf("it is made of %s, too: is that worth a longer start of every container?", p)
		}
	}
	path := filepath.Join(t.TempDir(), "flatnet-cni")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > mostBytes {
		t.Errorf("it has %d bytes, more than %d", info.Size(), mostBytes)
	}
}

// waiting asks with so much patience for the answer, and none for the start.
func waiting(answer time.Duration) call {
	return func(socket string, r attach.Request, netns int) (attach.Reply, error) {
		return attach.Call(socket, r, netns, attach.Patience{Answer: answer})
	}
}

// Without a daemon the plugin has its own words.
func TestWithoutADaemon(t *testing.T) {
	const conf = `{"cniVersion":"0.4.0","name":"pods","type":"flatnet","socket":"/nowhere/attach.sock"}`
	for _, c := range []struct{ env, stdin, want string }{
		{"CNI_COMMAND=VERSION", `{"cniVersion":"0.4.0"}`, `exit 0 {"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`},
		{"CNI_COMMAND=VERSION", ``, `exit 0 {"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`},
		{"CNI_COMMAND=ADD CNI_NETNS=/proc/self/ns/net", conf, `exit 1 {"cniVersion":"0.4.0","code":11,"msg":"FN3001: flatnetd does not answer at /nowhere/attach.sock",` +
			`"details":"connect: no such file or directory; start it (systemctl start flatnetd), or name the socket that it listens on with the key \"socket\"; more: flatnet help FN3001"}`},
		{"CNI_COMMAND=DEL CNI_NETNS=/gone", conf, `exit 0`}, // its directory is gone: flatnet was uninstalled, or the machine booted
		{"CNI_COMMAND=DEL CNI_NETNS=/gone", `{"socket":"/tmp/attach.none"}`, `exit 1 {"cniVersion":"1.1.0","code":11,"msg":"FN3001: flatnetd does not answer at /tmp/attach.none",` +
			`"details":"connect: no such file or directory; start it (systemctl start flatnetd), or name the socket that it listens on with the key \"socket\"; more: flatnet help FN3001"}`},
		{"CNI_COMMAND=STATUS FLATNET_ATTACH_SOCKET=/else", `{"cniVersion":"1.1.0"}`, `exit 1 {"cniVersion":"1.1.0","code":50,"msg":"FN3001: flatnetd does not answer at /else",` +
			`"details":"connect: no such file or directory; start it (systemctl start flatnetd), or name the socket that it listens on with the key \"socket\"; more: flatnet help FN3001"}`},
		{"CNI_COMMAND=ADD CNI_NETNS=/gone", conf, `exit 1 {"cniVersion":"0.4.0","code":4,"msg":"FN4103: CNI_NETNS=/gone cannot be opened","details":"no such file or directory; more: flatnet help FN4103"}`},
		{"CNI_COMMAND=CHECK CNI_NETNS=/gone", conf, `exit 1 {"cniVersion":"0.4.0","code":4,"msg":"FN4103: CNI_NETNS=/gone cannot be opened","details":"no such file or directory; more: flatnet help FN4103"}`},
		{"CNI_COMMAND=GC", `no JSON`, `exit 1 {"cniVersion":"1.1.0","code":6,"msg":"FN4104: standard input is not one whole JSON object; it should be the network configuration","details":"more: flatnet help FN4104"}`},
		{"CNI_COMMAND=ADD CNI_NETNS=/gone", `{"cniVersion":"1.0.0","socket":"/nowhere/a`, `exit 1 {"cniVersion":"1.0.0","code":6,"msg":"FN4104: standard input is not one whole JSON object; it should be the network configuration","details":"more: flatnet help FN4104"}`},
		{"CNI_COMMAND=STATUS", ``, `exit 1 {"cniVersion":"1.1.0","code":6,"msg":"FN4104: standard input is empty; it should be the network configuration","details":"more: flatnet help FN4104"}`},
		{"CNI_COMMAND=ADD", `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"flatnet"}]}`, `exit 1 {"cniVersion":"1.0.0","code":2,"msg":"FN4102: plugins: this is a list of plugins (a .conflist), and a plugin is given one item of it",` +
			`"details":"runtimes take the item out; by hand: cnitool, or the item with the list's cniVersion and name beside its keys; example: {\"cniVersion\": \"1.0.0\", \"name\": \"pods\", \"type\": \"flatnet\"}; more: flatnet help FN4102"}`},
		{"CNI_COMMAND=DEL", ``, `exit 0`}, // there is no journal of the daemon at its directory
		{"", "", "exit 0"},
	} {
		env := map[string]string{"FLATNET_ATTACH_SOCKET": "/nowhere/attach.sock.none"}
		for pair := range strings.FieldsSeq(c.env) {
			k, v, _ := strings.Cut(pair, "=")
			env[k] = v
		}
		var stdout bytes.Buffer
		exit := run(func(k string) string { return env[k] }, strings.NewReader(c.stdin), &stdout, io.Discard, waiting(time.Second))
		got := strings.TrimSpace("exit " + string('0'+rune(exit)) + " " + stdout.String())
		if got != c.want {
			t.Errorf("%s with %q:\ngot  %s\nwant %s", c.env, c.stdin, got, c.want)
		}
		if stdout.Len() > 0 && !json.Valid(stdout.Bytes()) {
			t.Errorf("%s: not JSON: %s", c.env, &stdout)
		}
	}
}

// What stands at CNI_NETNS is the daemon's to judge: a pipe that nobody writes to keeps no runtime waiting.
func TestANamespaceThatIsAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "netns")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		env := map[string]string{"CNI_COMMAND": "ADD", "CNI_NETNS": pipe, attach.SocketVariable: "/nowhere/attach.sock"}
		run(func(k string) string { return env[k] }, strings.NewReader("{}"), io.Discard, io.Discard, waiting(0))
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it waits for somebody to write into the pipe")
	}
}

func TestStandardInputThatCannotBeRead(t *testing.T) {
	var stdout bytes.Buffer
	exit := run(func(k string) string { return map[string]string{"CNI_COMMAND": "ADD"}[k] }, broken{}, &stdout, io.Discard, waiting(0))
	if want := `{"cniVersion":"1.1.0","code":5,"msg":"read the network configuration: it hurts"}` + "\n"; exit != 1 || stdout.String() != want {
		t.Errorf("got exit %d %s, want 1 %s", exit, &stdout, want)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("it hurts") }

// FuzzTopLevel: what encoding/json reads, the plugin's own reader reads alike, and nothing makes it panic.
func FuzzTopLevel(f *testing.F) {
	for _, s := range []string{`{"socket":"/a"}`, `{"a":{"socket":"no"},"socket":"/b"}`, ` { "a" : [1, {"b":"}"}] , "socket" : "\u002fc\n\"" } `, `{"socket":7}`, `{}`, `[`, `{"socket":"\ud83d\ude00"}`, `{"a":"\\","socket":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := topLevel(data, "socket")
		var twice int
		var all map[string]json.RawMessage
		var want string
		if !utf8.Valid(data) || json.Unmarshal(data, &all) != nil || all == nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(data))
		for depth := 0; ; {
			tok, err := d.Token()
			if err != nil {
				break
			}
			if delim, ok := tok.(json.Delim); ok && (delim == '{' || delim == '[') {
				depth++
			} else if ok {
				depth--
			}
			if s, ok := tok.(string); ok && s == "socket" && depth == 1 {
				twice++
			}
		}
		_ = json.Unmarshal(all["socket"], &want)
		if bytes.Contains(bytes.ToLower(data), []byte(`\ud`)) || twice > 1 { // half a character, which is replaced; a key that is there twice, of which the last counts
			return
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", data, got, want)
		}
	})
}

// FuzzMembers: nothing that encoding/json reads as an object is taken for none, and its keys are those of its first level.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{"a":{"plugins":[]}, "plugins" : [1,{"b":"}"}] } `, `{}`, ` { } x`, `{"a":1`, `{"a":1}}`, `{"a"}`, `[{}]`, `null`, ``, `{"\u0061":"\ud83d\ude00","a":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, ok := members(data)
		var all map[string]json.RawMessage
		if json.Unmarshal(data, &all) != nil || all == nil {
			return
		}
		if !ok {
			t.Errorf("%q is taken for no object", data)
		}
		for name := range all {
			if plain, _ := json.Marshal(name); string(plain) == `"`+name+`"` && !bytes.ContainsRune(data, '\\') && utf8.Valid(data) && !slices.Contains(keys, name) {
				t.Errorf("%q has the key %q beside %q", data, name, keys)
			}
		}
	})
}

// FuzzQuote: what is written as JSON reads the same.
func FuzzQuote(f *testing.F) {
	f.Add("a\"\\\x00\n\u2028\xff😀")
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		if err := json.Unmarshal([]byte(quote(s)), &back); err != nil || back != strings.ToValidUTF8(s, "\uFFFD") && utf8.ValidString(s) {
			t.Errorf("%q is written as %s, which reads %q, %v", s, quote(s), back, err)
		}
	})
}
