package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Access is etcd's own access control (RBAC), for who sets up and runs the cluster: it needs etcd's root.
//
// A node reads everything below the root and writes below its own id only: its description, its heartbeat, its claims. It can
// therefore neither delete nor change what another node wrote, and not take a block away, as a claim that was created
// later is never before an earlier one. What etcd cannot keep a node from: claiming blocks that it does not need, writing
// nonsense below its own keys (see model.ClusterFacts), prolonging another's etcd lease, compacting the history (then others
// read everything again).
type Access struct {
	etcd *clientv3.Client
	root string
}

// Access is that of the client's own user.
func (c *Client) Access() *Access { return &Access{c.etcd, c.config.Root} }

// ServerRole is the role of who may change networks and take nodes out.
const ServerRole = "flatnet-server"

func nodeRole(node string) string { return "flatnet-node-" + node }

// AllowServer makes a user that reads and writes everything below the root: its certificate's common name.
func (a *Access) AllowServer(ctx context.Context, user string) error {
	err := a.role(ctx, ServerRole, map[string]clientv3.PermissionType{a.root: clientv3.PermissionType(clientv3.PermReadWrite)})
	if err != nil {
		return fmt.Errorf("store: etcd: allow server %q: %w", user, err)
	}
	return a.user(ctx, user, ServerRole)
}

// AllowNode makes a user of a node's id, the common name of its certificate, with what a node may do.
func (a *Access) AllowNode(ctx context.Context, node string) error {
	if err := checkID(node); err != nil {
		return err
	}
	write := clientv3.PermissionType(clientv3.PermReadWrite)
	err := a.role(ctx, nodeRole(node), map[string]clientv3.PermissionType{
		a.root: clientv3.PermissionType(clientv3.PermRead), a.root + claims + node + "/": write})
	if err == nil {
		err = a.grant(ctx, nodeRole(node), a.root+nodes+node, "", write)
	}
	if err == nil {
		err = a.grant(ctx, nodeRole(node), a.root+alive+node, "", write)
	}
	if err != nil {
		return fmt.Errorf("store: etcd: allow node %q: %w", node, err)
	}
	return a.user(ctx, node, nodeRole(node))
}

// Enable switches access control on: from then on the user root, whom a certificate with that common name makes, sets up.
func (a *Access) Enable(ctx context.Context) error {
	if _, err := a.etcd.RoleAdd(ctx, "root"); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return fmt.Errorf("store: etcd: add role root: %w", err)
	}
	if err := a.user(ctx, "root", "root"); err != nil {
		return err
	}
	if _, err := a.etcd.AuthEnable(ctx); err != nil {
		return fmt.Errorf("store: etcd: enable access control: %w", err)
	}
	return nil
}

// Forbid takes a node's user and all that it wrote away: its blocks are free at once. The node itself is to be off by then.
func (a *Access) Forbid(ctx context.Context, node string) error {
	_, err1 := a.etcd.UserDelete(ctx, node)
	_, err2 := a.etcd.RoleDelete(ctx, nodeRole(node))
	if errors.Is(err1, rpctypes.ErrUserNotFound) {
		err1 = nil
	}
	if errors.Is(err2, rpctypes.ErrRoleNotFound) {
		err2 = nil
	}
	if err := errors.Join(err1, err2, a.erase(ctx, node)); err != nil {
		return fmt.Errorf("store: etcd: forbid node %q: %w", node, err)
	}
	return nil
}

// erase deletes what a node wrote.
func (a *Access) erase(ctx context.Context, node string) error {
	_, err1 := a.etcd.Delete(ctx, a.root+claims+node+"/", clientv3.WithPrefix())
	_, err2 := a.etcd.Delete(ctx, a.root+nodes+node)
	_, err3 := a.etcd.Delete(ctx, a.root+alive+node)
	return errors.Join(err1, err2, err3)
}

// role makes a role that has these permissions on everything below these keys.
func (a *Access) role(ctx context.Context, role string, prefixes map[string]clientv3.PermissionType) error {
	if _, err := a.etcd.RoleAdd(ctx, role); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return err
	}
	for prefix, may := range prefixes {
		if err := a.grant(ctx, role, prefix, clientv3.GetPrefixRangeEnd(prefix), may); err != nil {
			return err
		}
	}
	return nil
}

func (a *Access) grant(ctx context.Context, role, key, end string, may clientv3.PermissionType) error {
	_, err := a.etcd.RoleGrantPermission(ctx, role, key, end, may)
	return err
}

func (a *Access) user(ctx context.Context, user, role string) error {
	_, err := a.etcd.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true})
	if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		return fmt.Errorf("store: etcd: add user %q: %w", user, err)
	}
	if _, err := a.etcd.UserGrantRole(ctx, user, role); err != nil {
		return fmt.Errorf("store: etcd: give user %q role %q: %w", user, role, err)
	}
	return nil
}
