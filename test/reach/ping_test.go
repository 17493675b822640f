package reach

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pinging is a ping every 10 ms.
type pinging struct {
	what    string
	cmd     *exec.Cmd
	dropped uint64 // by the machine, before it began

	mu   sync.Mutex
	text strings.Builder
}

// Write hears what ping says.
func (p *pinging) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// String is the end of what ping said.
func (p *pinging) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.text.String()
	return text[max(0, len(text)-500):]
}

// start begins pings from one actor to the addresses of another; each has been answered when it returns.
func (l *lab) start(pairs ...[2]string) []*pinging {
	l.Helper()
	var all []*pinging
	for _, pair := range pairs {
		from := l.actor(pair[0])
		for _, to := range l.targets(pair[1]) {
			p := &pinging{what: fmt.Sprintf("%s to %s", from.Name, to), cmd: exec.Command("ping", "-n", "-i", "0.01", to.String()), dropped: droppedByMachine()}
			p.cmd.Stdout, p.cmd.Stderr = p, p
			if err := from.Start(p.cmd); err != nil {
				l.Fatal(err)
			}
			l.Cleanup(func() { _ = p.cmd.Process.Kill() })
			all = append(all, p)
		}
	}
	l.goOn(all)
	return all
}

// targets are an actor's addresses, or those of a network's gateway: n1gw.
func (l *lab) targets(name string) []netip.Addr {
	if net, ok := strings.CutSuffix(name, "gw"); ok {
		return l.network(net).gateways()
	}
	return global(l.actor(name))
}

var sequence = regexp.MustCompile(`icmp_seq=(\d+) ttl`)

// answered are the numbers of the answers so far.
func (p *pinging) answered() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []int
	for _, m := range sequence.FindAllStringSubmatch(p.text.String(), -1) {
		n, _ := strconv.Atoi(m[1])
		all = append(all, n)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// goOn waits until each ping has some more answers.
func (l *lab) goOn(pings []*pinging) {
	l.Helper()
	for _, p := range pings {
		had := len(p.answered())
		for end := time.Now().Add(2 * l.patience); len(p.answered()) <= had+3; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				l.Fatalf("ping from %s: no answers in %v after %d; %s\n%s", p.what, 2*l.patience, had, p, l.dump(nil, strings.Fields(p.what)[0]))
			}
		}
	}
}

func (l *lab) end(pings []*pinging) {
	for _, p := range pings {
		_ = p.cmd.Process.Signal(syscall.SIGINT) // it may have ended
		_ = p.cmd.Wait()                         // its status tells of losses, which we count ourselves
	}
}

// lost ends pings and returns those numbers of each that were not answered, but for the very last ones.
func (l *lab) lost(pings []*pinging) map[*pinging][]int {
	l.Helper()
	l.goOn(pings)
	l.end(pings)
	all := map[*pinging][]int{}
	for _, p := range pings {
		answered := p.answered()
		for n := 1; n < answered[len(answered)-1]; n++ {
			if _, ok := slices.BinarySearch(answered, n); !ok {
				all[p] = append(all[p], n)
			}
		}
	}
	return all
}

// outage is how many packets in a row are a gap, and not only the machine's queue, which all namespaces share, being full by the traffic
// of somebody else: such losses are scattered, and tell nothing.
const outage = 20

// lostNothing ends pings, and fails unless all but the very last were answered.
func (l *lab) lostNothing(pings []*pinging) {
	l.Helper()
	for p, lost := range l.lost(pings) {
		if machine := droppedByMachine() - p.dropped; machine > 0 && !inARow(lost, outage) {
			l.Logf("ping from %s: lost %v; the machine's queue lost %d packets meanwhile", p.what, lost, machine)
			continue
		}
		l.Errorf("ping from %s: these are lost: %v", p.what, lost)
	}
}

// inARow reports whether n numbers follow each other.
func inARow(numbers []int, n int) bool {
	for i := n - 1; i < len(numbers); i++ {
		if numbers[i]-numbers[i-n+1] == n-1 {
			return true
		}
	}
	return false
}

// droppedByMachine is how many packets were lost before any namespace looked at them, as a processor's queue was full
// (net.core.netdev_max_backlog): the second column of softnet_stat.
func droppedByMachine() uint64 {
	text, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		return 0
	}
	var sum uint64
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 {
			n, _ := strconv.ParseUint(fields[1], 16, 64)
			sum += n
		}
	}
	return sum
}
