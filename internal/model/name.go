package model

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"
)

// MAC is an Ethernet address; the zero MAC is none.
type MAC [6]byte

func (m MAC) String() string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 3*len(m))
	for _, octet := range m {
		b = append(b, digits[octet>>4], digits[octet&15], ':')
	}
	return string(b[:len(b)-1])
}

// ParseMAC reads six hexadecimal octets separated by colons or dashes.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	octets := strings.Split(strings.ReplaceAll(s, "-", ":"), ":")
	if len(octets) != 6 {
		return m, fmt.Errorf("MAC %q: want six octets, for example 02:00:5e:10:00:01", s)
	}
	for i, o := range octets {
		n, err := fmt.Sscanf(o, "%02x", &m[i])
		if n != 1 || err != nil || len(o) != 2 || !isHex(o) {
			return MAC{}, fmt.Errorf("MAC %q: octet %q is not two hexadecimal digits", s, o)
		}
	}
	return m, nil
}

func isHex(s string) bool {
	return strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}

// LinkLocal is the IPv6 address that the kernel derives from a MAC (RFC 4291 appendix A, modified EUI-64).
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// EndpointMAC derives an endpoint's address from what it is attached to; it never changes while the names stay.
func EndpointMAC(workload, network string) MAC { return derivedMAC(0x02, "ep/"+workload+"/"+network) }

// BridgeMAC derives a bridge's own address.
func BridgeMAC(network string) MAC { return derivedMAC(0x02, "net/"+network) }

// HostSideMAC is the host end's address of an endpoint's veth: first octet fe, so that no bridge ever adopts it as its
// own (a bridge takes the lowest address of its ports).
func HostSideMAC(endpoint MAC) MAC {
	endpoint[0] = 0xfe
	return endpoint
}

// LimitLinkMAC derives the address of the link of LimitLinkName. It hangs on the same names, as that kind of link can't change it.
func LimitLinkMAC(workload, ifname string) MAC { return derivedMAC(0x02, "limit/"+workload+"/"+ifname) }

func derivedMAC(first byte, of string) MAC {
	h := sha256.Sum256([]byte(of))
	return MAC{first, h[0], h[1], h[2], h[3], h[4]}
}

// IFNAMSIZ is 16 with the closing zero: linux/if.h.
const maxLinkName = 15

// linkName is PREFIX-NAME when that fits, else a hash; the two can't collide, as the second has a dot.
func linkName(prefix, name string) string {
	if s := prefix + "-" + name; len(s) <= maxLinkName {
		return s
	}
	return hashedLinkName(prefix, name)
}

func hashedLinkName(prefix, of string) string {
	h := sha256.Sum256([]byte(of))
	return prefix + "." + strings.ToLower(base32.StdEncoding.EncodeToString(h[:])[:12])
}
