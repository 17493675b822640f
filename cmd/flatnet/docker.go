package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
)

// dockerNetwork is an element of what `docker network inspect` prints (Engine API v1.41 and later).
type dockerNetwork struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       dockerIPAM
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]dockerContainer
	Options    map[string]string
	Labels     map[string]string
	Status     dockerStatus
}

type dockerIPAM struct {
	Driver  string
	Options map[string]string
	Config  []dockerSubnet
}

type dockerSubnet struct {
	Subnet             string
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:"AuxiliaryAddresses,omitempty"`
}

type dockerContainer struct {
	Name, EndpointID, MacAddress, IPv4Address, IPv6Address string
}

type dockerStatus struct {
	IPAM struct{ Subnets map[string]dockerUse }
}

type dockerUse struct {
	IPsInUse            int
	DynamicIPsAvailable float64
}

func dockerNetworks(nets []api.Network) []dockerNetwork {
	out := []dockerNetwork{}
	for _, n := range nets {
		out = append(out, dockerOf(n))
	}
	return out
}

func dockerOf(n api.Network) dockerNetwork {
	d := dockerNetwork{
		Name: n.Name, ID: n.ID, Created: n.Status.Created, Scope: "local", Driver: "bridge",
		IPAM:     dockerIPAM{Driver: "default", Options: map[string]string{}, Config: []dockerSubnet{}},
		Internal: n.Spec.Mode != "nat", Attachable: true,
		Containers: map[string]dockerContainer{}, Options: dockerOptionsOf(n), Labels: n.Labels,
	}
	if d.Labels == nil {
		d.Labels = map[string]string{}
	}
	d.Status.IPAM.Subnets = map[string]dockerUse{}
	for _, s := range n.Status.Subnets {
		if p, err := netip.ParsePrefix(s.Subnet); err == nil {
			d.EnableIPv4 = d.EnableIPv4 || p.Addr().Is4()
			d.EnableIPv6 = d.EnableIPv6 || p.Addr().Is6()
		}
		d.IPAM.Config = append(d.IPAM.Config, dockerSubnetOf(s))
		d.Status.IPAM.Subnets[s.Subnet] = dockerUse{IPsInUse: s.InUse, DynamicIPsAvailable: s.Available}
	}
	for _, e := range n.Status.Endpoints {
		d.Containers[hexID("workload/"+e.Workload)] = dockerContainerOf(e)
	}
	return d
}

func dockerSubnetOf(s api.SubnetStatus) dockerSubnet {
	d := dockerSubnet{Subnet: s.Subnet, Gateway: s.Gateway}
	if s.IPRange != s.Subnet {
		d.IPRange = s.IPRange
	}
	for _, r := range s.Reserved {
		if d.AuxiliaryAddresses == nil {
			d.AuxiliaryAddresses = map[string]string{}
		}
		d.AuxiliaryAddresses[r] = r
	}
	return d
}

func dockerContainerOf(e api.Endpoint) dockerContainer {
	c := dockerContainer{Name: e.Workload, EndpointID: hexID("endpoint/" + e.Workload + "/" + e.IfName), MacAddress: e.MAC}
	for _, ip := range e.IPs {
		if strings.Contains(ip, ":") {
			c.IPv6Address = ip
		} else {
			c.IPv4Address = ip
		}
	}
	return c
}

func dockerOptionsOf(n api.Network) map[string]string {
	o := map[string]string{}
	if n.Status.Bridge != "" {
		o["com.docker.network.bridge.name"] = n.Status.Bridge
	}
	if n.Spec.MTU != 0 {
		o["com.docker.network.driver.mtu"] = strconv.Itoa(n.Spec.MTU)
	}
	if n.Spec.IsolatePorts {
		o["com.docker.network.bridge.enable_icc"] = "false"
	}
	return o
}

// hexID is an identity of docker's form for what has only a name here.
func hexID(of string) string {
	h := sha256.Sum256([]byte(of))
	return hex.EncodeToString(h[:])
}
