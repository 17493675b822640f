package agent

import (
	"sync"
	"time"

	"github.com/flatnet/flatnet/api"
)

// keptEvents is how many events are remembered for those who ask later.
const keptEvents = 1024

// events is a ring of what happened, and those who wait for more. A reader that falls behind by more than the ring loses
// the oldest; nobody can hold up a writer.
type events struct {
	mu   sync.Mutex
	ring []api.Event
	next uint64        // number of the next event; ring[n % keptEvents] holds number n
	more chan struct{} // closed and replaced at each event
}

func newEvents() *events {
	return &events{ring: make([]api.Event, keptEvents), more: make(chan struct{})}
}

// add appends an event and wakes the readers.
func (e *events) add(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ring[e.next%keptEvents] = ev
	e.next++
	close(e.more)
	e.more = make(chan struct{})
}

// after returns the events from number n on, the number to ask for next, and a channel that is closed when there are more.
func (e *events) after(n uint64) (list []api.Event, next uint64, more <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next > keptEvents && n < e.next-keptEvents {
		n = e.next - keptEvents
	}
	for ; n < e.next; n++ {
		list = append(list, e.ring[n%keptEvents])
	}
	return list, e.next, e.more
}

// since is the number of the first remembered event that is not older than t.
func (e *events) since(t time.Time) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := uint64(0)
	if e.next > keptEvents {
		n = e.next - keptEvents
	}
	for ; n < e.next && e.ring[n%keptEvents].Time.Before(t); n++ {
	}
	return n
}

// last is the number of the next event.
func (e *events) last() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.next
}
