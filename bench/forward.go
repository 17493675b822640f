package main

import (
	"context"
	"fmt"

	"github.com/flatnet/flatnet/api"
)

// manyForwards publishes ports of one workload in one call and takes them back in another.
func manyForwards(ctx context.Context, b *bench) error {
	n, rounds := 1000, 10
	if b.quick {
		n, rounds = 50, 2
	}
	h, err := newDaemonHost(ctx, b, "forwards")
	if err != nil {
		return err
	}
	defer h.stop()
	if err := h.populate(ctx, 1); err != nil {
		return err
	}
	var specs []api.ForwardSpec
	var names []string
	for i := range n {
		// Numbers that change and are not in a row: each is an element of its own.
		specs = append(specs, api.ForwardSpec{Publish: fmt.Sprintf("%d:%d", 20000+2*i, 1000+i), Workload: labName(0)})
		names = append(names, fmt.Sprintf("tcp/%d", 20000+2*i))
	}
	var created, removed []spent
	for range rounds {
		c, err := meter(func() error { _, err := h.client.CreateForwards(ctx, specs); return err }, h.pid)
		if err != nil {
			return err
		}
		r, err := meter(func() error { _, err := h.client.DeleteForwards(ctx, names); return err }, h.pid)
		if err != nil {
			return err
		}
		created, removed = append(created, c), append(removed, r)
	}
	for _, did := range []struct {
		what string
		took []spent
	}{{"created", created}, {"removed", removed}} {
		m, least := median(did.took), best(did.took)
		fmt.Printf("%d published ports %s: %.1f ms wall (best %.1f), %.1f ms CPU (best %.1f)\n",
			n, did.what, millis(m.wall), millis(least.wall), millis(m.cpu), millis(least.cpu))
	}
	return nil
}
