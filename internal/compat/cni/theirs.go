package cni

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// theirs are keys of other plugins, by those who document them (containernetworking/plugins, flannel-io/cni-plugin): somebody wrote "type": "flatnet"
// into a configuration of theirs, and the key that is spelt the most like it is of no help.
var theirs = map[string][]string{
	"the bridge plugin": {"bridge", "isGateway", "isDefaultGateway", "forceAddress", "hairpinMode", "promiscMode", "vlan", "vlanTrunk", "preserveDefaultVlan", "ipMasqBackend", "macspoofchk",
		"enabledad", "disableContainerInterface", "portIsolation"},
	"flannel's plugin": {"subnetFile", "dataDir", "delegate"},
	"macvlan":          {"master", "mode", "linkInContainer"},
	"an IPAM plugin":   {"subnet", "ranges", "rangeStart", "rangeEnd", "gateway", "routes"},
}

// whatToDo says it for a key that the configuration cannot have.
func whatToDo(config []byte, p api.Problem) (fix, example string) {
	if p.Path == "mtu" {
		return "it is the network's, and its containers have it", "flatnet net set " + networkIn(config) + " --mtu " + mtuIn(config)
	}
	for plugin, keys := range theirs {
		if slices.Contains(keys, p.Path) {
			return fmt.Sprintf("it is a key of %s: flatnet cni convert FILE writes a configuration of that plugin anew", plugin), ""
		}
	}
	return p.Fix, ""
}

// networkIn is the network that a configuration, or an item of networks, names.
func networkIn(config []byte) string {
	var of struct {
		Network string `json:"network"`
	}
	_ = json.Unmarshal(config, &of)
	if _, bad := model.CheckName("network", of.Network); bad {
		return "NETWORK"
	}
	return of.Network
}

func mtuIn(config []byte) string {
	var of struct {
		MTU int `json:"mtu"`
	}
	if json.Unmarshal(config, &of) != nil || of.MTU <= 0 {
		return "1400"
	}
	return strconv.Itoa(of.MTU)
}
