package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// conf is a network configuration with what the runtime adds to it for one call. docs/reference/cni.md explains each key.
type conf struct {
	// CNI's own
	CNIVersion    string          `json:"cniVersion"`
	Name          string          `json:"name"`
	Type          string          `json:"type"`
	Capabilities  map[string]bool `json:"capabilities"`
	DNS           dns             `json:"dns"`
	IPMasq        bool            `json:"ipMasq"`
	IPAM          json.RawMessage `json:"ipam"`
	DisableCheck  bool            `json:"disableCheck"`
	DisableGC     bool            `json:"disableGC"`
	RuntimeConfig runtimeConfig   `json:"runtimeConfig"`
	Args          json.RawMessage `json:"args"`
	PrevResult    json.RawMessage `json:"prevResult"`

	ValidAttachments json.RawMessage `json:"cni.dev/valid-attachments"`
	Attachments      json.RawMessage `json:"cni.dev/attachments"` // libcni's twin of it

	// ours: those of one attachment, or Networks
	Network         string            `json:"network"`
	IPs             []string          `json:"ips"`
	MAC             string            `json:"mac"`
	GatewayPriority int               `json:"gatewayPriority"`
	Labels          map[string]string `json:"labels"`
	Bandwidth       *api.Bandwidth    `json:"bandwidth"`
	Networks        []json.RawMessage `json:"networks"` // each a name or a network
	Socket          string            `json:"socket"`   // for flatnet-cni

	several []network // Networks, read
}

// network is one item of the key networks.
type network struct {
	Network         string            `json:"network"`
	IfName          string            `json:"ifName"`
	IPs             []string          `json:"ips"`
	MAC             string            `json:"mac"`
	GatewayPriority int               `json:"gatewayPriority"`
	Labels          map[string]string `json:"labels"`
	Bandwidth       *api.Bandwidth    `json:"bandwidth"`
	Aliases         []string          `json:"aliases"`
}

// runtimeConfig is what the runtime has to say for the capabilities that the configuration declares.
type runtimeConfig struct {
	PortMappings []portMapping   `json:"portMappings"`
	Bandwidth    *api.Bandwidth  `json:"bandwidth"`
	IPs          []string        `json:"ips"`
	IPRanges     [][]ipRange     `json:"ipRanges"`
	MAC          string          `json:"mac"`
	DNS          runtimeDNS      `json:"dns"`
	Aliases      json.RawMessage `json:"aliases"` // names; podman: names for each configuration
}

// dns is what CNI configurations and results have of resolvers.
type dns struct {
	Nameservers []string `json:"nameservers"`
	Domain      string   `json:"domain"`
	Search      []string `json:"search"`
	Options     []string `json:"options"`
}

type runtimeDNS struct {
	Servers  []string `json:"servers"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
}

// capabilities are those that runtimeConfig can have.
var capabilities = []string{"aliases", "bandwidth", "dns", "ipRanges", "ips", "mac", "portMappings"}

// keysOf are the keys of a configuration with their values as they are.
func keysOf(config []byte) (map[string]json.RawMessage, error) {
	if len(config) == 0 {
		return nil, model.Problem{Code: codeUnreadable, Reason: "standard input is empty; it should be the network configuration"}
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal(config, &keys) == nil {
		return keys, nil
	}
	return nil, unknownToo(config, api.Strict(config, &keys)).Err() // it says more, and takes longer
}

// checkOne refuses a whole list of plugins: somebody started the plugin by hand with the runtime's file.
func checkOne(keys map[string]json.RawMessage) error {
	if keys["plugins"] == nil {
		return nil
	}
	return model.Problem{Code: codeUnknownKey, Path: "plugins", Reason: "this is a list of plugins (a .conflist), and a plugin is given one item of it",
		Fix: "runtimes take the item out; by hand: cnitool, or the item with the list's cniVersion and name beside its keys", Example: `{"cniVersion": "1.0.0", "name": "pods", "type": "flatnet"}`}
}

// textOf is the text that a value is; "" when it is something else.
func textOf(value json.RawMessage) string {
	var s string
	_ = json.Unmarshal(value, &s)
	return s
}

// checkVersion refuses versions that are not spoken, and commands that a version does not have.
func checkVersion(version, command string) error {
	first := map[string]string{"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}[command]
	p := model.Problem{Code: codeVersion, Path: "cniVersion", Fix: "flatnet speaks " + strings.Join(versions, ", ")}
	switch {
	case version == "":
		p.Reason = "the configuration names no version of CNI"
		p.Example = `"cniVersion": "1.0.0"`
	case !slices.Contains(versions, version):
		p.Reason = fmt.Sprintf("CNI %s is not spoken", brief(version))
	case slices.Index(versions, version) < slices.Index(versions, first):
		p.Reason = fmt.Sprintf("CNI %s has no %s", version, command)
		p.Fix = fmt.Sprintf("%s came with CNI %s", command, first)
	default:
		return nil
	}
	return p
}

// readConf reads a configuration strictly: what flatnet would not do is refused.
func readConf(config []byte) (conf, error) {
	var c conf
	found := api.Strict(config, &c)
	if problems := unknownToo(config, found); len(problems) > 0 {
		return conf{}, problems.Err()
	}
	if len(found) > 0 { // nothing but keys that CNI may add, or in other capitals
		if err := json.Unmarshal(config, &c); err != nil {
			return conf{}, unreadable(err)
		}
	}
	if err := c.readNetworks(); err != nil {
		return conf{}, err
	}
	return c, c.check()
}

// unreadable is what encoding/json found.
func unreadable(err error) model.Problem {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return model.Problem{Code: codeUnreadable, Path: kind.Field, Reason: "it cannot be a JSON " + kind.Value}
	}
	return model.Problem{Code: codeUnreadable, Reason: err.Error()}
}

// unknownToo puts the problems of a JSON text into CNI's terms; keys that CNI may add later are none.
func unknownToo(config []byte, found []api.Problem) model.Problems {
	var out model.Problems
	for _, p := range found {
		switch {
		case p.Code == api.CodeUnknownField && (strings.HasPrefix(p.Path, "cni.dev/") || otherwiseSpelled(p.Path)):
			continue
		case p.Code == api.CodeUnknownField:
			fix, example := whatToDo(config, p)
			out = append(out, model.Problem{Code: codeUnknownKey, Path: p.Path, Fix: fix, Example: example,
				Reason: fmt.Sprintf("flatnet has no such key; its value is %s", valueAt(config, p.Path))})
		default:
			out = append(out, model.Problem{Code: codeUnreadable, Path: p.Path, Reason: p.Reason, Fix: p.Fix})
		}
	}
	return out
}

// mostNetworks is how many one ADD may name. The daemon judges each beside every other, and does nothing else meanwhile.
const mostNetworks = 64

// readNetworks reads the items of networks.
func (c *conf) readNetworks() error {
	if n := len(c.Networks); n > mostNetworks {
		return model.Problem{Code: codeInvalid, Path: "networks", Reason: fmt.Sprintf("%d networks are more than the %d that there may be", n, mostNetworks), Fix: "name fewer"}
	}
	for i, raw := range c.Networks {
		at := fmt.Sprintf("networks[%d]", i)
		var n network
		if json.Unmarshal(raw, &n.Network) != nil {
			if problems := unknownToo(raw, api.Strict(raw, &n)); len(problems) > 0 {
				return problems.Under(at).Err()
			}
		}
		c.several = append(c.several, n)
	}
	return nil
}

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`) // CNI 1.1.0, section 1 and 2

