package agent

import (
	"context"

	"github.com/flatnet/flatnet/internal/kernel"
)

// inventory is what the kernel lists, by namespace.
type inventory struct {
	links      map[string][]kernel.LinkInfo
	routes     map[string][]kernel.RouteInfo
	neighbours map[string][]kernel.NeighbourInfo
}

func (h *fakeHost) ListLinks(_ context.Context, netns string) ([]kernel.LinkInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inventory.links[netns], nil
}

func (h *fakeHost) ListRoutes(_ context.Context, netns string) ([]kernel.RouteInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inventory.routes[netns], nil
}

func (h *fakeHost) ListNeighbours(_ context.Context, netns string) ([]kernel.NeighbourInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inventory.neighbours[netns], nil
}
