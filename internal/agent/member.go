package agent

import (
	"context"
	"errors"
	"net/http"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/etcdserver"
	"github.com/flatnet/flatnet/internal/agent/membership"
	"github.com/flatnet/flatnet/internal/agent/socket"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// clusterDir is the directory in the state directory that holds this host's place in a cluster.
const clusterDir = "cluster"

// newPlace is this host's place in a cluster; nil when nothing is kept of one.
func (a *Agent) newPlace() *membership.Membership {
	if a.config.ClusterDir == "" || a.config.Elsewhere != nil {
		return nil
	}
	return membership.New(membership.Deps{
		Folder: join.Folder(a.config.ClusterDir), Version: a.config.Version, Node: a.deps.Host.Node, Check: a.checkNetwork,
		Enter: func(c store.Cluster, self string, describe func(model.Node) (model.Member, error)) {
			a.enter(c, self, describe)
		}, Exit: a.exit, Tell: func(typ, object, text string) { a.event(typ, object, text) }, Log: a.deps.Log, Now: a.deps.Now,
	})
}

// checkNetwork says what keeps a network of a cluster from being on this host.
func (a *Agent) checkNetwork(node model.Node, n model.Network) model.Problems {
	a.mu.RLock()
	v := a.state.snapshot()
	a.mu.RUnlock()
	v.Node = node
	return model.Validate(v, n)
}

// hasPlace refuses what is about a cluster where none can be.
func (a *Agent) hasPlace() (*membership.Membership, error) {
	if a.config.Elsewhere != nil {
		return nil, model.Problem{Code: model.CodeNoCluster, Reason: "this flatnetd is a node of another system's cluster, and keeps no place in one of flatnet's own",
			Fix: "flatnet net inspect NETWORK shows that cluster's nodes; without --flannel-etcd flatnetd can found or join one of its own"}
	}
	if a.place == nil {
		return nil, model.Problem{Code: model.CodeNoCluster, Reason: "this flatnetd keeps no place in a cluster", Fix: "start flatnetd with --state-dir DIR: it keeps its place there"}
	}
	return a.place, nil
}

// leaveCluster is the first part of an uninstall: etcd and the folder go, whether or not the cluster hears of it.
func (a *Agent) leaveCluster(ctx context.Context) error {
	if a.config.Elsewhere != nil {
		return a.exit(ctx, true)
	}
	if a.place == nil {
		return nil
	}
	_, err := a.place.Leave(ctx, false, true)
	var p model.Problem
	if errors.As(err, &p) && p.Code == model.CodeNoCluster {
		return nil
	}
	return err
}

// removeCluster ends what an uninstall that was killed has left of a cluster.
func removeCluster(dir string) error {
	if dir == "" {
		return nil
	}
	f := join.Folder(dir)
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	return errors.Join(etcdserver.Stop(ctx, membership.EtcdLock(f)), f.RemoveAll())
}

func (a *Agent) clusterRoutes(handle handle) {
	at := func(pattern string, answer func(*membership.Membership, *http.Request) (any, error), parameters ...string) {
		handle(pattern, func(r *http.Request) (any, error) {
			place, err := a.hasPlace()
			if err != nil {
				return nil, err
			}
			return answer(place, r)
		}, parameters...)
	}
	at("GET /v1/cluster", func(p *membership.Membership, r *http.Request) (any, error) { return p.Status(r.Context()) })
	at("POST /v1/cluster/init", func(p *membership.Membership, r *http.Request) (any, error) {
		var i api.Init
		if err := socket.Body(r, &i); err != nil {
			return nil, err
		}
		return p.Init(r.Context(), i, isSet(r, dryRun), isSet(r, force))
	}, dryRun, force)
	at("POST /v1/cluster/join", func(p *membership.Membership, r *http.Request) (any, error) {
		var j api.Join
		if err := socket.Body(r, &j); err != nil {
			return nil, err
		}
		joined, err := p.Join(r.Context(), j, isSet(r, dryRun), isSet(r, force))
		if err == nil && !isSet(r, dryRun) {
			joined.Ways = a.tryWays(r.Context(), joined.Servers)
		}
		return joined, err
	}, dryRun, force)
	at("POST /v1/cluster/leave", func(p *membership.Membership, r *http.Request) (any, error) {
		return p.Leave(r.Context(), isSet(r, dryRun), isSet(r, force))
	}, dryRun, force)
	at("GET /v1/hosts", func(p *membership.Membership, r *http.Request) (any, error) { return a.hosts(r.Context(), p) })
	at("DELETE /v1/hosts/{name}", func(p *membership.Membership, r *http.Request) (any, error) {
		return p.RemoveHost(r.Context(), r.PathValue("name"), isSet(r, force))
	}, force)
	at("GET /v1/tokens", func(p *membership.Membership, r *http.Request) (any, error) { return p.Tokens(r.Context()) })
	at("POST /v1/tokens", func(p *membership.Membership, r *http.Request) (any, error) {
		var s api.TokenSpec
		if err := socket.Body(r, &s); err != nil {
			return nil, err
		}
		return p.CreateToken(r.Context(), s)
	})
	at("DELETE /v1/tokens/{name}", func(p *membership.Membership, r *http.Request) (any, error) {
		return p.RevokeToken(r.Context(), r.PathValue("name"))
	})
}
