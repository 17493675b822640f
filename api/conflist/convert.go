package conflist

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
)

// Host is what the machine adds to a configuration.
type Host struct {
	SubnetEnv []byte // /run/flannel/subnet.env; nil: there is none
}

// Conversion is a configuration in flatnet's words.
type Conversion struct {
	Manifests []api.Manifest
	Conflist  []byte // the runtime's configuration with flatnet in place, ending in a newline
	Notes     []Note // in the order in which the settings are read
}

// conversion is one under way.
type conversion struct {
	notes
	list    List
	name    string // of the configuration
	host    Host
	network api.NetworkSpec
	part    part
	behind  []json.RawMessage // plugins that go on after flatnet's
	beyond  []Note            // routes that a default route makes needless
	main    string            // the plugin that makes the link, once it was met
}

// Convert says a configuration in flatnet's words. The error is an *api.Error: the text is none, or nothing here is like it.
func Convert(text []byte, host Host) (Conversion, error) {
	list, err := Parse(text)
	if err != nil {
		return Conversion{}, err
	}
	c := &conversion{list: list, name: list.Name, host: host}
	if _, is := list.Flatnet(); is {
		return Conversion{}, api.Fail(api.ExitUsage, api.Problem{Code: CodeNoEqual, Path: "plugins", Reason: "flatnet is in that configuration already", Fix: "nothing is to be done"})
	}
	for i, p := range list.Plugins {
		path := fmt.Sprintf("plugins[%d]", i)
		if list.Single {
			path = ""
		}
		c.plugin(p, object{p.keys, path, &c.notes})
	}
	if c.main == "" && len(c.problems) == 0 {
		c.noEqual("plugins", fmt.Sprintf("none of %s makes a network", strings.Join(list.Types(), ", ")), "convert the configuration that has the bridge, flannel, ptp, macvlan or Calico plugin")
	}
	if len(c.problems) > 0 {
		return Conversion{}, api.Fail(api.ExitUsage, c.problems...)
	}
	return c.done(), nil
}

func (c *conversion) noEqual(path, reason, fix string) {
	c.problems = append(c.problems, api.Problem{Code: CodeNoEqual, Path: path, Reason: reason, Fix: fix})
}

// plugin reads one. Those that make a link become the network; the others are part of flatnet, or stay behind it.
func (c *conversion) plugin(p Plugin, o object) {
	makes := map[string]func(object) api.NetworkSpec{
		"bridge": c.bridge, "flannel": c.flannel, "ptp": c.ptp, "macvlan": c.macvlan, "ipvlan": c.ipvlan, "calico": c.calico,
	}
	joins := map[string]func(object){"portmap": c.portmap, "bandwidth": c.bandwidth, "firewall": c.firewall, "loopback": c.loopback, "dnsname": c.dnsname}
	if read, is := makes[p.Type]; is {
		if c.main != "" {
			c.noEqual(o.at("type"), fmt.Sprintf("a second link, of plugin %s, beside that of %s", p.Type, c.main), "convert them one by one; flatnet makes several links in one ADD: networks")
			return
		}
		c.main = p.Type
		capabilities := o.object("capabilities")
		c.network = read(o)
		c.resolvers(o)
		c.capabilities(capabilities)
		o.rest()
		return
	}
	if read, is := joins[p.Type]; is {
		c.capabilities(o.object("capabilities"))
		read(o)
		o.rest()
		return
	}
	if slices.Contains([]string{"vlan", "host-device", "tap", "dummy", "vrf"}, p.Type) {
		c.noEqual(o.at("type"), fmt.Sprintf("flatnet has nothing like plugin %s", p.Type), "leave that configuration in its place")
		return
	}
	c.stays(p, o)
}

