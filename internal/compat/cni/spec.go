package cni

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// The labels that a pod's container has, under the names that Kubernetes gives to containers itself.
const (
	labelPodNamespace = "io.kubernetes.pod.namespace"
	labelPodName      = "io.kubernetes.pod.name"
	labelPodUID       = "io.kubernetes.pod.uid"
)

// asked is what one call wants beyond the configuration, where there are several ways to say it: the first of them counts
// (CNI's CONVENTIONS.md).
type asked struct {
	ips    []string
	mac    string
	labels map[string]string
}

// argsCNI is the key args.cni, of which anything may be ignored.
type argsCNI struct {
	CNI struct {
		IPs    []string `json:"ips"`
		MAC    string   `json:"mac"`
		Labels []struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		} `json:"labels"`
	} `json:"cni"`
}

// spec is the workload that an ADD asks for: with the endpoints of this attachment only.
func (c *conf) spec(of call) (api.WorkloadSpec, error) {
	a, err := c.asked(of.args)
	if err != nil {
		return api.WorkloadSpec{}, err
	}
	publish, err := c.publish()
	if err != nil {
		return api.WorkloadSpec{}, err
	}
	endpoints, err := c.endpoints(of, a)
	if err != nil {
		return api.WorkloadSpec{}, err
	}
	labels, err := c.labels(of.args, a)
	if err != nil {
		return api.WorkloadSpec{}, err
	}
	return api.WorkloadSpec{Name: podName(of.args), Netns: of.Netns, Labels: labels, Endpoints: endpoints, Publish: publish}, nil
}

// podName is what a pod's workload is called; "" has the daemon find a name. Podman tells a container's name in this way, without a
// namespace.
func podName(a args) string {
	if a.PodNamespace == "" || a.PodName == "" {
		return a.PodName
	}
	return a.PodNamespace + "." + a.PodName
}

func (c *conf) asked(env args) (asked, error) {
	var more argsCNI
	if c.Args != nil {
		if err := json.Unmarshal(c.Args, &more); err != nil {
			problem := unreadable(err)
			problem.Path = strings.TrimSuffix("args."+problem.Path, ".")
			return asked{}, problem
		}
	}
	a := asked{ips: env.IPs, mac: env.MAC, labels: map[string]string{}}
	if len(more.CNI.IPs) > 0 {
		a.ips = more.CNI.IPs
	}
	if more.CNI.MAC != "" {
		a.mac = more.CNI.MAC
	}
	if len(c.RuntimeConfig.IPs) > 0 {
		a.ips = c.RuntimeConfig.IPs
	}
	if c.RuntimeConfig.MAC != "" {
		a.mac = c.RuntimeConfig.MAC
	}
	for _, l := range more.CNI.Labels {
		a.labels[l.Key] = l.Value
	}
	return a, nil
}

// networks are the networks to attach to: at least one.
func (c *conf) networks() []network {
	if c.several != nil {
		return c.several
	}
	return []network{{Network: c.Network, IPs: c.IPs, MAC: c.MAC, GatewayPriority: c.GatewayPriority, Bandwidth: c.Bandwidth}}
}

// endpoints are those of all networks. What the runtime asks for is for the first, whose link the runtime names.
func (c *conf) endpoints(of call, a asked) ([]api.EndpointSpec, error) {
	var list []api.EndpointSpec
	for i, n := range c.networks() {
		ips, err := addresses(n.IPs, c.path(i, "ips"))
		if err != nil {
			return nil, err
		}
		list = append(list, api.EndpointSpec{Network: n.Network, IfName: n.IfName, MAC: n.MAC, IPs: ips,
			Priority: n.GatewayPriority, Bandwidth: n.Bandwidth, Aliases: n.Aliases})
	}
	if err := c.nameFirst(&list[0], of); err != nil {
		return nil, err
	}
	return list, c.refine(&list[0], a)
}

