package attach

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

var sample = Request{Command: "ADD", Container: "c1", Netns: "/run/netns/c1", IfName: "eth0", Args: "IgnoreUnknown=1", Config: []byte(`{"type":"flatnet"}`)}

// A plugin and a daemon of different releases meet while one of them is upgraded, so these bytes are for ever.
func TestFramesStayAsTheyAre(t *testing.T) {
	request, err := sample.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := Reply{Exit: 1, Stdout: []byte("{}\n")}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	const wantRequest = `"fna\x01\x00\x00\x00U\x01\x00\x00\x00\x03ADD\x02\x00\x00\x00\x02c1\x03\x00\x00\x00\r/run/netns/c1\x04\x00\x00\x00\x04eth0` +
		`\x05\x00\x00\x00\x0fIgnoreUnknown=1\x06\x00\x00\x00\x12{\"type\":\"flatnet\"}"`
	const wantReply = `"fna\x01\x00\x00\x00\x0e\x01\x00\x00\x00\x01\x01\x02\x00\x00\x00\x03{}\n"`
	if got := fmt.Sprintf("%q", request); got != wantRequest {
		t.Errorf("request\ngot  %s\nwant %s", got, wantRequest)
	}
	if got := fmt.Sprintf("%q", reply); got != wantReply {
		t.Errorf("reply\ngot  %s\nwant %s", got, wantReply)
	}
}

func TestFramesOfALaterReleaseAreRead(t *testing.T) {
	frame, _ := sample.Append(nil)
	later := append(frame[HeaderSize:len(frame):len(frame)], 99, 0, 0, 0, 3, 'n', 'e', 'w')
	if got, err := ParseRequest(later); err != nil || !reflect.DeepEqual(got, sample) {
		t.Errorf("with a field of tag 99: got %+v, %v", got, err)
	}
}

func TestFramesThatCannotBe(t *testing.T) {
	frame, _ := sample.Append(nil)
	for name, header := range map[string]string{
		"HTTP":      "GET / HTTP/1.1\r\n",
		"short":     "fna\x01\x00",
		"version":   "fna\x02\x00\x00\x00\x00",
		"too large": "fna\x01\x01\x00\x00\x01",
	} {
		if n, err := ParseHeader([]byte(header)); err == nil {
			t.Errorf("%s: header %q is taken for one of %d bytes", name, header, n)
		}
	}
	for cut := HeaderSize + 1; cut < len(frame); cut++ {
		got, err := ParseRequest(frame[HeaderSize:cut])
		if err == nil && got.Config != nil {
			t.Errorf("a request cut off after %d bytes of %d is read with its configuration", cut, len(frame))
		}
	}
	if _, err := ParseReply(nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("a reply without an exit status: got %v, want %v", err, ErrDamaged)
	}
	if _, err := (Request{Config: make([]byte, MaxFrame)}).Append(nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a configuration that no frame has room for: got %v, want %v", err, ErrTooLarge)
	}
}

// libcni puts the list of all containers into the configuration of a GC twice.
func TestTheListOfTenThousandContainersFits(t *testing.T) {
	var list strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&list, `{"containerID":"%064x","ifname":"eth0"},`, i)
	}
	config := fmt.Sprintf(`{"cni.dev/valid-attachments":[%s],"cni.dev/attachments":[%[1]s]}`, strings.TrimSuffix(list.String(), ","))
	frame, err := Request{Command: "GC", Config: []byte(config)}.Append(nil)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(config), err)
	}
	if n, err := ParseHeader(frame); err != nil || n != len(frame)-HeaderSize {
		t.Errorf("its header says %d bytes, %v; want %d", n, err, len(frame)-HeaderSize)
	}
}

// FuzzFrames: no bytes make the reading panic, and what can be read is written to what reads the same.
func FuzzFrames(f *testing.F) {
	request, _ := sample.Append(nil)
	reply, _ := Reply{Exit: 3, Stdout: []byte("{}")}.Append(nil)
	f.Add(request)
	f.Add(reply)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseHeader(b)
		if err != nil || n > len(b)-HeaderSize {
			return
		}
		body := b[HeaderSize : HeaderSize+n]
		if r, err := ParseRequest(body); err == nil {
			again, err := r.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := ParseRequest(again[HeaderSize:]); err != nil || back.Command != r.Command || back.Container != r.Container || back.Netns != r.Netns ||
				back.IfName != r.IfName || back.Args != r.Args || !bytes.Equal(back.Config, r.Config) {
				t.Errorf("%q is read as %+v, and what that writes as %+v, %v", b, r, back, err)
			}
		}
		if r, err := ParseReply(body); err == nil {
			again, err := r.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := ParseReply(again[HeaderSize:]); err != nil || back.Exit != r.Exit || !bytes.Equal(back.Stdout, r.Stdout) {
				t.Errorf("%q is read as %+v, and what that writes as %+v, %v", b, r, back, err)
			}
		}
	})
}
