package model

import "strings"

// meantMode is the mode that a word of another tool stands for, and what to say about it when that is more than the mode.
func meantMode(word string) (mode Mode, remark string) {
	word = strings.NewReplacer(" ", "", "-", "", "_", "", "(", "", ")", "").Replace(strings.ToLower(word))
	switch word {
	case "nat", "vmnet8", "natnetwork", "masquerade", "default", "user", "shared":
		return NAT, ""
	case "routed", "route", "router", "routing", "open", "l3":
		return Routed, ""
	case "bridged", "vmnet0", "macvlan", "passthrough", "l2":
		return Bridged, ""
	case "bridge":
		return Bridged, " (docker's bridge is nat)"
	case "ipvlan", "proxyarp":
		return Routed, " with proxy ARP"
	case "hostonly", "vmnet1", "hostonlynetwork":
		return HostOnly, ""
	case "internal":
		return HostOnly, " (with the host) or isolated (without)"
	case "isolated", "lansegment", "segment", "private", "intnet", "internalnetwork":
		return Isolated, ""
	case "cable", "veth", "patch":
		return Cable, ""
	case "cluster", "overlay", "vxlan", "flannel", "pod", "pods", "podnetwork", "swarm", "multihost", "manyhosts", "kubernetes", "k8s", "geneve", "calico", "weave", "cilium":
		return Cluster, ""
	case "hostgw":
		return Cluster, " with --backend host-gw"
	}
	return "", ""
}
