package fail_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flatnet/flatnet/internal/lab"
	"github.com/flatnet/flatnet/test/rig"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// pace is that of every ping.
const pace = 10 * time.Millisecond

// flow is a ping from one workload to another.
type flow struct {
	s      *site
	about  string
	socket *icmp.PacketConn
	to     net.Addr
	id     int
	end    chan struct{}
	ended  sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Time
	answered []time.Duration // after it was sent; 0: not yet
}

// flow pings from a workload to another.
func (s *site) flow(from, to string) *flow {
	s.Helper()
	f := s.flowTo(s.Workload(from), s.address(to))
	f.about = from + " → " + to
	return f
}

// answered is a flow to a workload that answers by now: its host has its block, which the others hear of a moment later.
func (s *site) answered(from, to string) *flow {
	s.Helper()
	first := s.flow(from, to)
	s.eventually(to+" answers", func() bool { return first.last() > 0 })
	first.stop()
	return s.flow(from, to)
}

// mesh pings between all workloads of the lab, in both directions.
func (s *site) mesh() []*flow {
	var all []*flow
	for _, from := range s.Workloads() {
		for _, to := range s.Workloads() {
			if from.Name != to.Name {
				all = append(all, s.flow(from.Name, to.Name))
			}
		}
	}
	return all
}

func (s *site) flowTo(from *lab.Workload, to string) *flow {
	s.Helper()
	f := &flow{s: s, about: from.Name + " → " + to, to: &net.IPAddr{IP: net.ParseIP(to)}, id: rand.IntN(1 << 16), end: make(chan struct{})}
	s.inside(from, func() (err error) {
		f.socket, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	f.ended.Go(f.ask)
	go f.listen() // ends with the socket
	s.Cleanup(func() { f.socket.Close() })
	return f
}

func (f *flow) ask() {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for seq := 0; ; seq++ {
		select {
		case <-f.end:
			return
		case <-ticker.C:
		}
		echo := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: f.id, Seq: seq & 0xffff, Data: binary.BigEndian.AppendUint64(nil, uint64(seq))}}
		b, _ := echo.Marshal(nil)
		f.mu.Lock()
		f.sent, f.answered = append(f.sent, time.Now()), append(f.answered, 0)
		f.mu.Unlock()
		_, _ = f.socket.WriteTo(b, f.to) // refused by the kernel, as there is no route: that is lost, too
	}
}

func (f *flow) listen() {
	buf := make([]byte, 1500)
	for {
		n, from, err := f.socket.ReadFrom(buf)
		if err != nil {
			return
		}
		m, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply || from.String() != f.to.String() {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == f.id && len(echo.Data) == 8 {
			f.mu.Lock()
			if seq := int(binary.BigEndian.Uint64(echo.Data)); seq < len(f.sent) && f.answered[seq] == 0 {
				f.answered[seq] = time.Since(f.sent[seq])
			}
			f.mu.Unlock()
		}
	}
}

// last is the number of the latest that was answered; 0: none.
func (f *flow) last() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for seq := len(f.answered) - 1; seq > 0; seq-- {
		if f.answered[seq] != 0 {
			return seq
		}
	}
	return 0
}

// after is how long after a time the first that was sent from then on and answered came back; 0: none yet.
func (f *flow) after(t time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	for seq, sent := range f.sent {
		if !sent.Before(t) && f.answered[seq] != 0 {
			return sent.Add(f.answered[seq]).Sub(t)
		}
	}
	return 0
}

// figures are what a flow came to.
type figures struct {
	sent, lost int
	gap        time.Duration // the longest time from one that was answered to the next such
}

func (f figures) String() string {
	return fmt.Sprintf("%d of %d pings lost, longest gap %v", f.lost, f.sent, f.gap.Round(time.Millisecond))
}

