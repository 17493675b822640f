package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// newCNI has the commands that bring container runtimes to flatnet, and away from other plugins.
func newCNI(a *app) *cobra.Command {
	return group("cni", "container runtimes: containerd, CRI-O, podman, Nomad, Kubernetes", "sudo flatnet cni install",
		newCNIInstall(a), newCNIUninstall(a), newCNIConvert(a), newCNIStatus(a))
}

// cniPlaces are where runtimes look; the first of each is taken where there is none.
type cniPlaces struct {
	confDirs, binDirs []string
	plugin            []string // where flatnet-cni may be that is installed
}

// usualCNIPlaces are those of containerd, CRI-O, podman and Kubernetes (/etc/cni/net.d, /opt/cni/bin), of Debian's and Fedora's packages, of k3s, and
// of Nomad (/opt/cni/config).
func usualCNIPlaces() cniPlaces {
	p := cniPlaces{
		confDirs: []string{"/etc/cni/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d", "/opt/cni/config"},
		binDirs:  []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni", "/var/lib/rancher/k3s/data/cni"},
	}
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		for _, dir := range []string{".", "../lib/flatnet", "../libexec/flatnet", "../libexec"} {
			p.plugin = append(p.plugin, filepath.Join(filepath.Dir(self), dir, "flatnet-cni"))
		}
	}
	return p
}

// cniFlags say where, for who has it elsewhere.
type cniFlags struct {
	confDir string
	binDirs []string
}

func (f *cniFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.confDir, "conf-dir", "", "the runtime's directory of configurations (default /etc/cni/net.d)")
	cmd.Flags().StringArrayVar(&f.binDirs, "bin-dir", nil, "the runtime's directory of plugins; may be repeated (default those of /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni that are there)")
	_ = cmd.MarkFlagDirname("conf-dir")
	_ = cmd.MarkFlagDirname("bin-dir")
}

// install are the places to write to: one directory of configurations, and the directories of plugins that are there, or one to be made.
func (f cniFlags) install(usual cniPlaces) (confDir string, binDirs []string) {
	confDir, binDirs = f.confDir, f.binDirs
	if confDir == "" && len(usual.confDirs) > 0 {
		confDir = usual.confDirs[0]
	}
	if len(binDirs) == 0 {
		if binDirs = existing(usual.binDirs); len(binDirs) == 0 && len(usual.binDirs) > 0 {
			binDirs = usual.binDirs[:1]
		}
	}
	return confDir, binDirs
}

// look are the places where something may be: those that are named, else all that are there.
func (f cniFlags) look(usual cniPlaces) (confDirs, binDirs []string) {
	confDirs, binDirs = existing(usual.confDirs), existing(usual.binDirs)
	if f.confDir != "" {
		confDirs = []string{f.confDir}
	}
	if len(f.binDirs) > 0 {
		binDirs = f.binDirs
	}
	return confDirs, binDirs
}

func existing(dirs []string) []string {
	var there []string
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			there = append(there, dir)
		}
	}
	return there
}
