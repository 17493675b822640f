package kernel

import (
	"strconv"
	"strings"
)

// The places of a link's sysctls in its messages; linux/ip.h IPV4_DEVCONF_* less one, linux/ipv6.h DEVCONF_*. Those whose
// file shows another unit than the message are left out.
var (
	confPlaces4 = map[string]int{
		"forwarding": 0, "proxy_arp": 2, "accept_redirects": 3, "secure_redirects": 4, "send_redirects": 5, "shared_media": 6,
		"rp_filter": 7, "accept_source_route": 8, "bootp_relay": 9, "log_martians": 10, "tag": 11, "arp_filter": 12,
		"medium_id": 13, "disable_xfrm": 14, "disable_policy": 15, "force_igmp_version": 16, "arp_announce": 17,
		"arp_ignore": 18, "promote_secondaries": 19, "arp_accept": 20, "arp_notify": 21, "accept_local": 22, "src_valid_mark": 23,
		"proxy_arp_pvlan": 24, "route_localnet": 25, "ignore_routes_with_linkdown": 28, "drop_unicast_in_l2_multicast": 29,
		"drop_gratuitous_arp": 30, "bc_forwarding": 31, "arp_evict_nocarrier": 32,
	}
	confPlaces6 = map[string]int{
		"forwarding": 0, "hop_limit": 1, "mtu": 2, "accept_ra": 3, "accept_redirects": 4, "autoconf": 5, "dad_transmits": 6,
		"router_solicitations": 7, "use_tempaddr": 10, "max_addresses": 15, "force_mld_version": 16, "accept_ra_defrtr": 17,
		"accept_ra_pinfo": 18, "accept_ra_rtr_pref": 19, "proxy_ndp": 22, "accept_source_route": 24, "disable_ipv6": 26,
		"accept_dad": 27, "force_tllao": 28, "ndisc_notify": 29, "suppress_frag_ndisc": 32, "accept_ra_from_local": 33,
		"accept_ra_mtu": 35, "use_oif_addrs_only": 37, "accept_ra_min_hop_limit": 38, "ignore_routes_with_linkdown": 39,
		"drop_unicast_in_l2_multicast": 40, "drop_unsolicited_na": 41, "keep_addr_on_down": 42,
	}
)

// confName splits net/ipv4/conf/LINK/KEY; ok is false for other names, and for the links "all" and "default", which are none.
func confName(name string) (link, key string, v6, ok bool) {
	rest, v4 := strings.CutPrefix(name, "net/ipv4/conf/")
	if !v4 {
		if rest, v6 = strings.CutPrefix(name, "net/ipv6/conf/"); !v6 {
			return "", "", false, false
		}
	}
	link, key, ok = strings.Cut(rest, "/")
	return link, key, v6, ok && link != "all" && link != "default"
}

// confPlace says where a value of a link stands.
type confPlace struct {
	v6, genMode bool
	at          int
}

// placeOf is the place of a key; ok is false when links' messages do not have it.
func placeOf(key string, v6 bool) (p confPlace, ok bool) {
	if v6 && key == "addr_gen_mode" {
		return confPlace{v6: true, genMode: true}, true
	}
	places := confPlaces4
	if v6 {
		places = confPlaces6
	}
	at, ok := places[key]
	return confPlace{v6: v6, at: at}, ok
}

// value reads a sysctl from a link's message; ok is false when the link has none, for example with IPv6 off.
func (c conf) value(p confPlace) (string, bool) {
	if p.genMode {
		return strconv.Itoa(int(c.addrGenMode.Uint8())), len(c.addrGenMode) > 0
	}
	array := c.v4
	if p.v6 {
		array = c.v6
	}
	v, ok := array.Uint32At(p.at)
	if !ok {
		return "", false
	}
	return strconv.Itoa(int(int32(v))), true
}

// acceptRA is net.ipv6.conf.LINK.accept_ra, -1 without IPv6.
func (c conf) acceptRA() int {
	v, ok := c.v6.Uint32At(confPlaces6["accept_ra"])
	if !ok {
		return -1
	}
	return int(int32(v))
}

// rpFilter is net.ipv4.conf.LINK.rp_filter of the link alone.
func (c conf) rpFilter() int {
	v, _ := c.v4.Uint32At(confPlaces4["rp_filter"])
	return int(v)
}
