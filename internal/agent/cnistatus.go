package agent

import (
	"context"
	"net/http"
	"path/filepath"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/socket"
	"github.com/flatnet/flatnet/internal/model"
)

func (a *Agent) serveCNIStatus(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	networks := q["network"]
	if delete(q, "network"); len(q) > 0 {
		_, err := parameters(q.Encode(), []string{"network"})
		socket.Fail(w, err)
		return
	}
	socket.Answer(w, a.CNIStatus(r.Context(), networks))
}

// CNIStatus says whether an ADD on the networks would be served now, why not, and what stands. None named is that of containers.
func (a *Agent) CNIStatus(ctx context.Context, networks []string) api.CNIStatus {
	status := api.CNIStatus{Socket: filepath.Join(a.config.RunDir, AttachName)}
	for _, p := range asProblems(a.Serves(ctx, networks), "") {
		status.Problems = append(status.Problems, api.Problem{Code: p.Code, Path: p.Path, Reason: p.Reason, Owner: p.Owner, Fix: p.Fix, Example: p.Example})
	}
	status.Ready = len(status.Problems) == 0
	status.Network = a.networkMeant(ctx)
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, w := range a.state.view.Workloads {
		for _, e := range w.Endpoints {
			if e.Attachment != (model.Attachment{}) {
				status.Attachments++
			}
		}
	}
	return status
}

// networkMeant is the network that a configuration means that names none; empty when it means none.
func (a *Agent) networkMeant(ctx context.Context) string {
	if err := a.begin(ctx); err != nil {
		return ""
	}
	defer a.end()
	name, _ := a.networkOfContainers() // the error is among the problems, if it was asked for
	return name
}
