package agent

import (
	"runtime"
	"sync"
)

// processors are those that Go code runs on: one, as what the daemon does for a request is one thing after the other, but for what
// computes for long (docs/decisions/0020). While a goroutine always has something to do on the only one, what others wait for is looked
// for each 10 ms (runtime.sysmon). The zero processors are as they are.
type processors struct {
	mu   sync.Mutex
	ours bool
	long int // computations
}

// keepOne is for the start of a program whose user has not said how many there are to be.
func (p *processors) keepOne() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ours = true
	runtime.GOMAXPROCS(1)
}

// another is for who computes for long, until done.
func (p *processors) another() (done func()) {
	p.count(1)
	return func() { p.count(-1) }
}

func (p *processors) count(by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := min(p.long, 1)
	p.long += by
	if now := min(p.long, 1); p.ours && now != was {
		runtime.GOMAXPROCS(1 + now)
	}
}
