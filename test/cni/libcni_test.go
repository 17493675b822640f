package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const pluginDir = "/opt/cni/bin"

// client is libcni as a container runtime has it, but that it starts its plugins on a host.
type client struct {
	*libcni.CNIConfig
	n    *node
	list *libcni.NetworkConfigList
}

func (n *node) libcni(conflist string) *client {
	n.s.Helper()
	list, err := libcni.ConfListFromBytes([]byte(conflist))
	n.s.must(err)
	cache := filepath.Join(n.s.dir, "cache-"+n.Name)
	return &client{libcni.NewCNIConfigWithCacheDir([]string{pluginDir}, cache, &onHost{n: n}), n, list}
}

// onHost starts plugins on a host.
type onHost struct {
	version.PluginDecoder
	n *node
}

func (h *onHost) FindInPath(plugin string, paths []string) (string, error) {
	return filepath.Join(paths[0], plugin), nil
}

func (h *onHost) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	var out, diagnosis bytes.Buffer
	cmd := h.n.Command(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, bytes.NewReader(stdin), &out, &diagnosis
	err := h.n.Machine.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		return out.Bytes(), nil
	}
	var told types.Error
	if json.Unmarshal(out.Bytes(), &told) == nil && told.Code != 0 {
		return nil, &told
	}
	return nil, fmt.Errorf("%s: %w: %s%s", filepath.Base(path), err, &out, &diagnosis)
}

// container is a network namespace on a host, as a runtime makes it before it asks for its network.
type container struct {
	n      *node
	rt     libcni.RuntimeConf
	server *exec.Cmd // once it serves
}

// container makes one. Capabilities are what a runtime tells beside: portMappings and so on.
func (n *node) container(id string, capabilities object) *container {
	n.s.Helper()
	n.sh("ip netns add %s", id)
	return &container{n: n, rt: libcni.RuntimeConf{ContainerID: id, NetNS: "/run/netns/" + id, IfName: "eth0", CapabilityArgs: capabilities}}
}

// sh carries out a shell's lines in the container's network.
func (c *container) sh(format string, args ...any) string {
	c.n.s.Helper()
	return c.n.sh("ip netns exec %s bash -ec %s", c.rt.ContainerID, quote([]string{fmt.Sprintf(format, args...)}))
}

// serve greets on a port, until the container is removed.
func (c *container) serve(port int) {
	c.n.s.Helper()
	c.server = c.n.start("/run/serve.log", "ip", "netns", "exec", c.rt.ContainerID, "serve", fmt.Sprint(port))
	c.n.s.eventually("the server listens", func() error {
		if c.sh("ss -Hltn sport = :%d", port) == "" {
			return errors.New(c.n.read("/run/serve.log"))
		}
		return nil
	})
}

// hears wants the container to be greeted by a server as who it should be.
func (c *container) hears(server, as string) {
	c.n.s.Helper()
	c.n.s.want(c.rt.ContainerID+" asks "+server, strings.TrimSpace(c.sh("fetch http://%s", server)), fmt.Sprintf("hello %s, you asked %s", as, server))
}

// remove ends the container's process and removes the namespace, as a runtime does after DEL.
func (c *container) remove() {
	c.n.s.Helper()
	if c.server != nil {
		_ = c.server.Process.Kill()
		_ = c.server.Wait()
	}
	c.n.sh("ip netns del %s", c.rt.ContainerID)
}

// add is ADD, which must succeed.
func (r *client) add(c *container) *types100.Result {
	r.n.s.Helper()
	result, err := r.AddNetworkList(context.Background(), r.list, &c.rt)
	r.n.s.must(err)
	full, err := types100.NewResultFromResult(result)
	r.n.s.must(err)
	return full
}

func (r *client) check(c *container) error {
	return r.CheckNetworkList(context.Background(), r.list, &c.rt)
}

func (r *client) del(c *container) error {
	return r.DelNetworkList(context.Background(), r.list, &c.rt)
}

// end is DEL, and the end of the container.
func (r *client) end(c *container) {
	r.n.s.Helper()
	r.n.s.must(r.del(c))
	c.remove()
}

// address is the first of a result.
func address(r *types100.Result) string {
	if len(r.IPs) == 0 {
		return ""
	}
	return r.IPs[0].Address.IP.String()
}

// hostLink is the result's first link that is in no sandbox.
func hostLink(r *types100.Result) string {
	for _, i := range r.Interfaces {
		if i.Sandbox == "" {
			return i.Name
		}
	}
	return ""
}
