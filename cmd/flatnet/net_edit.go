package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// netEdit changes a network in an editor.
type netEdit struct {
	app     *app
	change  change
	consent consent
}

func newNetEdit(a *app) *cobra.Command {
	c := &netEdit{app: a}
	cmd := command(a, "edit NAME [flags]", "change a network in an editor", "flatnet net edit lab", cobra.ExactArgs(1), c.run)
	cmd.Long = "The editor is $VISUAL, $EDITOR or vi. What is wrong is written on top of the file, and the editor opens again; a file that is left\n" +
		"unchanged ends that. As with flatnet net set, what follows from a change of mode comes by itself."
	c.consent.flags(cmd)
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.completeEach(networkNames)
	return cmd
}

func (c *netEdit) run(ctx context.Context, args []string, stdout io.Writer) error {
	old, err := c.app.client().Network(ctx, args[0])
	if err != nil {
		return err
	}
	text, err := manifestText(manifestOf(old))
	if err != nil {
		return err
	}
	s := editing{command: c, old: old, shown: editHeader + text}
	return s.loop(ctx, stdout)
}

const editHeader = `# Lines that begin with # are left out. An unchanged or empty file changes nothing. Every field: flatnet help manifests
`

// editing is one file on its way to be right.
type editing struct {
	command *netEdit
	old     api.Network
	shown   string // what the editor is to show
	file    string // where it lies
}

// loop opens the editor until what it leaves can be done.
func (s *editing) loop(ctx context.Context, stdout io.Writer) error {
	f, err := os.CreateTemp("", "flatnet-"+s.old.Name+"-*.yaml")
	if err != nil {
		return err
	}
	f.Close()
	s.file = f.Name()
	for tried := false; ; tried = true {
		text, err := s.open(ctx)
		if err != nil && !tried && text == s.shown {
			os.Remove(s.file)
			return err
		}
		if err != nil {
			return s.keep(err)
		}
		if withoutComments(text) == withoutComments(s.shown) || withoutComments(text) == "" {
			return s.giveUp(tried)
		}
		e, docs, err := s.read(text)
		if err == nil {
			err = s.try(ctx, e)
		}
		if err == nil {
			err := s.command.consent.editNetwork(ctx, s.command.app, s.command.change, s.old, e, stdout)
			if err != nil && !errors.As(err, new(exitStatus)) {
				return s.keep(err)
			}
			os.Remove(s.file)
			return err
		}
		var wrong *api.Error
		if !errors.As(err, &wrong) || api.IsUnreachable(err) {
			return s.keep(err)
		}
		s.shown = editHeader + problemComments(locate(wrong, docs)) + withoutComments(text)
	}
}

