package probe

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/icmp"
)

// Traffic is a ping that runs while something is changed.
type Traffic struct {
	pinger
	stop chan struct{} // closed: send no more
	sent chan struct{} // closed: all are sent
	done sync.WaitGroup

	mu       sync.Mutex      // guards what is below
	sentAt   []time.Duration // by sequence number; also of those that the kernel refused, which are lost, too
	answered map[int]bool
}

// Result is how a Traffic went.
type Result struct {
	Sent int
	Lost []time.Duration // when each of those was sent that were not answered, from the beginning on
}

// String is the result in a few words: 2 of 113 lost (330ms, 340ms).
func (r Result) String() string {
	text := fmt.Sprintf("%d of %d lost", len(r.Lost), r.Sent)
	var when []string
	for _, at := range r.Lost {
		when = append(when, at.Round(time.Millisecond).String())
	}
	switch n := len(when); {
	case n == 0:
		return text
	case n > 4:
		return text + fmt.Sprintf(" (from %s to %s)", when[0], when[n-1])
	}
	return text + " (" + strings.Join(when, ", ") + ")"
}

// StartTraffic asks an address at an interval, from the calling thread's network namespace, until Stop.
func StartTraffic(to netip.Addr, every time.Duration) (*Traffic, error) {
	p, err := newPinger(to)
	if err != nil {
		return nil, err
	}
	t := &Traffic{pinger: p, stop: make(chan struct{}), sent: make(chan struct{}), answered: map[int]bool{}}
	t.done.Go(t.listen)
	t.done.Go(func() { t.send(every) })
	return t, nil
}

// send asks until it is stopped, and gives the last answers their time.
func (t *Traffic) send(every time.Duration) {
	began := time.Now()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for seq := 0; ; seq++ {
		select {
		case <-t.stop:
			_ = t.socket.SetReadDeadline(time.Now().Add(patience))
			close(t.sent)
			return
		case <-ticker.C:
		}
		t.mu.Lock()
		t.sentAt = append(t.sentAt, time.Since(began))
		t.mu.Unlock()
		_ = t.ask(seq)
	}
}

func (t *Traffic) listen() {
	buf := make([]byte, 1500)
	for !t.complete() {
		n, from, err := t.socket.ReadFrom(buf)
		if err != nil {
			return // the deadline that Stop sets
		}
		if echo, ok := t.reply(buf[:n]); ok && t.answers(echo, from.String()) {
			t.mu.Lock()
			t.answered[echo.Seq] = true
			t.mu.Unlock()
		}
	}
}

func (t *Traffic) answers(echo *icmp.Echo, from string) bool {
	return echo.ID == t.id && from == t.to.String()
}

// complete reports whether all are sent and answered.
func (t *Traffic) complete() bool {
	select {
	case <-t.sent:
	default:
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.answered) == len(t.sentAt)
}

// Stop ends it and tells how it went; an answer may take two seconds.
func (t *Traffic) Stop() Result {
	close(t.stop)
	t.done.Wait()
	t.socket.Close()
	r := Result{Sent: len(t.sentAt)}
	for seq, at := range t.sentAt {
		if !t.answered[seq] {
			r.Lost = append(r.Lost, at)
		}
	}
	return r
}
