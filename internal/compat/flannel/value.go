package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// Value is what stands at a subnet's key: who holds it, and how it is reached.
type Value struct {
	PublicIP   netip.Addr
	PublicIPv6 netip.Addr // zero: none
	Type       string     // of its backend; flanneld's udp writes none
	VTEP       VTEP       // of vxlan
	VTEPv6     VTEP       // of vxlan where IPv6 is on: that of a second link
}

// VTEP is one end of flannel's VXLAN; zero: there is none.
type VTEP struct {
	VNI uint32
	MAC model.MAC // of flannel.VNI
}

// jsonValue is the JSON, its keys in the order in which flanneld writes them.
type jsonValue struct {
	PublicIP      string
	PublicIPv6    *string
	BackendType   string    `json:",omitempty"`
	BackendData   *jsonVTEP `json:",omitempty"`
	BackendV6Data *jsonVTEP `json:",omitempty"`
}

type jsonVTEP struct {
	VNI     uint32
	VtepMAC string
}

// Bytes is the value as flanneld writes it.
func (v Value) Bytes() []byte {
	j := jsonValue{PublicIP: v.PublicIP.String(), BackendType: v.Type, BackendData: v.VTEP.json(), BackendV6Data: v.VTEPv6.json()}
	if v.PublicIPv6.IsValid() {
		a := v.PublicIPv6.String()
		j.PublicIPv6 = &a
	}
	data, _ := json.Marshal(j) // strings and numbers: nothing that could fail
	return data
}

func (t VTEP) json() *jsonVTEP {
	if t == (VTEP{}) {
		return nil
	}
	return &jsonVTEP{t.VNI, t.MAC.String()}
}

// ParseValue reads a value. BackendData is looked at in those of vxlan only: others put there what they like.
func ParseValue(data []byte) (Value, error) {
	var j struct {
		PublicIP, PublicIPv6, BackendType string
		BackendData, BackendV6Data        json.RawMessage
	}
	if err := json.Unmarshal(data, &j); err != nil {
		return Value{}, plain(err)
	}
	v := Value{Type: j.BackendType}
	var err error
	if v.PublicIP, err = parsePublic("PublicIP", j.PublicIP, false); err != nil {
		return Value{}, err
	}
	if j.PublicIPv6 != "" {
		if v.PublicIPv6, err = parsePublic("PublicIPv6", j.PublicIPv6, true); err != nil {
			return Value{}, err
		}
	}
	if v.Type != VXLAN {
		return v, nil
	}
	if v.VTEP, err = parseVTEP("BackendData", j.BackendData); err != nil {
		return Value{}, err
	}
	v.VTEPv6, err = parseVTEP("BackendV6Data", j.BackendV6Data)
	return v, err
}

func parsePublic(key, s string, v6 bool) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, fmt.Errorf("%s is missing", key)
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%s: %w", key, err)
	case a.Is6() != v6 || a.Is4In6() || a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%s: %s is not a plain address of that family", key, a)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("%s: no node is reached at %s", key, a)
	}
	return a, nil
}

func parseVTEP(key string, raw json.RawMessage) (VTEP, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return VTEP{}, nil
	}
	var j jsonVTEP
	if err := json.Unmarshal(raw, &j); err != nil {
		return VTEP{}, fmt.Errorf("%s: %w", key, plain(err))
	}
	hw, err := net.ParseMAC(j.VtepMAC)
	if err != nil || len(hw) != 6 {
		return VTEP{}, fmt.Errorf("%s: VtepMAC %q is no MAC", key, clip(j.VtepMAC))
	}
	mac := model.MAC(hw)
	if mac == (model.MAC{}) || mac[0]&1 != 0 {
		return VTEP{}, fmt.Errorf("%s: VtepMAC %s is not that of one link", key, mac)
	}
	if j.VNI == 0 || j.VNI >= 1<<24 {
		return VTEP{}, fmt.Errorf("%s: VNI %d is not one of 1 to 16777215", key, j.VNI)
	}
	return VTEP{j.VNI, mac}, nil
}

// clip keeps what a stranger wrote short.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Fits says why a node's word does not fit the configuration, or nil: then the subnet can be routed to it.
func (c Config) Fits(s Subnet, v Value) error {
	if err := c.fitsSubnet(s); err != nil {
		return err
	}
	for _, r := range []Range{c.V4, c.V6} {
		for _, a := range []netip.Addr{v.PublicIP, v.PublicIPv6} {
			if a.IsValid() && r.Network.IsValid() && r.Network.Contains(a) {
				return fmt.Errorf("the node's own address %s lies in %s, which the nodes route to each other", a, r.Network)
			}
		}
	}
	if c.V6.Network.IsValid() && !v.PublicIPv6.IsValid() {
		return errors.New("PublicIPv6 is missing, and IPv6 is enabled")
	}
	return c.Backend.fits(v, c.V6.Network.IsValid())
}

func (c Config) fitsSubnet(s Subnet) error {
	if err := c.V4.fits(s.V4); err != nil {
		return err
	}
	switch on := c.V6.Network.IsValid(); {
	case on && !s.V6.IsValid():
		return errors.New("it has no IPv6 subnet, and IPv6 is enabled")
	case !on && s.V6.IsValid():
		return errors.New("it has an IPv6 subnet, and IPv6 is not enabled")
	case on:
		return c.V6.fits(s.V6)
	}
	return nil
}

func (r Range) fits(subnet netip.Prefix) error {
	switch {
	case subnet.Bits() == 0:
		return fmt.Errorf("%s is every address there is", subnet)
	case !r.Network.Overlaps(subnet):
		return fmt.Errorf("%s lies outside of %s", subnet, r.Network)
	case subnet.Bits() != r.Bits:
		return fmt.Errorf("%s is not one of the /%d that %s is cut into", subnet, r.Bits, r.Network)
	}
	return nil
}

// fits looks at the backend's part. flannel's udp takes everybody; the others only their own type.
func (b Backend) fits(v Value, v6 bool) error {
	switch {
	case b.Type != v.Type && b.Type != UDP:
		return fmt.Errorf("BackendType is %q, and the configuration's %q", clip(v.Type), b.Type)
	case b.Type != VXLAN:
		return nil
	case v.VTEP == (VTEP{}):
		return errors.New("BackendData is missing")
	case v6 && v.VTEPv6 == (VTEP{}):
		return errors.New("BackendV6Data is missing, and IPv6 is enabled")
	}
	for _, t := range []VTEP{v.VTEP, v.VTEPv6} {
		if t != (VTEP{}) && t.VNI != b.VNI {
			return fmt.Errorf("VNI is %d, and the configuration's %d", t.VNI, b.VNI)
		}
	}
	return nil
}
