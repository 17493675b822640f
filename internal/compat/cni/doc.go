// Package cni speaks CNI, the language in which container runtimes ask for networks: it reads the configuration and the variables
// that flatnet-cni was started with, asks the daemon, and puts the answer into the words of the version of CNI that was asked in
// (0.3.0 to 1.1.0). docs/reference/cni.md says what a configuration can have; a test holds it to the code.
//
// It knows no network, address or link by itself: an ADD becomes an api.WorkloadSpec, and the api.Workload that the daemon
// answers becomes a result. What the daemon refuses becomes an error with one of CNI's codes.
//
//	err := cni.Serve(ctx, agent, listener, log) // until ctx ends
package cni

import (
	"context"
	"os"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Daemon does what runtimes ask for.
type Daemon interface {
	// Attach adds the endpoints of the spec to the workload of the container, which is made with the first. Who repeats it gets the
	// same answer.
	Attach(ctx context.Context, id model.Attachment, spec api.WorkloadSpec, netns *os.File) (at api.Workload, made bool, err error)
	// Detach removes what the Attach of that id made, if anything.
	Detach(ctx context.Context, id model.Attachment) error
	// Check is an error when something is not as Attach left it.
	Check(ctx context.Context, id model.Attachment, netns *os.File) (api.Workload, error)
	// Collect removes what was attached by that configuration but for those valid.
	Collect(ctx context.Context, config string, valid []model.Attachment) error
	// Serves is an error when nobody could be attached to one of the networks now.
	Serves(ctx context.Context, networks []string) error
}

// versions are those of CNI that are spoken, the oldest first.
var versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

const newest = "1.1.0"