// stop ends the ping; what is on its way has its time.
func (f *flow) stop() figures {
	close(f.end)
	f.ended.Wait()
	for end := time.Now().Add(time.Second); time.Now().Before(end) && f.last() < len(f.sent)-1; {
		time.Sleep(pace)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := figures{sent: len(f.sent)}
	var before time.Time
	for seq, sent := range f.sent {
		if f.answered[seq] == 0 {
			all.lost++
			continue
		}
		if !before.IsZero() {
			all.gap = max(all.gap, sent.Sub(before))
		}
		before = sent
	}
	return all
}

// sentBy is how many pings the flows have sent.
func sentBy(flows []*flow) (sum int) {
	for _, f := range flows {
		f.mu.Lock()
		sum += len(f.sent)
		f.mu.Unlock()
	}
	return sum
}

// lossless ends flows when they have sent at least so many pings, and wants all of them answered.
func (s *site) lossless(what string, least int, flows ...*flow) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s: %d pings", what, least), func() bool { return sentBy(flows) >= least })
	var sum figures
	for _, f := range flows {
		got := f.stop()
		if got.lost > 0 {
			s.Errorf("%s: %s: %v", what, f.about, got)
		}
		sum.sent, sum.lost, sum.gap = sum.sent+got.sent, sum.lost+got.lost, max(sum.gap, got.gap)
	}
	s.Logf("%s: %v, %d flows", what, sum, len(flows))
}

// transfer is bytes on their way by TCP from one workload to another, each checked.
type transfer struct {
	s       *site
	about   string
	out, in net.Conn
	stop    chan struct{}
	done    sync.WaitGroup
	bytes   atomic.Int64
	stall   atomic.Int64 // the longest time in which nothing came, in ns
	err     error        // of the receiver
}

// transfer begins one, of about 3 MB/s.
func (s *site) transfer(from, to string) *transfer {
	s.Helper()
	x := &transfer{s: s, about: from + " → " + to, stop: make(chan struct{})}
	var l net.Listener
	s.inside(s.Workload(to), func() (err error) {
		l, err = net.Listen("tcp4", "0.0.0.0:0")
		return err
	})
	defer l.Close()
	at := netip.MustParseAddr(s.address(to))
	s.inside(s.Workload(from), func() (err error) {
		x.out, err = net.DialTimeout("tcp", netip.AddrPortFrom(at, uint16(l.Addr().(*net.TCPAddr).Port)).String(), 5*time.Second)
		return err
	})
	in, err := l.Accept()
	s.must(err)
	x.in = in
	s.Cleanup(func() { x.out.Close(); x.in.Close() })
	x.done.Go(x.send)
	x.done.Go(x.receive)
	return x
}

const chunk = 32 << 10

// stream is byte n of what is sent.
func stream(n int64) byte { return byte(n ^ n>>8 ^ n>>16) }

func (x *transfer) send() {
	defer x.out.Close()
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	buf := make([]byte, chunk)
	for n := int64(0); ; {
		select {
		case <-x.stop:
			return
		case <-ticker.C:
		}
		for i := range buf {
			buf[i] = stream(n + int64(i))
		}
		_ = x.out.SetWriteDeadline(time.Now().Add(rig.Patience))
		if _, err := x.out.Write(buf); err != nil {
			return // the receiver tells
		}
		n += chunk
	}
}

func (x *transfer) receive() {
	defer x.in.Close()
	buf := make([]byte, chunk)
	last := time.Now()
	for n := int64(0); ; {
		_ = x.in.SetReadDeadline(time.Now().Add(rig.Patience))
		got, err := x.in.Read(buf)
		now := time.Now()
		x.stall.Store(max(x.stall.Load(), int64(now.Sub(last))))
		last = now
		for _, b := range buf[:got] {
			if b != stream(n) {
				x.err = fmt.Errorf("byte %d is another", n)
				return
			}
			n++
		}
		x.bytes.Store(n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			x.err = err
			return
		}
	}
}

// whole ends the transfer and wants all to have come.
func (x *transfer) whole(what string) {
	x.s.Helper()
	close(x.stop)
	x.done.Wait()
	x.s.Logf("%s: TCP %s: %.1f MB, longest stall %v", what, x.about, float64(x.bytes.Load())/1e6, time.Duration(x.stall.Load()).Round(time.Millisecond))
	if x.err != nil || x.bytes.Load() == 0 {
		x.s.Errorf("%s: TCP %s: %v after %d bytes", what, x.about, x.err, x.bytes.Load())
	}
}
