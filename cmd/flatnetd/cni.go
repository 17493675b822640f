package main

import (
	"context"
	"log/slog"
	"net"

	"github.com/flatnet/flatnet/internal/agent"
	"github.com/flatnet/flatnet/internal/compat/cni"
)

// serveCNI answers the plugins of container runtimes.
func serveCNI(log *slog.Logger) func(context.Context, *agent.Agent, net.Listener) error {
	return func(ctx context.Context, a *agent.Agent, l net.Listener) error { return cni.Serve(ctx, a, l, log) }
}
