package probe

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
)

// Traffic is a ping that runs while something is changed.
type Traffic struct {
	pinger
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex // guards what is below
	sent     int        // or refused by the kernel, for example as there was no route: that is lost, too
	answered map[int]bool
}

// StartTraffic asks an address at an interval, from the calling thread's network namespace, until Stop.
func StartTraffic(to netip.Addr, every time.Duration) (*Traffic, error) {
	p, err := newPinger(to)
	if err != nil {
		return nil, err
	}
	t := &Traffic{pinger: p, stop: make(chan struct{}), answered: map[int]bool{}}
	t.done.Go(t.listen)
	t.done.Go(func() { t.send(every) })
	return t, nil
}

// send asks until it is stopped, and gives the last answers their time.
func (t *Traffic) send(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for seq := 0; ; seq++ {
		select {
		case <-t.stop:
			_ = t.socket.SetReadDeadline(time.Now().Add(patience))
			return
		case <-ticker.C:
		}
		_ = t.ask(seq)
		t.mu.Lock()
		t.sent++
		t.mu.Unlock()
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

// complete reports whether it was stopped and nothing is to be waited for.
func (t *Traffic) complete() bool {
	select {
	case <-t.stop:
	default:
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.answered) == t.sent
}

// Stop ends it and tells how many were sent, and how many of them were not answered within two seconds of its end.
func (t *Traffic) Stop() (sent, lost int) {
	close(t.stop)
	t.done.Wait()
	t.socket.Close()
	return t.sent, t.sent - len(t.answered)
}
