package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flatnet/flatnet/api/attach"
	"github.com/flatnet/flatnet/internal/model"
)

// undoTime is how long taking back a failed ADD may take.
const undoTime = 20 * time.Second

// errStopping is of a request that ends because the daemon does: it is not answered, and the plugin asks the next daemon.
var errStopping = errors.New("the daemon is stopping")

// answer carries out one call of the plugin and says what that shall print. The error is errStopping.
func (s *server) answer(ctx context.Context, of call) (attach.Reply, error) {
	keys, err := keysOf(of.Config)
	version := textOf(keys["cniVersion"])
	var out []byte
	if err == nil {
		out, err = s.command(ctx, of, version, keys)
	}
	switch {
	case err == nil:
		return attach.Reply{Stdout: out}, nil
	case s.stopping(err):
		return attach.Reply{}, errStopping
	}
	f := failureOf(err, of.Command)
	s.log.Debug("CNI request refused", "command", of.Command, "container", of.Container, "ifname", of.IfName, "code", f.Code, "error", err)
	if !slices.Contains(versions, version) {
		version = newest
	}
	return attach.Reply{Exit: 1, Stdout: f.print(version)}, nil
}

// command carries out a command. Those that take away need no more of a configuration than its name: what became bad since the ADD can still be
// removed. A whole list names no socket, so another daemon's would be told that nothing is left: it is refused for these, too.
func (s *server) command(ctx context.Context, of call, version string, keys map[string]json.RawMessage) ([]byte, error) {
	if err := checkOne(keys); err != nil {
		return nil, err
	}
	if err := of.checkVariables(); err != nil {
		return nil, err
	}
	name := textOf(keys["name"])
	if of.Command == "DEL" {
		return nil, s.daemon.Detach(ctx, of.id(name))
	}
	if err := checkVersion(version, of.Command); err != nil {
		return nil, err
	}
	if of.Command == "GC" {
		return nil, s.collect(ctx, name, keys)
	}
	c, err := readConf(of.Config)
	if err != nil {
		return nil, err
	}
	switch of.Command {
	case "ADD":
		return s.add(ctx, of, c)
	case "CHECK":
		return nil, s.check(ctx, of, c)
	case "STATUS":
		return nil, s.status(ctx, c)
	}
	return nil, model.Problem{Code: codeEnvironment, Reason: fmt.Sprintf("CNI_COMMAND=%s is not known", brief(of.Command)), Fix: "ADD, DEL, CHECK, GC, STATUS or VERSION"}
}

func (s *server) add(ctx context.Context, of call, c conf) ([]byte, error) {
	if of.netns == nil {
		return nil, noNetns(of)
	}
	var err error
	if of.args, err = readArgs(of.Args); err != nil {
		return nil, err
	}
	spec, err := c.spec(of)
	if err != nil {
		return nil, err
	}
	w, made, err := s.daemon.Attach(ctx, of.id(c.Name), spec, of.netns)
	*of.made = made
	var out []byte
	if err == nil {
		out, err = c.result(of, w)
	}
	if err == nil || s.stopping(err) {
		return out, err
	}
	if made {
		s.undo(ctx, of.id(c.Name))
	}
	return nil, c.explain(err)
}

// undo takes back an ADD that failed or whose answer nobody got.
func (s *server) undo(ctx context.Context, id model.Attachment) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := s.daemon.Detach(ctx, id); err != nil {
		s.log.Warn("a failed CNI ADD is not taken back; its DEL will do it", "container", id.Container, "ifname", id.IfName, "error", err)
	}
}

func noNetns(of call) error {
	return model.Problem{Code: codeEnvironment, Reason: fmt.Sprintf("CNI_NETNS=%s was not handed over", brief(of.Netns)), Fix: "flatnet-cni opens it; is it of this release?"}
}

func (s *server) check(ctx context.Context, of call, c conf) error {
	if of.netns == nil {
		return noNetns(of)
	}
	w, err := s.daemon.Check(ctx, of.id(c.Name), of.netns)
	if err != nil {
		return err
	}
	return c.compare(of, w)
}

func (s *server) status(ctx context.Context, c conf) error {
	var names []string
	for _, n := range c.networks() {
		names = append(names, n.Network)
	}
	return s.daemon.Serves(ctx, names)
}

func (s *server) collect(ctx context.Context, name string, keys map[string]json.RawMessage) error {
	valid, err := validOf(name, keys)
	if err != nil {
		return err
	}
	return s.daemon.Collect(ctx, name, valid)
}

// validOf are the attachments that the runtime knows. That there is no such list is not the same as an empty one: libcni writes null
// for that.
func validOf(name string, keys map[string]json.RawMessage) ([]model.Attachment, error) {
	if err := checkName(name).Err(); err != nil {
		return nil, err
	}
	path := "cni.dev/valid-attachments"
	if keys[path] == nil {
		path = "cni.dev/attachments"
	}
	if keys[path] == nil {
		return nil, model.Problem{Code: codeInvalid, Path: "cni.dev/valid-attachments", Reason: "it is missing, and without it every container would lose its network", Fix: "the runtime lists what it knows"}
	}
	var list []struct{ ContainerID, IfName string }
	if err := json.Unmarshal(keys[path], &list); err != nil {
		return nil, model.Problem{Code: codeUnreadable, Path: path, Reason: "it is no list of attachments", Example: `[{"containerID": "c1", "ifname": "eth0"}]`}
	}
	valid := make([]model.Attachment, len(list))
	for i, a := range list {
		if a.ContainerID == "" || a.IfName == "" {
			return nil, model.Problem{Code: codeInvalid, Path: fmt.Sprintf("%s[%d]", path, i), Reason: "containerID and ifname name an attachment, and one of them is missing"}
		}
		valid[i] = model.Attachment{Config: name, Container: a.ContainerID, IfName: a.IfName}
	}
	return valid, nil
}
