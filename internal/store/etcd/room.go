package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// makeRoom has an etcd that was full write again, once there is less in it: etcd refuses all writes from then on until somebody who may
// says otherwise, and only we have root's certificate. It does nothing when etcd is not full.
func (a *Admin) makeRoom(ctx context.Context) error {
	alarms, err := a.etcd.AlarmList(ctx)
	if err != nil || len(alarms.Alarms) == 0 {
		return err
	}
	now, err := a.etcd.Get(ctx, a.beside, clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if _, err := a.etcd.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	for _, server := range a.etcd.Endpoints() {
		if _, err := a.etcd.Defragment(ctx, server); err != nil {
			return fmt.Errorf("defragment %s: %w", server, err)
		}
	}
	_, err = a.etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	return err
}