// check finds what cannot be meant.
func (c *conf) check() error {
	ps := append(checkName(c.Name), c.checkIPAM()...)
	ps = append(ps, c.checkCapabilities()...)
	ps = append(ps, checkResolvers("dns.nameservers", c.DNS.Nameservers)...)
	ps = append(ps, checkResolvers("runtimeConfig.dns.servers", c.RuntimeConfig.DNS.Servers)...)
	if c.Networks == nil {
		return ps.Err()
	}
	if c.Network != "" || c.IPs != nil || c.MAC != "" || c.GatewayPriority != 0 || c.Bandwidth != nil {
		ps = append(ps, model.Problem{Code: codeInvalid, Path: "networks", Reason: "network, ips, mac, gatewayPriority and bandwidth stand beside it",
			Fix: "put them into an item of networks", Example: `"networks": [{"network": "pods", "gatewayPriority": 10}, "storage"]`})
	}
	if len(c.several) == 0 {
		ps = append(ps, model.Problem{Code: codeInvalid, Path: "networks", Reason: "the list is empty", Fix: "name a network, or leave networks out for the default one"})
	}
	return ps.Err()
}

func checkName(name string) model.Problems {
	if namePattern.MatchString(name) {
		return nil
	}
	return model.Problems{{Code: codeInvalid, Path: "name", Reason: fmt.Sprintf("%q is no name of a network configuration", brief(name)),
		Fix: "letters, digits, _ . - and the first a letter or digit"}}
}

// checkIPAM refuses what would have another program choose addresses. An empty object is what some tools write for none.
func (c *conf) checkIPAM() model.Problems {
	var ipam map[string]any
	if c.IPAM == nil || json.Unmarshal(c.IPAM, &ipam) == nil && len(ipam) == 0 {
		return nil
	}
	return model.Problems{{Code: codeIPAM, Path: "ipam", Reason: "addresses are given by flatnet; the key's value is " + short(c.IPAM),
		Fix: "leave it out: the network's subnets say which addresses there are, \"ips\" asks for certain ones, and the capability ipRanges narrows them"}}
}

// checkCapabilities refuses a declaration that would have the runtime hand over what nobody does anything with.
func (c *conf) checkCapabilities() model.Problems {
	var ps model.Problems
	for name, on := range c.Capabilities {
		if on && !slices.Contains(capabilities, name) {
			ps = append(ps, model.Problem{Code: codeUnknownKey, Path: "capabilities." + brief(name), Reason: "flatnet has no such capability; its value is true",
				Fix: "those there are: " + strings.Join(capabilities, ", ")})
		}
	}
	slices.SortFunc(ps, func(a, b model.Problem) int { return strings.Compare(a.Path, b.Path) })
	return ps
}

// checkResolvers refuses what a container could not ask.
func checkResolvers(path string, servers []string) (ps model.Problems) {
	for i, s := range servers {
		if _, err := netip.ParseAddr(s); err != nil {
			ps = append(ps, model.Problem{Code: codeInvalid, Path: fmt.Sprintf("%s[%d]", path, i), Reason: fmt.Sprintf("%s is no address", brief(s)),
				Fix: "resolvers are named by address, as nobody could resolve their names", Example: `"192.0.2.53"`})
		}
	}
	return ps
}

// valueAt is the value that a JSON text has at a path such as networks[1].colour, for an error.
func valueAt(config []byte, path string) string {
	var v any
	_ = json.Unmarshal(config, &v) // it was read before
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i := 0
			if _, err := fmt.Sscan(step, &i); err != nil || i < 0 || i >= len(at) {
				return "unknown"
			}
			v = at[i]
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "unknown"
	}
	return short(text)
}

// short is a piece of JSON for one line of an error.
func short(raw []byte) string { return brief(string(raw)) }

// brief cuts short what nobody could have meant, for one line of an error.
func brief(s string) string {
	const most = 80
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
