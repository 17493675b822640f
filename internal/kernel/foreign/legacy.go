package foreign

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ip_tables, the older of the two: each table is one block of entries, chains follow each other (linux/netfilter_ipv4/ip_tables.h
// and its IPv6 twin). A jump names the offset of a chain's first entry.

const (
	getInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	getEntries = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES
	infoLen    = 84 // struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
	tableName  = 32 // XT_TABLE_MAXNAMELEN
	headLen    = 40 // struct ipt_get_entries up to its entries
	xtHeadLen  = 32 // struct xt_entry_match and xt_entry_target up to their data
	xtNameLen  = 29 // XT_EXTENSION_MAXNAMELEN
	errorName  = 30 // XT_FUNCTION_MAXNAMELEN
)

// layout is where the parts of an entry lie.
type layout struct {
	family   string
	names    string // file under /proc/…/net that lists the tables that exist
	domain   int
	level    int
	addr     int // length of an address
	proto    int // offsets within the entry
	flags    int
	target   int // target_offset, next_offset behind it
	elements int
}

func layouts() []layout {
	return []layout{
		{family: "ip", names: "ip_tables_names", domain: unix.AF_INET, level: unix.IPPROTO_IP, addr: 4, proto: 80, flags: 82, target: 88, elements: 112},
		{family: "ip6", names: "ip6_tables_names", domain: unix.AF_INET6, level: unix.IPPROTO_IPV6, addr: 16, proto: 128, flags: 131, target: 140, elements: 168},
	}
}

// legacyHooks are the hooks by number, with the priority of each table at them (linux/netfilter_ipv4.h).
var legacyHooks = [...]string{"prerouting", "input", "forward", "output", "postrouting"}

func legacyPriority(table string, hook int) int {
	switch table {
	case "raw":
		return -300
	case "mangle":
		return -150
	case "nat":
		if hook == 0 || hook == 3 { // prerouting, output
			return natPriority
		}
		return 100
	case "security":
		return 50
	}
	return 0
}

// readLegacy reads the tables that exist. Asking for one that doesn't would make it.
func readLegacy() ([]Chain, error) {
	var all []Chain
	for _, l := range layouts() {
		names, err := os.ReadFile("/proc/thread-self/net/" + l.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, table := range strings.Fields(string(names)) {
			chains, err := l.read(table)
			if err != nil {
				return nil, fmt.Errorf("read table %s %s: %w", l.family, table, err)
			}
			all = append(all, chains...)
		}
	}
	return all, nil
}

func (l layout) read(table string) ([]Chain, error) {
	fd, err := unix.Socket(l.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for range reads {
		info := make([]byte, infoLen)
		copy(info[:tableName-1], table)
		if err := getsockopt(fd, l.level, getInfo, info); err != nil {
			return nil, err
		}
		size := binary.NativeEndian.Uint32(info[infoLen-4:])
		block := make([]byte, headLen+int(size))
		copy(block[:tableName-1], table)
		binary.NativeEndian.PutUint32(block[tableName:], size)
		err := getsockopt(fd, l.level, getEntries, block)
		if errors.Is(err, unix.EAGAIN) { // it grew meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		return l.parse(table, info, block[headLen:]), nil
	}
	return nil, unix.EAGAIN
}

func getsockopt(fd, level, name int, b []byte) error {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// entry is one rule of a block.
type entry struct {
	at     int
	bytes  []byte
	target string
	data   []byte // of the target
}

// parse reads a block; it ends at the first entry that is cut short.
func (l layout) parse(table string, info, block []byte) []Chain {
	starts, ends := hookBounds(info)
	entries := l.entries(block)
	chainAt := map[int]string{} // names of chains by the offset of their first entry
	for _, e := range entries {
		if e.target == "ERROR" {
			chainAt[e.at+len(e.bytes)] = cut(e.data, errorName)
		}
	}
	var chains []Chain
	var current *Chain
	end := -1
	for _, e := range entries {
		if hook, ok := starts[e.at]; ok {
			chains = append(chains, Chain{Legacy: true, Family: l.family, Table: table, Name: strings.ToUpper(legacyHooks[hook]),
				Hook: legacyHooks[hook], Priority: legacyPriority(table, hook)})
			current, end = &chains[len(chains)-1], ends[hook]
		} else if name, ok := chainAt[e.at]; ok && e.target != "ERROR" {
			chains = append(chains, Chain{Legacy: true, Family: l.family, Table: table, Name: name})
			current, end = &chains[len(chains)-1], -1
		}
		if e.target == "ERROR" || current == nil {
			continue
		}
		r := l.rule(e, chainAt)
		if e.at == end {
			current.Drops = r.Verdict.Kind == Drop
			continue
		}
		current.Rules = append(current.Rules, r)
	}
	return chains
}

// hookBounds are the hooks by the offset of their first entry, and the offsets of their policies by hook.
func hookBounds(info []byte) (starts map[int]int, ends [len(legacyHooks)]int) {
	starts = map[int]int{}
	valid := binary.NativeEndian.Uint32(info[tableName:])
	for h := range legacyHooks {
		if valid&(1<<h) != 0 {
			starts[int(binary.NativeEndian.Uint32(info[tableName+4+4*h:]))] = h
			ends[h] = int(binary.NativeEndian.Uint32(info[tableName+24+4*h:]))
		}
	}
	return starts, ends
}

func (l layout) entries(block []byte) []entry {
	var all []entry
	for at := 0; at+l.elements <= len(block); {
		targetAt := int(binary.NativeEndian.Uint16(block[at+l.target:]))
		next := int(binary.NativeEndian.Uint16(block[at+l.target+2:]))
		if targetAt < l.elements || next < targetAt+xtHeadLen || at+next > len(block) {
			break
		}
		b := block[at : at+next]
		all = append(all, entry{at: at, bytes: b, target: cut(b[targetAt+2:], xtNameLen), data: b[targetAt+xtHeadLen:]})
		at += next
	}
	return all
}

func cut(b []byte, n int) string {
	s, _, _ := strings.Cut(string(b[:min(n, len(b))]), "\x00")
	return s
}

// rule translates an entry: its own part, its matches, its target.
func (l layout) rule(e entry, chainAt map[int]string) Rule {
	var r Rule
	words := l.ownPart(e, &r)
	targetAt := int(binary.NativeEndian.Uint16(e.bytes[l.target:]))
	for at := l.elements; at+xtHeadLen <= targetAt; {
		size := int(binary.NativeEndian.Uint16(e.bytes[at:]))
		if size < xtHeadLen || at+size > targetAt {
			break
		}
		m := match{Name: cut(e.bytes[at+2:], xtNameLen), Revision: uint32(e.bytes[at+31]), Info: e.bytes[at+xtHeadLen : at+size]}
		r.Conditions = append(r.Conditions, Condition{Op: XT, Match: m})
		words = append(words, m.text())
		at += size
	}
	words = append(words, l.targetPart(e, &r, chainAt))
	r.Text = strings.Join(nonEmpty(words...), " ")
	return r
}

// Bits of an entry's invflags and flags (IPT_INV_…, IPT_F_…), the same for IPv6.
const (
	invIn    = 0x01
	invOut   = 0x02
	invSrc   = 0x08
	invDst   = 0x10
	invProto = 0x40
	flagGoto = 0x02 // IPv6: 0x04
	flagFrag = 0x01 // IPv6: proto is set
)

// ownPart is what every entry compares: addresses, links, protocol.
func (l layout) ownPart(e entry, r *Rule) []string {
	b, n := e.bytes, l.addr
	inv := b[l.flags+1]
	links := 4 * n
	offset := map[bool]int{true: 8, false: 12}[n == 16]
	words := []string{
		r.compare("-s", Load{From: FromPayload, Key: unix.NFT_PAYLOAD_NETWORK_HEADER, Offset: offset, Len: n}, b[:n], b[2*n:3*n], inv&invSrc != 0),
		r.compare("-d", Load{From: FromPayload, Key: unix.NFT_PAYLOAD_NETWORK_HEADER, Offset: offset + n, Len: n}, b[n:2*n], b[3*n:4*n], inv&invDst != 0),
		r.compare("-i", Load{From: FromMeta, Key: unix.NFT_META_IIFNAME, Len: 16}, b[links:links+16], b[links+32:links+48], inv&invIn != 0),
		r.compare("-o", Load{From: FromMeta, Key: unix.NFT_META_OIFNAME, Len: 16}, b[links+16:links+32], b[links+48:links+64], inv&invOut != 0),
	}
	if proto := binary.NativeEndian.Uint16(b[l.proto:]); proto != 0 {
		words = append(words, r.compare("-p", Load{From: FromMeta, Key: unix.NFT_META_L4PROTO, Len: 1}, []byte{byte(proto)}, []byte{0xff}, inv&invProto != 0))
	}
	if l.addr == 4 && b[l.flags]&flagFrag != 0 {
		r.Conditions = append(r.Conditions, Condition{Op: Opaque})
		words = append(words, "-f")
	}
	return words
}

// compare adds a comparison under a mask, if the mask is not empty, and returns it in iptables' words.
func (r *Rule) compare(word string, l Load, value, mask []byte, invert bool) string {
	if strings.Trim(string(mask), "\x00") == "" {
		return ""
	}
	c := Condition{Loads: []Load{l}, Mask: mask, Value: make([]byte, len(value))}
	for i := range value {
		c.Value[i] = value[i] & mask[i]
	}
	if invert {
		c.Op = NotEqual
		word = "! " + word
	}
	r.Conditions = append(r.Conditions, c)
	return word + " " + maskedText(l, c.Value, mask)
}

func maskedText(l Load, value, mask []byte) string {
	switch {
	case l.From == FromPayload:
		addr, _ := netip.AddrFromSlice(value)
		if bits := prefixBits(mask); bits >= 0 && bits < addr.BitLen() {
			return netip.PrefixFrom(addr, bits).String()
		}
		return addr.String()
	case l.Len == 16:
		name := strings.TrimRight(string(value), "\x00")
		if compared := strings.Count(string(mask), "\xff"); compared <= len(name) {
			name += "+"
		}
		return name
	}
	return protoText(value[0])
}

func (l layout) targetPart(e entry, r *Rule, chainAt map[int]string) string {
	if e.target != "" {
		r.Verdict, r.Marks = targetVerdict(e.target)
		r.Translates = translates(e.target)
		return "-j " + e.target
	}
	if len(e.data) < 4 {
		r.Verdict = Verdict{Kind: Unknown}
		return ""
	}
	switch code := int32(binary.NativeEndian.Uint32(e.data)); {
	case code >= 0:
		return l.jumpPart(e, r, int(code), chainAt)
	case code == -nfDrop-1:
		r.Verdict = Verdict{Kind: Drop}
		return "-j DROP"
	case code == -nfAccept-1:
		r.Verdict = Verdict{Kind: Accept}
		return "-j ACCEPT"
	case code == -nfQueue-1:
		r.Verdict = Verdict{Kind: Unknown}
		return "-j QUEUE"
	}
	r.Verdict = Verdict{Kind: Return}
	return "-j RETURN"
}

// jumpPart is a jump to a chain, or to the next entry: a rule without a target.
func (l layout) jumpPart(e entry, r *Rule, to int, chainAt map[int]string) string {
	name, ok := chainAt[to]
	if !ok {
		return ""
	}
	r.Verdict = Verdict{Kind: Jump, Target: name}
	bit := byte(flagGoto)
	if l.addr == 16 {
		bit = 0x04 // IP6T_F_GOTO
	}
	if e.bytes[l.flags]&bit != 0 {
		r.Verdict.Kind = Goto
		return "-g " + name
	}
	return "-j " + name
}
