package agent

import (
	"cmp"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/attach"
	"github.com/flatnet/flatnet/api/conflist"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/model"
)

// runtimeDirs are where runtimes have their configurations, as in `flatnet cni`: containerd, CRI-O, podman and kubelet; k3s; Nomad.
var runtimeDirs = []string{"etc/cni/net.d", "var/lib/rancher/k3s/agent/etc/cni/net.d", "opt/cni/config"}

// Bounds of what doctor reads of others' directories, and of how long it waits for a change under way.
const (
	mostConfigs    = 256
	mostConfigText = 64 << 10 // bytes
	serveTime      = 2 * time.Second
)

// cniConfig is a configuration that leads to this daemon.
type cniConfig struct {
	name     string
	networks []string // none: the one of containers
}

// containerFindings say why containers get no network, where somebody has set a runtime up for it.
func (a *Agent) containerFindings(ctx context.Context, root string) []api.Finding {
	ctx, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	configs := installedConfigs(root, filepath.Join(a.config.RunDir, AttachName))
	used, cut := a.containers()
	if len(configs) == 0 { // in a directory of the runtime's own
		configs = used
	}
	found := checkup.Containers{Cut: cut}
	for _, c := range configs {
		found.Configs = append(found.Configs, checkup.Config{Name: c.name, Refused: a.refusals(ctx, c.networks)})
	}
	return checkup.ContainerFindings(found)
}

// refusals are why an ADD on the networks would fail; a daemon that is busy with something else says nothing about them.
func (a *Agent) refusals(ctx context.Context, networks []string) []api.Problem {
	var list []api.Problem
	for _, p := range asProblems(a.Serves(ctx, networks), "") {
		if p.Code != model.CodeStopping {
			list = append(list, api.Problem{Code: p.Code, Path: p.Path, Reason: p.Reason, Owner: p.Owner, Fix: p.Fix, Example: p.Example})
		}
	}
	return list
}

// containers are the configurations by which some are attached, with their networks, and those that are cut off by a network's stop.
func (a *Agent) containers() (used []cniConfig, cut []checkup.Container) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	networks := map[string]map[string]bool{} // by configuration
	for name, w := range a.state.view.Workloads {
		for _, e := range w.Endpoints {
			if e.Attachment == (model.Attachment{}) {
				continue
			}
			config := e.Attachment.Config
			if networks[config] == nil {
				networks[config] = map[string]bool{}
			}
			networks[config][e.Network] = true
			if n, known := a.state.view.Networks[e.Network]; known && !n.Active {
				cut = append(cut, checkup.Container{Name: name, Network: e.Network})
			}
		}
	}
	for _, config := range slices.Sorted(maps.Keys(networks)) {
		used = append(used, cniConfig{name: "CNI configuration " + config, networks: slices.Sorted(maps.Keys(networks[config]))})
	}
	return used, cut
}

// installedConfigs are those of the usual directories that lead to the daemon at socket.
func installedConfigs(root, socket string) []cniConfig {
	var list []cniConfig
	for _, dir := range runtimeDirs {
		for _, file := range configFiles(filepath.Join(root, dir)) {
			parsed, err := conflist.Parse(headOf(file))
			if err != nil { // a runtime's to complain about
				continue
			}
			if p, is := parsed.Flatnet(); is && cmp.Or(p.Socket(), attach.DefaultSocket) == socket {
				list = append(list, cniConfig{file, p.Networks()})
			}
		}
	}
	return list
}

// configFiles are a directory's configurations as runtimes order them.
func configFiles(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(mostConfigs) // what cannot be read is no configuration of anybody's
	names = slices.DeleteFunc(names, func(name string) bool { return !conflist.IsConfig(name) || strings.HasPrefix(name, ".") })
	slices.Sort(names)
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names
}

// headOf is a regular file's text; of a larger one it is no JSON.
func headOf(file string) []byte {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() { // opening a pipe would wait for a writer
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, mostConfigText))
	return text
}