// open lets the editor change the file and returns what it left, also when it failed.
func (s *editing) open(ctx context.Context) (string, error) {
	if err := os.WriteFile(s.file, []byte(s.shown), 0o600); err != nil {
		return "", err
	}
	editor := s.command.app.getenv("VISUAL")
	if editor == "" {
		editor = s.command.app.getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", s.file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.command.app.stdin, s.command.app.stderr, s.command.app.stderr
	failed := cmd.Run()
	text, err := os.ReadFile(s.file)
	if failed != nil {
		return string(text), fmt.Errorf("the editor %q ended with %w, so nothing was changed; another one: EDITOR=nano flatnet net edit %s", editor, failed, s.old.Name)
	}
	return string(text), err
}

// giveUp ends without a change; after an error the file is kept, as somebody has worked on it.
func (s *editing) giveUp(tried bool) error {
	if tried {
		return s.keep(errors.New("nothing was changed: the file was left as it was, with what is wrong in it"))
	}
	os.Remove(s.file)
	fmt.Fprintln(s.command.app.stderr, "nothing was changed")
	return nil
}

// keep tells where the work is that could not be done.
func (s *editing) keep(err error) error {
	fmt.Fprintf(s.command.app.stderr, "what you wrote is kept in %s\n", s.file)
	return err
}

// read turns the file into an edit.
func (s *editing) read(text string) (api.NetworkEdit, []api.Document, error) {
	docs, err := api.ReadFiles([]string{s.file}, strings.NewReader(text))
	if err != nil {
		return api.NetworkEdit{}, nil, err
	}
	bad := func(path, reason, fix string) (api.NetworkEdit, []api.Document, error) {
		return api.NetworkEdit{}, docs, api.Fail(api.ExitUsage, api.Problem{Code: api.CodeMalformed, Path: path, Reason: reason, Fix: fix})
	}
	if len(docs) != 1 || docs[0].Kind != api.KindNetwork {
		return bad("", fmt.Sprintf("there is to be one %s, and no more", api.KindNetwork), "flatnet apply -f takes any number")
	}
	m := docs[0].Manifest
	switch {
	case m.Metadata.Name != s.old.Name:
		return bad("metadata.name", "a network keeps its name", "make another one: flatnet net create "+m.Metadata.Name)
	case m.Network.Inactive != s.old.Spec.Inactive:
		return bad("spec.inactive", "an edit neither starts nor stops a network", "flatnet net start or stop "+s.old.Name)
	case m.Network.IPv6 != nil:
		return bad("spec.ipv6", "the subnets say that", "add or remove the IPv6 subnet in the list")
	}
	return editOf(manifestOf(s.old), m), docs, nil
}

// try asks the daemon what it thinks of an edit.
func (s *editing) try(ctx context.Context, e api.NetworkEdit) error {
	_, err := s.command.app.client().EditNetwork(ctx, s.old.Name, e, append(s.command.consent.options(), api.DryRun)...)
	return err
}

// editOf is what leads from one manifest to the other.
func editOf(old, now api.Manifest) api.NetworkEdit {
	a, b := *old.Network, *now.Network
	var e api.NetworkEdit
	set(&e.Mode, a.Mode, b.Mode)
	set(&e.Bridge, a.Bridge, b.Bridge)
	set(&e.Uplink, a.Uplink, b.Uplink)
	set(&e.Masquerade, a.Masquerade, b.Masquerade)
	set(&e.ProxyARP, a.ProxyARP, b.ProxyARP)
	set(&e.MTU, a.MTU, b.MTU)
	set(&e.IsolatePorts, a.IsolatePorts, b.IsolatePorts)
	set(&e.HostAdapter, isOn(a.HostAdapter), isOn(b.HostAdapter))
	set(&e.Guard, isOn(a.Guard), isOn(b.Guard))
	set(&e.Autostart, isOn(a.Autostart), isOn(b.Autostart))
	setList(&e.SNATIPs, a.SNATIPs, b.SNATIPs)
	setList(&e.DNS, a.DNS, b.DNS)
	setList(&e.Subnets, a.Subnets, b.Subnets)
	if !reflect.DeepEqual(a.Cluster, b.Cluster) {
		e.Cluster = clusterEdit(a.Cluster, b.Cluster)
	}
	for k, v := range now.Metadata.Labels {
		if was, ok := old.Metadata.Labels[k]; !ok || was != v {
			if e.Labels == nil {
				e.Labels = map[string]string{}
			}
			e.Labels[k] = v
		}
	}
	for k := range old.Metadata.Labels {
		if _, stays := now.Metadata.Labels[k]; !stays {
			e.DropLabels = append(e.DropLabels, k)
		}
	}
	slices.Sort(e.DropLabels)
	return e
}

func isOn(b *bool) bool { return b == nil || *b }

func set[T comparable](to **T, old, now T) {
	if old != now {
		*to = &now
	}
}

func setList[T any](to *[]T, old, now []T) {
	if len(old)+len(now) > 0 && !reflect.DeepEqual(old, now) {
		*to = append([]T{}, now...)
	}
}

// withoutComments leaves out the lines that begin with #, and empty ones around.
func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	if strings.TrimSpace(b.String()) == "" {
		return ""
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// problemComments are problems as comments of the file that has them.
func problemComments(err error) string {
	var e *api.Error
	if !errors.As(err, &e) {
		return "# error: " + strings.ReplaceAll(err.Error(), "\n", "\n# ") + "\n"
	}
	var b, text bytes.Buffer
	for _, p := range e.Problems {
		p.File = ""
		p.Write(&text, "error")
	}
	for line := range strings.Lines(text.String()) {
		b.WriteString("# " + line)
	}
	return b.String()
}
