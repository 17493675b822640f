package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/attach"
	"github.com/flatnet/flatnet/api/conflist"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// cniUninstall takes back what install made.
type cniUninstall struct {
	app    *app
	change change
	places cniFlags
	name   string // of the only configuration to go; empty: all
	force  bool   // about the configuration
	plugin bool   // about the plugin
	given  *pflag.FlagSet
}

func newCNIUninstall(a *app) *cobra.Command {
	c := &cniUninstall{app: a}
	cmd := command(a, "uninstall [flags]", "take back what install made; what it put aside is put back", "sudo flatnet cni uninstall", cobra.NoArgs, c.run)
	c.given = cmd.Flags()
	cmd.Flags().StringVar(&c.name, "name", "", "only the configuration of that name (default all that install wrote)")
	cmd.Flags().BoolVar(&c.force, "force", false, "also a configuration that was edited")
	cmd.Flags().BoolVar(&c.plugin, "plugin-too", false, "also the plugin while containers need it: their runtime cannot end them then")
	c.places.flags(cmd)
	c.change.flags(cmd)
	return cmd
}

func (c *cniUninstall) run(ctx context.Context, _ []string, stdout io.Writer) error {
	confDirs, binDirs := c.places.look(c.app.cni)
	confs, err := uninstallConfs(confDirs, c.force, func(l conflist.List) bool { return c.name == "" || l.Name == c.name })
	if err != nil {
		return err
	}
	steps, kept := confs.steps, confs.kept
	for i := range kept {
		kept[i].Example = "flatnet cni uninstall" + c.again() + " --force"
	}
	steps = append(tidySteps(append(confDirs, binDirs...)), steps...)
	plugins, err := installedPlugins(binDirs)
	if err != nil {
		return err
	}
	if !c.plugin {
		left, err := c.left(ctx, confs.stay, plugins)
		if err != nil {
			return err
		}
		if left.Code != "" {
			kept = append(kept, left)
		}
		if left.Code != "" || len(confs.stay) > 0 {
			plugins = nil
		}
	}
	for _, path := range plugins {
		steps = append(steps, removeStep(path, "no runtime is to call it any more"))
	}
	if err := c.app.changeFiles(stdout, c.change.dry(), steps); err != nil {
		return err
	}
	if len(kept) > 0 {
		return api.Fail(api.ExitConflict, kept...)
	}
	return nil
}

// again are the flags by which the same would be taken back, for who has only looked so far, too.
func (c *cniUninstall) again() string { return again(c.given, "dry-run", "explain") }

// leaving is what becomes of configurations: the steps, why some that were to go are kept, and those of flatnet that stay for whatever reason.
type leaving struct {
	steps []fileStep
	kept  []api.Problem
	stay  []string
}

// uninstallConfs takes the configurations of some daemon away, or of any: what was put aside comes back before ours goes, as a runtime without any
// says that the node is not ready. Nothing comes back beside one of ours that stays: both may be of one name.
func uninstallConfs(confDirs []string, force bool, of func(conflist.List) bool) (leaving, error) {
	var all leaving
	for _, dir := range confDirs {
		files, err := confFiles(dir)
		if err != nil {
			return leaving{}, err
		}
		aside := backSteps(dir)
		var gone []fileStep
		for _, f := range files {
			_, flatnets := f.list.Flatnet()
			switch {
			case f.ours && of(f.list) && (f.untouched || force):
				gone = append(gone, removeStep(f.path, "new containers do not come to flatnet"))
				continue
			case f.ours && of(f.list):
				all.kept = append(all.kept, editedStays(f.path, len(aside)))
			}
			if f.ours {
				aside = nil
			}
			if f.ours || flatnets {
				all.stay = append(all.stay, f.path)
			}
		}
		all.steps = append(append(all.steps, aside...), gone...)
	}
	return all, nil
}

func editedStays(path string, aside int) api.Problem {
	p := api.Problem{Code: codeCNIEdited, Reason: path + " was edited by hand, and is left", Fix: "--force removes it"}
	if aside > 0 {
		p.Reason += "; so what was put aside for it stays aside"
	}
	return p
}

