package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/attach"
	"github.com/flatnet/flatnet/api/conflist"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The codes of what is in the way of bringing a runtime to flatnet.
const (
	codeCNINotReady = "FN4301" // the daemon could not attach a container now
	codeCNINotFirst = "FN4302" // another configuration comes before flatnet's
	codeCNIPlugin   = "FN4303" // flatnet-cni is not there to be installed
	codeCNIEdited   = "FN4304" // the configuration was edited by hand
	codeCNIForeign  = "FN4305" // a file of that name is not flatnet's
	codeCNIInUse    = "FN4306" // containers need the plugin still
	codeCNICluster  = "FN4307" // a cluster's configuration, and no cluster
)

// cniInstall brings a container runtime to flatnet.
type cniInstall struct {
	app      *app
	change   change
	places   cniFlags
	networks []string
	name     string
	version  string
	like     string
	replace  []string
	wait     time.Duration
	force    bool
	given    *pflag.FlagSet
}

func newCNIInstall(a *app) *cobra.Command {
	c := &cniInstall{app: a}
	cmd := command(a, "install [flags]", "bring this host's container runtimes to flatnet: the plugin, then the configuration that names it",
		"sudo flatnet cni install\nsudo flatnet cni install --network pods --replace /etc/cni/net.d/10-bridge.conflist", cobra.NoArgs, c.run)
	f := cmd.Flags()
	c.given = f
	f.Var(listed{&c.networks}, "network", "attach containers to it; may be repeated (default: the only cluster network, else the only network, else default)")
	f.StringVar(&c.name, "name", "flatnet", "the configuration's name; its file is 10-NAME.conflist")
	f.StringVar(&c.version, "cni-version", "", "only this version of CNI, for runtimes older than containerd 1.6: 0.4.0 (default 1.0.0, and 1.1.0 where the runtime knows that)")
	f.StringVar(&c.like, "like", "", "do what that configuration of another plugin does, as far as flatnet can: see flatnet cni convert")
	f.StringArrayVar(&c.replace, "replace", nil, "put that configuration aside, as FILE"+asideSuffix+": a path, or a name in the conf-dir; may be repeated. flatnet cni uninstall puts it back")
	f.DurationVar(&c.wait, "wait", 0, "how long to wait until flatnetd can attach containers")
	f.BoolVar(&c.force, "force", false, "also when flatnetd cannot attach containers now, and over a configuration that was edited")
	c.places.flags(cmd)
	c.change.flags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("network", a.complete(networkNames))
	cmd.MarkFlagsMutuallyExclusive("like", "network")
	return cmd
}

func (c *cniInstall) run(ctx context.Context, _ []string, stdout io.Writer) error {
	text, networks, mode, err := c.text()
	if err != nil {
		return err
	}
	status, err := c.ready(ctx, networks)
	if err != nil {
		return err
	}
	if mode == modeCluster && len(networks) == 0 && !c.force {
		if err := c.cluster(ctx, status.Network); err != nil {
			return err
		}
	}
	if text == nil {
		text = c.settings(status.Socket).Text()
	}
	steps, err := c.plan(text)
	if err != nil {
		return err
	}
	if err := c.app.changeFiles(stdout, c.change.dry(), steps); err != nil || c.change.dry() {
		return err
	}
	return c.first()
}

// text is the configuration that is like another's, nil without such; networks are those that it attaches to, mode is that of the other's.
func (c *cniInstall) text() (text []byte, networks []string, mode string, err error) {
	if c.like == "" {
		return nil, c.networks, "", nil
	}
	done, err := c.app.convert(c.like, usualSubnetEnv)
	if err != nil {
		return nil, nil, "", err
	}
	for _, m := range done.Manifests {
		mode = m.Network.Mode
	}
	for _, n := range done.Notes {
		fmt.Fprintln(c.app.stderr, n)
	}
	text = conflist.Sign(done.Conflist)
	list, err := conflist.Parse(text)
	if err != nil {
		return nil, nil, "", err
	}
	c.name = list.Name
	p, _ := list.Flatnet()
	return text, p.Networks(), mode, nil
}

// cluster fails where the network that is meant is not one of a cluster, as that of the other configuration was: pods would reach no other host.
func (c *cniInstall) cluster(ctx context.Context, meant string) error {
	p := api.Problem{Code: codeCNICluster, Reason: c.like + " is of a network of many hosts, and there is none here", Fix: "begin or join a cluster (flatnet init, join), then make its network; for this host alone: --network NAME in place of --like",
		Example: "flatnet cni convert --manifests " + shellWord(c.like) + " | sudo flatnet apply -f -"}
	if meant != "" {
		n, err := c.app.client().Network(ctx, meant)
		if err != nil {
			return err
		}
		if n.Spec.Mode == modeCluster {
			return nil
		}
		p.Reason += fmt.Sprintf(": containers would come to %q, whose mode is %s", meant, n.Spec.Mode)
	}
	return api.Fail(api.ExitNegative, p)
}