// stays keeps a plugin that works on whatever link is there.
func (c *conversion) stays(p Plugin, o object) {
	if p.Type == "tuning" {
		o.object("capabilities").drop("mac")
		if len(o.keys) == 0 {
			return // podman's, by which a container gets its MAC
		}
	}
	c.behind = append(c.behind, p.raw)
	if slices.Contains([]string{"tuning", "sbr"}, p.Type) {
		return
	}
	c.note(o.at("type"), "flatnet knows nothing of plugin %q; it stays where it is, behind flatnet", p.Type)
}

// capabilities are all ours already; others are noted.
func (c *conversion) capabilities(o object) {
	o.drop(Capabilities()...)
	for key, v := range o.keys {
		if on, is := v.(bool); is && !on {
			o.drop(key)
		}
	}
	if o.has("io.kubernetes.cri.pod-annotations") {
		o.says("io.kubernetes.cri.pod-annotations", "flatnet does not ask for a pod's annotations")
	}
	o.rest()
}

// resolvers stay the plugin's, as runtimes hand them on.
func (c *conversion) resolvers(o object) {
	dns := o.object("dns")
	if len(dns.keys) > 0 {
		c.part.DNS = maps.Clone(dns.keys)
	}
	for i, word := range dns.words("nameservers") {
		if _, err := netip.ParseAddr(word); err != nil {
			c.bad(fmt.Sprintf("%s[%d]", dns.at("nameservers"), i), fmt.Sprintf("%q is no address", word), "10.1.0.53")
		}
	}
	dns.text("domain")
	dns.words("search")
	dns.words("options")
	for key := range dns.keys {
		delete(c.part.DNS, key)
	}
	dns.rest()
}

// done puts the pieces together.
func (c *conversion) done() Conversion {
	name := c.networkName()
	if !c.leads() {
		for _, n := range c.beyond {
			c.note(n.Path, "%s: there is no such route: containers on a network of mode %s reach only who is on it", n.Text, c.network.Mode)
		}
	}
	if c.main != "flannel" { // whose network may have another name here: the only one of the cluster is found without
		c.part.Network = name
	}
	c.part.Type, c.part.Capabilities = PluginType, Settings{}.part().Capabilities
	w := wire{CNIVersion: Version, Name: c.configName(), Plugins: append([]json.RawMessage{raw(c.part)}, c.behind...)}
	if len(c.behind) == 0 { // those that stay may be of a distribution whose plugins do not know the new one
		w.CNIVersions = []string{Version, NewVersion}
	}
	w.DisableCheck, w.DisableGC, w.Args = c.list.rest["disableCheck"], c.list.rest["disableGC"], c.list.rest["args"]
	network := c.network
	manifest := api.Manifest{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: name}, Network: &network}
	c.lists()
	return Conversion{Manifests: []api.Manifest{manifest}, Conflist: w.text(), Notes: c.notes.list}
}

func (c *conversion) leads() bool {
	return slices.Contains([]string{"", "nat", "routed", "bridged", "cluster"}, c.network.Mode)
}

// lists notes what a list says beside its plugins.
func (c *conversion) lists() {
	if c.list.Single {
		return
	}
	o := object{c.list.rest, "", &c.notes}
	o.drop("cniVersion", "cniVersions", "name", "plugins", "disableCheck", "disableGC", "args")
	o.says("loadOnlyInlinedPlugins", "there are no plugins in files of their own")
	o.rest()
}

// configName is the name that the configuration has, if CNI allows it.
func (c *conversion) configName() string {
	if name := c.networkName(); strings.TrimLeft(c.name, allowed) != "" || c.name == "" || c.name[0] != name[0] {
		return name
	}
	return c.name
}

const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"

// networkName is the configuration's name, as far as a network can have it.
func (c *conversion) networkName() string {
	const most = 63
	ok := func(r rune) rune {
		if strings.ContainsRune(allowed, r) {
			return r
		}
		return '-'
	}
	name := strings.TrimLeft(strings.Map(ok, c.name), "_.-")
	name = name[:min(len(name), most)]
	if name == "" {
		return "cni"
	}
	return name
}