// backSteps put back what install put aside.
func backSteps(dir string) []fileStep {
	var steps []fileStep
	aside, _ := filepath.Glob(filepath.Join(dir, "*"+asideSuffix))
	for _, path := range aside {
		was := strings.TrimSuffix(path, asideSuffix)
		if _, err := os.Lstat(was); errors.Is(err, fs.ErrNotExist) {
			steps = append(steps, renameStep(path, was, "as before flatnet"))
		}
	}
	return steps
}

// installedPlugins are the copies of flatnet-cni where runtimes look.
func installedPlugins(binDirs []string) ([]string, error) {
	var paths []string
	for _, dir := range binDirs {
		path := filepath.Join(dir, conflist.PluginType)
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && isPlugin(data) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// leaveRuntimes are the steps by which an uninstall of flatnet as a whole takes this host's runtimes along: the configurations before the workloads
// end, the plugin after. The plugin stays where containers are, with a word about it.
func (a *app) leaveRuntimes(ctx context.Context, workloads []api.Workload) (confs, plugins []fileStep, err error) {
	confDirs, binDirs := cniFlags{}.look(a.cni)
	if len(confDirs)+len(binDirs) == 0 {
		return nil, nil, nil
	}
	status, err := a.client().CNIStatus(ctx)
	if err != nil {
		return nil, nil, nil // a flatnetd from before there was CNI; flatnet cni uninstall needs none
	}
	others := status.Socket != attach.DefaultSocket // there may be a daemon at the usual place, whose plugin it is too
	leaves, err := uninstallConfs(confDirs, false, func(l conflist.List) bool {
		p, _ := l.Flatnet()
		mine := cmp.Or(p.Socket(), attach.DefaultSocket) == status.Socket
		others = others || !mine
		return mine
	})
	confs = leaves.steps
	if err != nil || others {
		return confs, nil, err
	}
	for _, p := range leaves.kept {
		fmt.Fprintf(a.stderr, "note: %s\n", p.Reason)
	}
	if len(leaves.stay) > 0 { // they name the plugin
		return confs, nil, nil
	}
	paths, err := installedPlugins(binDirs)
	if err != nil {
		return nil, nil, err
	}
	if n := links(workloads); n > 0 && len(paths) > 0 {
		fmt.Fprintf(a.stderr, "note: %s of containers go; %s stays, as their runtime calls it once more. Remove the containers, then it: flatnet cni uninstall --plugin-too\n", counted(n, "link"), strings.Join(paths, ", "))
		return confs, nil, nil
	}
	for _, path := range paths {
		plugins = append(plugins, removeStep(path, "no runtime is to call it any more"))
	}
	return confs, plugins, nil
}

// links counts what runtimes have attached.
func links(workloads []api.Workload) int {
	n := 0
	for _, w := range workloads {
		for _, e := range w.Endpoints {
			if e.Attachment != nil {
				n++
			}
		}
	}
	return n
}

// left is why the plugin stays: no code where it need not, or where a configuration that stays says so already.
func (c *cniUninstall) left(ctx context.Context, stay, plugins []string) (api.Problem, error) {
	switch {
	case len(plugins) == 0:
		return api.Problem{}, nil
	case len(stay) > 0:
		fmt.Fprintf(c.app.stderr, "note: the plugin stays: %s has flatnet in it\n", strings.Join(stay, ", "))
		return api.Problem{}, nil
	}
	return c.inUse(ctx, plugins)
}

// inUse is why the plugin stays: a runtime calls it to let go of the containers that it has, and does not stop trying.
func (c *cniUninstall) inUse(ctx context.Context, plugins []string) (api.Problem, error) {
	p := api.Problem{Code: codeCNIInUse, Owner: strings.Join(plugins, ", "), Fix: "remove the containers, then uninstall once more; --plugin-too removes it now, and their runtime cannot end them any more", Example: "flatnet cni uninstall" + c.again()}
	status, err := c.app.client().CNIStatus(ctx)
	switch {
	case api.HasCode(err, api.CodeNotPermitted):
		return p, err
	case err != nil:
		p.Reason = fmt.Sprintf("the plugin is left: whether containers need it cannot be asked (%s)", firstLine(err))
	case status.Attachments > 0:
		p.Reason = fmt.Sprintf("the plugin is left: their runtime calls it when %s of containers end", counted(status.Attachments, "link"))
	default:
		return api.Problem{}, nil
	}
	return p, nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