func (c *cniInstall) settings(socket string) conflist.Settings {
	if socket == attach.DefaultSocket {
		socket = ""
	}
	return conflist.Settings{Name: c.name, CNIVersion: c.version, Networks: c.networks, Socket: socket}
}

// ready waits until the daemon can attach containers. A runtime that is brought to a plugin whose daemon cannot would start none.
func (c *cniInstall) ready(ctx context.Context, networks []string) (api.CNIStatus, error) {
	const pause = 200 * time.Millisecond
	patience, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	for {
		status, err := c.app.client().CNIStatus(ctx, networks...)
		if err == nil && (status.Ready || c.force) {
			return status, nil
		}
		if patience.Err() != nil {
			if err == nil {
				err = notReady(status, c.wait)
			}
			return status, err
		}
		select {
		case <-patience.Done():
		case <-time.After(pause):
		}
	}
}

func notReady(status api.CNIStatus, wait time.Duration) error {
	exit := api.ExitNegative
	if wait > 0 {
		exit = api.ExitTimeout
	}
	p := api.Problem{Code: codeCNINotReady, Reason: "flatnetd could not attach a container now, so nothing was installed: the runtime would start none", Fix: "mend that first; --wait 1m waits for it"}
	return api.Fail(exit, append(slices.Clone(status.Problems), p)...)
}

// plan are the steps, the plugin before the configuration that makes runtimes call it.
func (c *cniInstall) plan(text []byte) ([]fileStep, error) {
	confDir, binDirs := c.places.install(c.app.cni)
	if confDir == "" || len(binDirs) == 0 {
		return nil, badUsage("nowhere to install to: --conf-dir and --bin-dir")
	}
	steps := tidySteps(append([]string{confDir}, binDirs...))
	source, plugin, err := c.plugin()
	if err != nil {
		return nil, err
	}
	for _, dir := range binDirs {
		more, err := pluginSteps(source, filepath.Join(dir, conflist.PluginType), plugin)
		if err != nil {
			return nil, err
		}
		steps = append(steps, more...)
	}
	conf, err := c.confSteps(filepath.Join(confDir, "10-"+c.name+".conflist"), text)
	if err != nil {
		return nil, err
	}
	aside, err := asideSteps(confDir, c.replace)
	if err != nil {
		return nil, err
	}
	return append(append(steps, conf...), aside...), nil
}

// plugin is flatnet-cni, that came with this flatnet.
func (c *cniInstall) plugin() (path string, data []byte, err error) {
	for _, path := range c.app.cni.plugin {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if isPlugin(data) {
			return path, data, nil
		}
	}
	return "", nil, api.Fail(api.ExitNegative, api.Problem{Code: codeCNIPlugin, Reason: "flatnet-cni is not beside this flatnet", Owner: "looked for " + strings.Join(c.app.cni.plugin, ", "),
		Fix: "install flatnet anew: make install, or the package"})
}

func pluginSteps(source, path string, plugin []byte) ([]fileStep, error) {
	have, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(have, plugin):
		return nil, nil
	case err == nil && !isPlugin(have):
		return nil, api.Fail(api.ExitConflict, api.Problem{Code: codeCNIForeign, Reason: path + " is there, and is not flatnet's plugin", Fix: "see whose it is, and move it away"})
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return []fileStep{{path: path, text: fmt.Sprintf("%s is flatnet's plugin, %s", path, source), command: fmt.Sprintf("install -D -m 0755 %s %s", shellWord(source), shellWord(path)),
		do: func(d disk) error { return d.write(path, plugin, 0o755) }}}, nil
}

func (c *cniInstall) confSteps(path string, text []byte) ([]fileStep, error) {
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if bytes.Equal(have, text) {
		return nil, nil
	}
	if ours, untouched := conflist.Written(have); err == nil && !untouched && !c.force {
		p := api.Problem{Code: codeCNIEdited, Reason: path + " was edited by hand; it would become:\n" + strings.Join(diffLines(splitLines(string(have)), splitLines(string(text))), "\n"),
			Fix: "--force writes it anew"}
		if !ours {
			p.Code, p.Reason = codeCNIForeign, path+" is there, and flatnet did not write it; it would become:\n"+strings.Join(diffLines(splitLines(string(have)), splitLines(string(text))), "\n")
		}
		return nil, api.Fail(api.ExitConflict, p)
	}
	return []fileStep{{path: path, text: path + " brings containers to flatnet", command: "cat > " + shellWord(path) + " <<'EOF'\n" + string(text) + "EOF",
		do: func(d disk) error { return d.write(path, text, 0o644) }}}, nil
}

