package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sync/errgroup"

	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// pluginsDir is where Debian's package containernetworking-plugins puts them.
const pluginsDir = "/usr/lib/cni"

// firstPort is the host port of the container 0 of a chain that publishes.
const firstPort = 10000

// chain attaches containers by CNI plugins, through libcni as the runtimes do, in a host namespace of its own.
type chain struct {
	label   string // of the tables
	prefix  string // of namespaces and directories
	list    *libcni.NetworkConfigList
	cni     *libcni.CNIConfig
	publish bool // one port of each container
	daemon  *daemon
	there   int
}

// newChain makes the host namespace, if there is none yet, and the namespaces of the spare containers.
func newChain(label, prefix string, publish bool, plugins ...map[string]any) (*chain, error) {
	conf, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": labNetwork, "plugins": plugins})
	if err != nil {
		return nil, err
	}
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		return nil, err
	}
	c := &chain{label: label, prefix: prefix, list: list, publish: publish}
	c.cni = libcni.NewCNIConfigWithCacheDir([]string{pluginsDir, oursDir}, filepath.Join("/run", prefix, "cache"), newStopwatch())
	if err := netns.Create(c.host()); err != nil {
		return nil, err
	}
	for i := range cniSpare {
		if err := netns.Create(c.netns(firstFree + i)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *chain) host() string       { return "/run/netns/host-" + c.prefix }
func (c *chain) netns(i int) string { return "/run/netns/" + c.prefix + "-" + labName(i) }
func (c *chain) name() string       { return c.label }

func (c *chain) pids() []int {
	if c.daemon == nil {
		return nil
	}
	return []int{c.daemon.pid}
}

func (c *chain) populate(ctx context.Context, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for ; c.there < n; c.there++ {
		i := c.there
		g.Go(func() error {
			if err := netns.Create(c.netns(i)); err != nil {
				return err
			}
			return within(c.host(), func() error { return c.add(ctx, i) })
		})
	}
	return g.Wait()
}

// attach and detach are called on a thread in the host's namespace, which what they start inherits.
func (c *chain) attach(ctx context.Context, i int) error { return c.add(ctx, firstFree+i) }

func (c *chain) detach(ctx context.Context, i int) error {
	return c.cni.DelNetworkList(ctx, c.list, c.container(firstFree+i))
}

func (c *chain) add(ctx context.Context, i int) error {
	_, err := c.cni.AddNetworkList(ctx, c.list, c.container(i))
	return err
}

func (c *chain) container(i int) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: fmt.Sprintf("%s-%d", c.prefix, i), NetNS: c.netns(i), IfName: "eth0"}
	if c.publish {
		rt.CapabilityArgs = map[string]any{
			"portMappings": []map[string]any{{"hostPort": firstPort + i, "containerPort": 80, "protocol": "tcp"}},
		}
	}
	return rt
}

// bridgePlugin is the plugin with the least to do: it does not masquerade either, as under flannel.
func bridgePlugin(prefix string) map[string]any {
	return map[string]any{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join("/run", prefix, "ipam"),
			"ranges": [][]map[string]any{{{"subnet": lab4}}}, "routes": []map[string]any{{"dst": "0.0.0.0/0"}},
		},
	}
}

func portmapPlugin() map[string]any {
	return map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}}
}

// ourPlugin is flatnet's, with the socket of a daemon.
func ourPlugin(d *daemon) map[string]any {
	return map[string]any{
		"type": "flatnet", "network": labNetwork, "socket": filepath.Join("/run", d.label, "run", "attach.sock"),
		"capabilities": map[string]any{"portMappings": true},
	}
}

// newOurChain is a chain of flatnet's plugin with a daemon that has the lab as its only network.
func newOurChain(ctx context.Context, b *bench, label, prefix string, publish bool) (*chain, error) {
	d, err := startDaemon(ctx, b, prefix)
	if err != nil {
		return nil, err
	}
	err = d.createLab(ctx, lab4)
	var c *chain
	if err == nil {
		c, err = newChain(label, prefix, publish, ourPlugin(d))
	}
	if err != nil {
		d.stop()
		return nil, err
	}
	c.daemon = d
	return c, nil
}

// stopwatch runs plugins as libcni does by itself, and adds how long that took to the sum in the context.
type stopwatch struct{ invoke.DefaultExec }

// inPlugins is the key of a context's sum of the time in plugins, a *time.Duration.
type inPlugins struct{}

func newStopwatch() *stopwatch {
	return &stopwatch{invoke.DefaultExec{RawExec: &invoke.RawExec{}, PluginDecoder: version.PluginDecoder{}}}
}

func (s *stopwatch) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	begin := time.Now()
	out, err := s.DefaultExec.ExecPlugin(ctx, path, stdin, environ)
	if sum, ok := ctx.Value(inPlugins{}).(*time.Duration); ok {
		*sum += time.Since(begin)
	}
	return out, err
}
