package nfnl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	var w Writer
	w.String(1, "flatnet")
	w.Nest(2, func() {
		w.Uint32(1, 7)
		w.Bytes(2, []byte{1, 2, 3, 4, 5})
	})
	w.Bytes(3, nil)
	if got := Get(w.Written(), 1).String(); got != "flatnet" {
		t.Errorf("string: %q", got)
	}
	nest := Get(w.Written(), 2)
	if !nest.Nested || Get(nest.Value, 1).Uint32() != 7 || !bytes.Equal(Get(nest.Value, 2).Value, []byte{1, 2, 3, 4, 5}) {
		t.Errorf("nest: %+v", nest)
	}
	if a := Get(w.Written(), 4); a.Type != 0 || a.Uint32() != 0 || a.String() != "" {
		t.Errorf("absent: %+v", a)
	}
}

func TestBatchIsNumbered(t *testing.T) {
	b := NewBatch(9)
	b.Message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, unix.NFPROTO_INET)
	b.String(unix.NFTA_TABLE_NAME, "a")
	b.Message(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_BRIDGE)
	b.String(unix.NFTA_TABLE_NAME, "bc")
	var seqs []uint32
	var last Message
	raw := b.finish(100)
	for m := range Messages(raw) {
		seqs = append(seqs, m.Seq)
		if m.Seq == 102 {
			last = m
		}
	}
	if len(seqs) != 4 || seqs[0] != 100 || seqs[3] != 103 {
		t.Errorf("numbers %v", seqs)
	}
	if last.Flags&unix.NLM_F_ACK == 0 || last.Family != unix.NFPROTO_BRIDGE || Get(last.Attrs, unix.NFTA_TABLE_NAME).String() != "bc" {
		t.Errorf("last message %+v", last)
	}
}

func TestRefusal(t *testing.T) {
	body := binary.NativeEndian.AppendUint32(nil, uint32(0xffffffff&-int64(unix.ENOENT)))
	m := Message{Type: unix.NLMSG_ERROR, control: true, Attrs: body}
	if err := m.refusal(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
	if err := (Message{control: true, Attrs: make([]byte, 4)}).refusal(); err != nil {
		t.Errorf("an acknowledgement is %v", err)
	}
}

// TestReceiveEndsWithItsContext, also when the context has a deadline as well, and leaves the socket usable.
func TestReceiveEndsWithItsContext(t *testing.T) {
	s, err := Dial(0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	long, stop := context.WithTimeout(context.Background(), time.Hour)
	time.AfterFunc(10*time.Millisecond, stop)
	if err := s.Receive(long, func(Message) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Get(context.Background(), unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, nil); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	b := NewBatch(1)
	b.Message(unix.NFT_MSG_NEWTABLE, 0, unix.NFPROTO_INET)
	b.Nest(1, func() { b.String(2, "x") })
	f.Add(b.finish(1))
	f.Fuzz(func(t *testing.T, data []byte) {
		for m := range Messages(data) {
			_ = m.refusal()
			for a := range Attrs(m.Attrs) {
				_, _ = a.Uint32(), a.String()
				for range Attrs(a.Value) {
				}
			}
		}
	})
}
