package kernel

import (
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// fullLook is for how long looks at the host may be short. It is less than the time between two passes that nothing gave
// reason to, so that those trust nothing.
const fullLook = 4 * time.Minute

// told is what the kernel last told of each link of the host, as far as a bridge's message about a port does not say it.
// Watch keeps it, as each change of it is told: all that one Apply did at once, and until then Apply has what it changed forgotten.
type told struct {
	mu    sync.Mutex
	links map[int]toldLink // by index; nil while nobody watches
	full  time.Time        // when everything was last read
}

type toldLink struct {
	name, alias string
	kind        dataplane.LinkKind
	marked      bool
}

func toldOf(l *link) toldLink { return toldLink{l.Name, l.alias, l.Kind, l.marked} }

// begin takes all links there are; with nil it ends.
func (t *told) begin(links map[int]toldLink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.links = links
}

// take takes what became of links; of those that are gone it is zero.
func (t *told) take(news map[int]toldLink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for index, l := range news {
		if l == (toldLink{}) {
			delete(t.links, index)
		} else if t.links != nil {
			t.links[index] = l
		}
	}
}

// forget is for a link that we are changing: it is asked for until it is told.
func (t *told) forget(index int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.links, index)
}

// serves reports whether a look may rely on it.
func (t *told) serves() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.links != nil && time.Since(t.full) < fullLook
}

func (t *told) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.links)
}

// readInFull puts down that everything was read.
func (t *told) readInFull() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.full = time.Now()
}

// complete adds to a port what the bridge's message left out; ok is false when it was told of another link or of none.
func (t *told) complete(l *link) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, ok := t.links[l.index]
	if !ok || was.name != l.Name {
		return false
	}
	l.Kind, l.alias = was.kind, was.alias
	l.normalise()
	return true
}

// each yields the links by index; it must not call told.
func (t *told) each(yield func(index int, l toldLink)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for index, l := range t.links {
		yield(index, l)
	}
}
