package prober

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const nameEnv = "FLATNET_PROBER"

// Serving reports whether this process was started as an agent.
func Serving() bool { return os.Getenv(nameEnv) != "" }

// Serve is the agent's main: it works until its stdin ends, and returns the exit status.
func Serve() int {
	a := &agent{waiting: map[uint32]chan struct{}{}, sniffers: map[string]*sniffer{}, limit: make(chan struct{}, parallel)}
	if err := a.open(); err != nil {
		fmt.Fprintln(os.Stderr, "prober", os.Getenv(nameEnv)+":", err)
		return 1
	}
	a.serve()
	return 0
}

// parallel is how many probes one agent has on the way at once.
const parallel = 200

// agent has the sockets of one namespace.
type agent struct {
	icmp  [2]*rawSocket // IPv4, IPv6
	sctp  [2]*rawSocket
	limit chan struct{}

	mu       sync.Mutex
	seen     []Seen
	waiting  map[uint32]chan struct{} // by token: closed by the answer that comes on a raw socket
	sniffers map[string]*sniffer

	out sync.Mutex // stdout
}

func (a *agent) open() error {
	if err := a.openRaw(); err != nil {
		return err
	}
	return errors.Join(a.listen(Listen{Kind: TCP, Port: Port}), a.listen(Listen{Kind: UDP, Port: Port}))
}

func (a *agent) serve() {
	a.answer(answer{}) // ready
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			a.answer(answer{Err: err.Error()})
			continue
		}
		go func() { a.answer(a.do(r)) }()
	}
}

func (a *agent) answer(ans answer) {
	line, err := json.Marshal(ans)
	if err != nil {
		line = []byte(fmt.Sprintf(`{"N":%d,"Err":%q}`, ans.N, err))
	}
	a.out.Lock()
	defer a.out.Unlock()
	_, _ = os.Stdout.Write(append(line, '\n')) // when nobody reads any more, stdin ends too
}

func (a *agent) do(r request) answer {
	ans := answer{N: r.N}
	var err error
	switch {
	case r.Probe != nil:
		ans.Results = a.probeAll(r.Probe)
	case r.Listen != nil:
		for _, l := range r.Listen {
			err = errors.Join(err, a.listen(l))
		}
	case r.Seen:
		ans.Seen = a.takeSeen()
	case r.Send != nil:
		err = sendFrames(r.Send.Link, r.Send.Frames)
	case r.Sniff != "":
		err = a.sniff(r.Sniff)
	case r.Caught != "":
		ans.Frames, err = a.caught(r.Caught)
	}
	if err != nil {
		ans.Err = err.Error()
	}
	return ans
}

func (a *agent) probeAll(probes []Probe) []Result {
	results := make([]Result, len(probes))
	var all sync.WaitGroup
	for i, p := range probes {
		a.limit <- struct{}{}
		all.Go(func() {
			results[i] = a.probe(p)
			<-a.limit
		})
	}
	all.Wait()
	return results
}

func (a *agent) probe(p Probe) Result {
	if p.Port == 0 {
		p.Port = Port
	}
	begin := time.Now()
	for wait := p.Wait; ; time.Sleep(200 * time.Millisecond) {
		err := a.probeOnce(p)
		since := time.Since(begin)
		full := (errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOBUFS)) && since < crowded
		if p.Wait = wait - since; !full && !(errors.Is(err, syscall.EHOSTUNREACH) && p.Wait > 0) {
			return result(p.Token, err)
		}
		p.Wait = max(p.Wait, time.Second)
	}
}

// crowded is how long a probe is tried again when the kernel has no place for the neighbour: all namespaces of the machine
// share one table of 1024, and the kernel says EINVAL. It is tried again, too, when nobody answered the kernel's three questions for
// the neighbour: they may be lost like any packet.
const crowded = 15 * time.Second

func (a *agent) probeOnce(p Probe) error {
	switch p.Kind {
	case TCP:
		return probeTCP(p)
	case UDP:
		return probeUDP(p)
	case ICMP:
		return a.probeRaw(p, a.icmp[familyOf(p.To)], echo(p))
	case SCTP:
		return a.probeRaw(p, a.sctp[familyOf(p.To)], sctpInit(p))
	}
	return fmt.Errorf("unknown kind %q", p.Kind)
}

func (a *agent) note(s Seen) {
	s.From, s.To = s.From.Unmap().WithZone(""), s.To.Unmap().WithZone("")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, s)
}

func (a *agent) takeSeen() []Seen {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := a.seen
	a.seen = nil
	return seen
}

// expect returns a channel that is closed when the answer to a raw probe comes, and what ends the waiting.
func (a *agent) expect(token uint32) (<-chan struct{}, func()) {
	ch := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting[token] = ch
	return ch, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, token)
	}
}

func (a *agent) answered(token uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ch, ok := a.waiting[token]; ok {
		close(ch)
		delete(a.waiting, token)
	}
}

func (a *agent) probeRaw(p Probe, s *rawSocket, packet []byte) error {
	ch, stop := a.expect(p.Token)
	defer stop()
	to := numbered(p.To)
	deadline := time.After(p.Wait)
	again := time.NewTicker(tryAgain(p.Wait))
	defer again.Stop()
	for {
		if err := s.send(packet, p.From, to); err != nil {
			return err
		}
		select {
		case <-ch:
			return nil
		case <-again.C: // a packet may be lost while its neighbour is looked for
		case <-deadline:
			return os.ErrDeadlineExceeded
		}
	}
}

// numbered gives an address its link by number: package ipv6 remembers for a minute which number a name had, and links are made anew
// meanwhile.
func numbered(a netip.Addr) netip.Addr {
	if a.Zone() == "" {
		return a
	}
	r, err := unix.NewIfreq(a.Zone())
	if err != nil {
		return a
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return a
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return a
	}
	return a.WithZone(strconv.Itoa(int(r.Uint32())))
}

// tryAgain is after what time a probe without an answer is sent again.
func tryAgain(wait time.Duration) time.Duration {
	return min(max(wait/3, 100*time.Millisecond), 3*time.Second)
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

func tokenBytes(token uint32) []byte { return binary.BigEndian.AppendUint32(nil, token) }