// nameFirst gives the first link the name that the runtime wants, unless a plugin before this one has made a link of that name.
func (c *conf) nameFirst(first *api.EndpointSpec, of call) error {
	before, err := c.previous()
	if err != nil {
		return err
	}
	switch taken := linksIn(before, of.Netns); {
	case taken[of.IfName] && first.IfName == "":
		for i := 1; first.IfName == "" || taken[first.IfName]; i++ {
			first.IfName = fmt.Sprintf("net%d", i)
		}
	case taken[of.IfName]:
	case first.IfName != "" && first.IfName != of.IfName:
		return model.Problem{Code: codeInvalid, Path: c.path(0, "ifName"), Reason: fmt.Sprintf("the runtime calls the first link %s, not %s", of.IfName, brief(first.IfName)),
			Fix: "leave ifName out of the first network"}
	default:
		first.IfName = of.IfName
	}
	return nil
}

// linksIn are the links that a result has in a namespace.
func linksIn(r *current.Result, sandbox string) map[string]bool {
	names := map[string]bool{}
	if r != nil {
		for _, link := range r.Interfaces {
			names[link.Name] = names[link.Name] || link.Sandbox == sandbox
		}
	}
	return names
}

// refine adds what the runtime asks for to the first endpoint.
func (c *conf) refine(first *api.EndpointSpec, a asked) error {
	if len(a.ips) > 0 {
		ips, err := addresses(a.ips, "ips")
		if err != nil {
			return err
		}
		first.IPs = ips
	}
	if a.mac != "" {
		first.MAC = a.mac
	}
	if c.RuntimeConfig.Bandwidth != nil {
		first.Bandwidth = withoutFilledIn(*c.RuntimeConfig.Bandwidth)
	}
	ranges, err := c.ranges()
	if err != nil {
		return err
	}
	first.IPRanges = ranges
	aliases, err := c.aliases()
	first.Aliases = append(first.Aliases, aliases...)
	return err
}

// path names a key of one of the networks, as the configuration has it.
func (c *conf) path(i int, key string) string {
	if c.several == nil {
		return key
	}
	return fmt.Sprintf("networks[%d].%s", i, key)
}

// addresses are IPs that may be written with a prefix length, which the network knows better.
func addresses(texts []string, path string) ([]string, error) {
	var list []string
	for i, text := range texts {
		ip, bits, _ := strings.Cut(text, "/")
		addr, err := netip.ParseAddr(ip)
		if err == nil && bits != "" {
			_, err = netip.ParsePrefix(text)
		}
		if err != nil || addr.Zone() != "" {
			return nil, model.Problem{Code: codeInvalid, Path: fmt.Sprintf("%s[%d]", path, i), Reason: fmt.Sprintf("%q is no IP address", brief(text)), Example: "10.244.1.7"}
		}
		list = append(list, addr.Unmap().String())
	}
	return list, nil
}

// labels are the workload's: the configuration's, those that the runtime adds, and which pod it is.
func (c *conf) labels(env args, a asked) (map[string]string, error) {
	all := map[string]string{}
	for i, n := range append([]network{{Labels: c.Labels}}, c.several...) {
		for k, v := range n.Labels {
			if before, twice := all[k]; twice && before != v {
				return nil, model.Problem{Code: codeInvalid, Path: c.path(i-1, "labels"), Reason: fmt.Sprintf("label %q has two values: a container has one set of labels", brief(k)), Fix: "give it once"}
			}
			all[k] = v
		}
	}
	maps.Copy(all, a.labels)
	for k, v := range map[string]string{labelPodNamespace: env.PodNamespace, labelPodName: env.PodName, labelPodUID: env.PodUID} {
		if v != "" {
			all[k] = v
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// aliases are the container's further names. Podman sends those of all its networks, each under a configuration's name.
func (c *conf) aliases() ([]string, error) {
	raw := c.RuntimeConfig.Aliases
	if raw == nil {
		return nil, nil
	}
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		return list, nil
	}
	var each map[string][]string
	if err := json.Unmarshal(raw, &each); err != nil {
		return nil, model.Problem{Code: codeUnreadable, Path: "runtimeConfig.aliases", Reason: "want a list of names, not " + short(raw)}
	}
	return each[c.Name], nil
}
