package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// fake is a daemon that gives addresses in order and notes what it is asked.
type fake struct {
	mu       sync.Mutex
	attached map[model.Attachment]api.Workload
	asked    []string
	next     int
	refusal  error           // of the next request
	during   func(op string) // called at the begin of each; may wait
	see      func(*os.File)  // is shown the namespaces
}

func newFake() *fake { return &fake{attached: map[model.Attachment]api.Workload{}} }

func (f *fake) begin(op string, what any, ns *os.File) error {
	if f.during != nil {
		f.during(op)
	}
	if f.see != nil && ns != nil {
		f.see(ns)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	text, _ := json.Marshal(what)
	f.asked = append(f.asked, op+" "+string(text))
	err := f.refusal
	f.refusal = nil
	return err
}

func (f *fake) Attach(ctx context.Context, id model.Attachment, spec api.WorkloadSpec, ns *os.File) (api.Workload, bool, error) {
	if err := f.begin("attach "+id.Config+"/"+id.Container+"/"+id.IfName, spec, ns); err != nil {
		return api.Workload{}, false, err
	}
	if err := ctx.Err(); err != nil {
		return api.Workload{}, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if w, there := f.attached[id]; there {
		return w, false, nil
	}
	w := api.Workload{Name: spec.Name, Endpoints: []api.Endpoint{{IfName: "other0"}}} // of another ADD
	for i, e := range spec.Endpoints {
		w.Endpoints = append(w.Endpoints, f.endpoint(i, e, id))
	}
	f.attached[id] = w
	return w, true, nil
}

func (f *fake) endpoint(i int, e api.EndpointSpec, id model.Attachment) api.Endpoint {
	f.next++
	n := f.next
	end := api.Endpoint{Network: e.Network, IfName: e.IfName, HostLink: fmt.Sprintf("fv-%d", n), MAC: e.MAC, HostMAC: fmt.Sprintf("fe:00:00:00:00:%02x", n), MTU: 1450,
		IPs: []string{fmt.Sprintf("10.244.%d.%d/24", i, n+1), fmt.Sprintf("fd00:%d::%d/64", i, n+1)}, Gateways: []string{fmt.Sprintf("10.244.%d.1", i), fmt.Sprintf("fd00:%d::1", i)},
		DNS: []string{fmt.Sprintf("10.244.%d.1", i)}, Attachment: &api.Attachment{Config: id.Config, Container: id.Container, IfName: id.IfName}}
	if end.IfName == "" {
		end.IfName = fmt.Sprintf("eth%d", i)
	}
	if end.MAC == "" {
		end.MAC = fmt.Sprintf("02:00:00:00:00:%02x", n)
	}
	if len(e.IPs) > 0 {
		end.IPs = nil
		for _, ip := range e.IPs {
			end.IPs = append(end.IPs, ip+"/24")
		}
	}
	if i == 0 {
		end.Routes = []api.EndpointRoute{{Dest: "0.0.0.0/0", Via: "10.244.0.1"}, {Dest: "::/0", Via: "fd00:0::1"}}
	}
	return end
}

func (f *fake) Detach(_ context.Context, id model.Attachment) error {
	if err := f.begin("detach "+id.Config+"/"+id.Container+"/"+id.IfName, struct{}{}, nil); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, id)
	return nil
}

func (f *fake) Check(_ context.Context, id model.Attachment, ns *os.File) (api.Workload, error) {
	if err := f.begin("check "+id.Config+"/"+id.Container+"/"+id.IfName, struct{}{}, ns); err != nil {
		return api.Workload{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w, there := f.attached[id]
	if !there {
		return w, model.Problem{Code: model.CodeNotFound, Reason: fmt.Sprintf("container %s has no attachment %s", id.Container, id.IfName), Fix: "attach it anew: DEL, then ADD"}
	}
	return w, nil
}

func (f *fake) Collect(_ context.Context, config string, valid []model.Attachment) error {
	return f.begin("collect "+config, valid, nil)
}

func (f *fake) Serves(_ context.Context, networks []string) error {
	return f.begin("serves", networks, nil)
}

func newServer(d Daemon, log *slog.Logger) *server {
	return &server{daemon: d, log: log, ending: make(chan struct{}), queues: queues{busy: map[string]chan struct{}{}}}
}
