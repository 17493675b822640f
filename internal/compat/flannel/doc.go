// Package flannel lets flatnetd stand beside flanneld, and take its place: it reads and writes flannel's keys in etcd, and its file
// /run/flannel/subnet.env. The keys below PREFIX, /coreos.com/network:
//
//	config                  net-conf.json: Config
//	subnets/10.5.52.0-24    who holds that subnet: Value
//
// It is not flanneld: what it does with the keys is package agent's, as with every cluster. Facts are from flannel v0.28.9; only etcd
// mode, not that of Kubernetes.
//
//	c, err := flannel.ParseConfig([]byte(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`))
//	s, err := flannel.ParseSubnet("10.5.52.0-24")
//	v, err := flannel.ParseValue(data)
//	err = c.Fits(s, v)
package flannel
