package main

import (
	"bytes"
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
)

// cniStatus shows what stands between container runtimes and flatnet.
type cniStatus struct {
	app      *app
	listing  listing
	places   cniFlags
	networks []string
}

// cniRow is one thing that a runtime needs.
type cniRow struct {
	Kind  string `json:"kind"` // daemon, plugin, conflist
	Where string `json:"where"`
	State string `json:"state"`
	What  string `json:"what"`

	asks string // of a configuration of ours that names no network: the socket of the daemon that knows which is meant
}

func newCNIStatus(a *app) *cobra.Command {
	c := &cniStatus{app: a}
	cmd := command(a, "status [flags]", "what is installed where, which configuration runtimes take, and whether flatnetd can attach containers", "flatnet cni status", cobra.NoArgs, c.run)
	cmd.Flags().Var(listed{&c.networks}, "network", "ask for that network; may be repeated (default: those of flatnet's first configuration)")
	c.places.flags(cmd)
	c.listing.flags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("network", a.complete(networkNames))
	return cmd
}

func (c *cniStatus) run(ctx context.Context, _ []string, stdout io.Writer) error {
	confDirs, binDirs := c.places.look(c.app.cni)
	confs, comes, networks, err := confRows(confDirs)
	if err != nil {
		return err
	}
	if len(c.networks) > 0 {
		networks = c.networks
	}
	daemon, meant, ready := c.daemon(ctx, networks)
	for i, row := range confs {
		if row.asks == daemon.Where && meant != "" {
			confs[i].What += ", names no network: now " + meant
		}
	}
	plugins, there := c.pluginRows(binDirs)
	t := table[cniRow]{name: func(r cniRow) string { return r.Where }, columns: []column[cniRow]{
		{head: "KIND", cell: func(r cniRow) string { return r.Kind }}, {head: "WHERE", cell: func(r cniRow) string { return r.Where }},
		{head: "STATE", cell: func(r cniRow) string { return r.State }}, {head: "WHAT", cell: func(r cniRow) string { return r.What }},
	}}
	if err := t.show(stdout, c.listing, append(append([]cniRow{daemon}, plugins...), confs...)); err != nil {
		return err
	}
	if !ready || !comes || !there {
		return exitStatus(api.ExitNegative)
	}
	return nil
}

// daemon is what the daemon says of itself; meant is the network of configurations that name none.
func (c *cniStatus) daemon(ctx context.Context, networks []string) (row cniRow, meant string, ready bool) {
	row = cniRow{Kind: "daemon", Where: c.app.config.Socket}
	status, err := c.app.client().CNIStatus(ctx, networks...)
	if err != nil {
		row.State, row.What = "away", firstLine(err)
		if api.HasCode(err, api.CodeNotPermitted) {
			row.State = "not asked"
		}
		return row, "", false
	}
	row.Where, row.State, row.What = status.Socket, "ready", counted(status.Attachments, "link")+" of containers"
	if !status.Ready {
		row.State = "not ready"
		for _, p := range status.Problems {
			row.What += "; " + p.Code + ": " + p.Reason
		}
	}
	return row, status.Network, status.Ready
}

// pluginRows are the plugin in each directory, and whether it is in one.
func (c *cniStatus) pluginRows(binDirs []string) (rows []cniRow, there bool) {
	var newest []byte
	for _, path := range c.app.cni.plugin {
		if data, err := os.ReadFile(path); err == nil && newest == nil {
			newest = data
		}
	}
	for _, dir := range binDirs {
		path := filepath.Join(dir, conflist.PluginType)
		row := cniRow{Kind: "plugin", Where: path, State: "there"}
		data, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			row.State = "missing"
		case err != nil:
			row.State, row.What = "missing", firstLine(err)
		case !isPlugin(data):
			row.State, row.What = "foreign", "not flatnet's"
		case newest != nil && !bytes.Equal(data, newest):
			row.What, there = "not of this flatnet's version: flatnet cni install", true
		default:
			there = true
		}
		if _, err := os.Stat(filepath.Join(dir, "loopback")); err != nil && row.State == "there" {
			row.What = strings.TrimPrefix(row.What+"; no plugin loopback beside it, which containerd before 2.0 needs", "; ")
		}
		rows = append(rows, row)
	}
	return rows, there
}

// confRows are the configurations in the order of their names, whether the first of a directory is flatnet's, and its networks.
func confRows(confDirs []string) (rows []cniRow, comes bool, networks []string, err error) {
	for _, dir := range confDirs {
		files, err := confFiles(dir)
		if err != nil {
			return nil, false, nil, err
		}
		for i, f := range files {
			row := cniRow{Kind: "conflist", Where: f.path, State: "behind", What: f.list.String()}
			p, flatnets := f.list.Flatnet()
			if i == 0 {
				row.State = "first"
			}
			if i == 0 && flatnets {
				comes, networks = true, p.Networks()
			}
			switch {
			case f.err != nil:
				row.State, row.What = "broken", firstLine(f.err)
			case flatnets && len(p.Networks()) > 0:
				row.What += ", network " + strings.Join(p.Networks(), " and ")
			case flatnets:
				row.asks = cmp.Or(p.Socket(), attach.DefaultSocket)
			}
			if f.ours && !f.untouched {
				row.What += ", edited"
			}
			rows = append(rows, row)
		}
		if len(files) == 0 {
			rows = append(rows, cniRow{Kind: "conflist", Where: dir, State: "missing", What: "runtimes that look here have no network"})
		}
	}
	if len(rows) == 0 {
		rows = append(rows, cniRow{Kind: "conflist", State: "missing", What: fmt.Sprintf("none of %s is there", strings.Join(usualCNIPlaces().confDirs, ", "))})
	}
	return rows, comes, networks, nil
}
