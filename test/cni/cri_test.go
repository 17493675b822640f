package cni_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	containerdConfig = "/run/containerd/config.toml"
	containerdLog    = "/run/containerd/log"
)

// Without restrict_oom_score_adj only who has CAP_SYS_RESOURCE can start pods. The image is on this machine; state is on the host's own tmpfs, as
// an overlay can't be made on the lab's.
const containerdSettings = `version = 2
root = "/run/containerd/root"
state = "/run/containerd/state"
[grpc]
  address = "` + containerdSocket + `"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + imageName + `"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
`

// startContainerd starts it for the first time, with the image.
func (n *node) startContainerd() {
	n.s.Helper()
	n.write(containerdConfig, containerdSettings)
	n.runContainerd()
	image := filepath.Join(n.s.dir, imageFile)
	n.sh("ctr -n k8s.io image import %[1]s; ctr image import %[1]s", image)
}

// runContainerd starts it, and waits until it can make pods but for what CNI needs.
func (n *node) runContainerd() {
	n.s.Helper()
	n.containerd = n.start(containerdLog, "containerd", "-c", containerdConfig)
	n.s.eventually("containerd answers", func() error {
		_, err := call(n, cri.RuntimeServiceClient.Version, &cri.VersionRequest{})
		return err
	})
}

// killContainerd is kill -9. Pods go on: each has a process between it and containerd.
func (n *node) killContainerd() {
	n.s.Helper()
	n.s.must(n.containerd.Process.Kill())
	_ = n.containerd.Wait() // killed
}

// call calls one method of the CRI, on a connection of its own: containerd is killed now and then.
func call[Q, A any](n *node, method func(cri.RuntimeServiceClient, context.Context, *Q, ...grpc.CallOption) (*A, error), question *Q) (*A, error) {
	conn, err := grpc.NewClient("unix://"+n.Path(containerdSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return method(cri.NewRuntimeServiceClient(conn), ctx, question)
}

// networkReady says whether containerd thinks that it can attach pods, and why not.
func (n *node) networkReady() error {
	status, err := call(n, cri.RuntimeServiceClient.Status, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	for _, c := range status.Status.Conditions {
		if c.Type == cri.NetworkReady && !c.Status {
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
	return nil
}

// pod is a pod sandbox with its containers.
type pod struct {
	n      *node
	name   string
	id     string
	ip     string
	more   []string // its other addresses
	config *cri.PodSandboxConfig
	main   string // the id of its first container
}

// port is one of a pod's that the host has, too.
type port struct {
	host, container int32
	hostIP          string
}

func (n *node) podConfig(name string, ports ...port) *cri.PodSandboxConfig {
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "shop"},
		Hostname:     name,
		LogDirectory: "/run/pods/" + name,
		Linux:        &cri.LinuxPodSandboxConfig{CgroupParent: "/" + n.s.group + "/pods"},
	}
	for _, p := range ports {
		config.PortMappings = append(config.PortMappings, &cri.PortMapping{HostPort: p.host, ContainerPort: p.container, HostIp: p.hostIP})
	}
	return config
}

// tryPod makes a pod sandbox without containers.
func (n *node) tryPod(name string, ports ...port) (*pod, error) {
	return n.tryConfig(n.podConfig(name, ports...), 0)
}

// tryConfig makes one for the n-th time.
func (n *node) tryConfig(config *cri.PodSandboxConfig, attempt uint32) (*pod, error) {
	config.Metadata.Attempt = attempt
	p := &pod{n: n, name: config.Metadata.Name, config: config}
	made, err := call(n, cri.RuntimeServiceClient.RunPodSandbox, &cri.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		return nil, err
	}
	p.id = made.PodSandboxId
	status, err := call(n, cri.RuntimeServiceClient.PodSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err == nil {
		p.ip = status.Status.GetNetwork().GetIp()
		for _, other := range status.Status.GetNetwork().GetAdditionalIps() {
			p.more = append(p.more, other.Ip)
		}
	}
	return p, err
}

// pod makes a pod whose container greets on port 80.
func (n *node) pod(name string, ports ...port) *pod {
	n.s.Helper()
	p, err := n.tryPod(name, ports...)
	n.s.must(err)
	p.serve()
	return p
}

// serve starts the pod's main container, which greets on port 80.
func (p *pod) serve() {
	p.n.s.Helper()
	p.main = p.container("web", "/pause", "serve", "80")
	p.n.s.eventually(p.name+" greets", func() error {
		_, err := p.ask("127.0.0.1")
		return err
	})
}

// container starts one in the pod and returns its id.
func (p *pod) container(name string, command ...string) string {
	p.n.s.Helper()
	made, err := call(p.n, cri.RuntimeServiceClient.CreateContainer, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config,
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: imageName}, Command: command,
			LogPath: name + ".log", Linux: &cri.LinuxContainerConfig{}}})
	p.n.s.must(err)
	_, err = call(p.n, cri.RuntimeServiceClient.StartContainer, &cri.StartContainerRequest{ContainerId: made.ContainerId})
	p.n.s.must(err)
	return made.ContainerId
}

// exec carries out a command in a container and returns what it printed.
func (p *pod) exec(container string, command ...string) (string, error) {
	done, err := call(p.n, cri.RuntimeServiceClient.ExecSync, &cri.ExecSyncRequest{ContainerId: container, Cmd: command, Timeout: 20})
	if err != nil {
		return "", err
	}
	if done.ExitCode != 0 {
		return "", fmt.Errorf("%s: %s: status %d: %s", p.name, strings.Join(command, " "), done.ExitCode, done.Stderr)
	}
	return string(done.Stdout), nil
}

// ask asks a server for its greeting, which tells the address that the pod is seen with.
func (p *pod) ask(server string) (string, error) {
	out, err := p.exec(p.main, "/pause", "fetch", "http://"+server)
	return strings.TrimSpace(out), err
}

// netns is the path of the pod's network namespace on its host.
func (p *pod) netns() string {
	p.n.s.Helper()
	status, err := call(p.n, cri.RuntimeServiceClient.PodSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	p.n.s.must(err)
	var info struct {
		RuntimeSpec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string }
			}
		}
	}
	p.n.s.must(json.Unmarshal([]byte(status.Info["info"]), &info))
	for _, ns := range info.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" {
			return ns.Path
		}
	}
	p.n.s.Fatalf("%s: no network namespace in %s", p.name, status.Info["info"])
	return ""
}

// stop ends the pod's processes, and DEL is called.
func (p *pod) stop() error {
	_, err := call(p.n, cri.RuntimeServiceClient.StopPodSandbox, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
	return err
}

func (p *pod) remove() {
	p.n.s.Helper()
	p.n.s.must(p.stop())
	_, err := call(p.n, cri.RuntimeServiceClient.RemovePodSandbox, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
	p.n.s.must(err)
}

// removeFailedPods removes the sandboxes that containerd keeps of those that could not be made, as a kubelet does.
func (n *node) removeFailedPods() {
	n.s.Helper()
	list, err := call(n, cri.RuntimeServiceClient.ListPodSandbox, &cri.ListPodSandboxRequest{})
	n.s.must(err)
	for _, p := range list.Items {
		(&pod{n: n, id: p.Id, name: p.Metadata.Name}).remove()
	}
}