// asideSteps put configurations aside; one that an install before has put aside needs nothing.
func asideSteps(confDir string, replaced []string) ([]fileStep, error) {
	var steps []fileStep
	seen := map[string]bool{}
	for _, name := range replaced {
		file, there, err := findReplaced(confDir, name)
		if err != nil {
			return nil, err
		}
		if there && !seen[filepath.Clean(file)] {
			steps = append(steps, renameStep(file, freeName(file+asideSuffix), "flatnet is in its place; flatnet cni uninstall puts it back"))
		}
		seen[filepath.Clean(file)] = true
	}
	return steps, nil
}

// findReplaced is the file that --replace names, a bare name that of a file in the runtime's directory. It is not there any more when it is aside.
func findReplaced(confDir, name string) (file string, there bool, err error) {
	places := []string{name}
	if filepath.Base(name) == name {
		places = []string{filepath.Join(confDir, name), name}
	}
	for _, file := range places {
		switch info, err := os.Stat(file); {
		case err == nil && info.Mode().IsRegular():
			return file, true, nil
		case err == nil:
			return "", false, badUsage("--replace %s: %s is no regular file", name, file)
		case !errors.Is(err, fs.ErrNotExist):
			return "", false, err
		}
		if _, err := os.Lstat(file + asideSuffix); err == nil {
			return file, false, nil
		}
	}
	return "", false, badUsage("--replace %s: there is no such file; %s", name, namesIn(confDir))
}

// namesIn says what there is in a runtime's directory.
func namesIn(confDir string) string {
	files, err := confFiles(confDir)
	if err != nil || len(files) == 0 {
		return "in " + confDir + " is no configuration"
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f.path))
	}
	return "in " + confDir + ": " + strings.Join(names, ", ")
}

// freeName is a name that no file has yet.
func freeName(path string) string {
	name := path
	for i := 2; ; i++ {
		if _, err := os.Lstat(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s.%d", path, i)
	}
}

// first fails where another configuration comes before ours: a runtime that takes one takes the first by name, so all this would have no effect.
func (c *cniInstall) first() error {
	dir, _ := c.places.install(c.app.cni)
	files, err := confFiles(dir)
	if err != nil {
		return err
	}
	c.siblings(files)
	var before, twins []string
	for _, f := range files {
		if _, is := f.list.Flatnet(); is {
			break
		}
		before = append(before, f.path)
	}
	for _, f := range files {
		if !f.ours && f.list.Name == c.name && !slices.Contains(before, f.path) {
			twins = append(twins, f.path)
		}
	}
	if len(before)+len(twins) == 0 {
		return nil
	}
	p := api.Problem{Code: codeCNINotFirst, Owner: strings.Join(append(before, twins...), ", "), Fix: "put aside what is to be flatnet's",
		Example: "flatnet cni install" + again(c.given, "replace")}
	for _, path := range append(before, twins...) {
		p.Example += " --replace " + shellWord(path)
	}
	p.Reason = fmt.Sprintf("containers still do not come to flatnet: in %s another configuration is the first by name", dir)
	if len(before) == 0 {
		p.Reason = fmt.Sprintf("two configurations in %s have the name %s", dir, c.name)
	}
	return api.Fail(api.ExitConflict, p)
}

// siblings tells of flatnet's other configurations: which of them a runtime takes that takes one, and how one of them goes.
func (c *cniInstall) siblings(files []confFile) {
	var first confFile
	several := false
	for _, f := range files {
		_, is := f.list.Flatnet()
		if is && first.path == "" {
			first = f
		}
		several = several || is && f.list.Name != c.name
	}
	if several {
		fmt.Fprintf(c.app.stderr, "note: flatnet has several configurations; runtimes that take one take %s, of the name %s. flatnet cni uninstall --name NAME takes one away\n", first.path, first.list.Name)
	}
}

// carryOut does steps one after the other, and says what it did.
func (a *app) carryOut(w io.Writer, steps []fileStep) error {
	for _, s := range steps {
		if err := s.do(a.disk); err != nil {
			return fmt.Errorf("%s: %w", s.text, err)
		}
		fmt.Fprintln(w, s.text)
	}
	return nil
}

// changeFiles carries steps out, or prints them.
func (a *app) changeFiles(w io.Writer, dry bool, steps []fileStep) error {
	if dry {
		printFileSteps(w, steps)
		return nil
	}
	if len(steps) == 0 {
		fmt.Fprintln(w, "nothing to do")
	}
	if err := permitted(steps); err != nil {
		return err
	}
	return a.carryOut(w, steps)
}

func printFileSteps(w io.Writer, steps []fileStep) {
	for _, s := range steps {
		fmt.Fprintf(w, "# %s\n%s\n", s.text, s.command)
	}
}
