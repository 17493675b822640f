package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/conflist"
	"github.com/spf13/cobra"
)

// cniConvert says another plugin's configuration in flatnet's words.
type cniConvert struct {
	app                 *app
	manifests, conflist bool
	subnetEnv           string
}

func newCNIConvert(a *app) *cobra.Command {
	c := &cniConvert{app: a}
	cmd := command(a, "convert FILE|- [flags]", "print what another plugin's configuration is here: the network, the runtime's file, and what has no equal",
		"flatnet cni convert /etc/cni/net.d/10-flannel.conflist\nflatnet cni convert --manifests 87-podman.conflist | sudo flatnet apply -f -", cobra.ExactArgs(1), c.run)
	cmd.Flags().BoolVar(&c.manifests, "manifests", false, "print only the networks, for flatnet apply")
	cmd.Flags().BoolVar(&c.conflist, "conflist", false, "print only the runtime's file")
	cmd.Flags().StringVar(&c.subnetEnv, "subnet-env", usualSubnetEnv, "where flannel says what this host has of it")
	cmd.MarkFlagsMutuallyExclusive("manifests", "conflist")
	cmd.ValidArgsFunction = nil
	return cmd
}

const (
	maxConfig      = 1 << 20 // bytes
	usualSubnetEnv = "/run/flannel/subnet.env"
)

func (c *cniConvert) run(_ context.Context, args []string, stdout io.Writer) error {
	done, err := c.app.convert(args[0], c.subnetEnv)
	if err != nil {
		return err
	}
	if !c.conflist {
		if !c.manifests {
			fmt.Fprintln(stdout, "# the network: flatnet cni convert --manifests "+args[0]+" | sudo flatnet apply -f -")
		}
		if err := api.WriteManifests(stdout, done.Manifests); err != nil {
			return err
		}
	}
	if !c.manifests {
		if !c.conflist {
			fmt.Fprintln(stdout, "---\n# the runtime's file: sudo flatnet cni install --like "+args[0])
		}
		if _, err := stdout.Write(done.Conflist); err != nil {
			return err
		}
	}
	for _, n := range done.Notes {
		fmt.Fprintln(c.app.stderr, n)
	}
	return nil
}

// convert reads a configuration, from standard input for "-".
func (a *app) convert(file, subnetEnv string) (conflist.Conversion, error) {
	text, err := readConfig(file, a.stdin)
	if err != nil {
		return conflist.Conversion{}, err
	}
	var host conflist.Host
	if host.SubnetEnv, err = os.ReadFile(subnetEnv); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return conflist.Conversion{}, err
	}
	done, err := conflist.Convert(text, host)
	var e *api.Error
	if errors.As(err, &e) {
		for i := range e.Problems {
			e.Problems[i].File = file
		}
	}
	return done, err
}

func readConfig(file string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%s has more than %d bytes", file, maxConfig)
	}
	return text, err
}
