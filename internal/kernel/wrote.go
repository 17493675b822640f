package kernel

import (
	"sync"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// wrote is what Watch's socket does not hear, as it comes from us: the routes of the host that we have written, for who must know which
// there are.
type wrote struct {
	mu       sync.Mutex
	watching bool
	routes   dataplane.Plan // since they were last taken
}

func (w *wrote) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watching, w.routes = true, nil
}

func (w *wrote) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watching, w.routes = false, nil
}

// route is for one that was written or deleted.
func (w *wrote) route(s dataplane.Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watching {
		w.routes = append(w.routes, s)
	}
}

func (w *wrote) take() (routes dataplane.Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	routes, w.routes = w.routes, nil
	return routes
}

// wroteRoutes notes what became of our routes by our own doing.
func (w *watcher) wroteRoutes(p dataplane.Plan) {
	for _, s := range p {
		r, isRoute := s.Object.(dataplane.Route)
		switch {
		case !isRoute:
		case s.Op == dataplane.Del:
			delete(w.routes, idOf(r))
		default:
			w.routes[idOf(r)] = r
		}
	}
}
