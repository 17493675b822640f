package foreign

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// Verdicts' numbers (linux/netfilter.h).
const (
	nfDrop   = 0
	nfAccept = 1
	nfQueue  = 3
)

const natSource = 0 // NFT_NAT_SNAT

// compiler turns the expressions of one rule, which pass values through registers, into conditions.
type compiler struct {
	family    uint8
	set       func(name string) *Set
	registers map[uint32]slot // by the first of their 4-byte registers
	rule      Rule
	text      []string
}

// slot is what a register holds.
type slot struct {
	load Load
	mask []byte
}

// compile never fails: what it does not understand becomes an opaque condition, which may hold or not.
func (c *compiler) compile(expressions []byte) Rule {
	c.registers = map[uint32]slot{}
	for e := range nfnl.Attrs(expressions) {
		name := nfnl.Get(e.Value, unix.NFTA_EXPR_NAME).String()
		c.expression(name, nfnl.Get(e.Value, unix.NFTA_EXPR_DATA).Value)
	}
	c.rule.Text = strings.Join(c.text, " ")
	return c.rule
}

func (c *compiler) expression(name string, d []byte) {
	switch name {
	case "meta":
		c.meta(d)
	case "payload":
		c.payload(d)
	case "ct":
		c.conntrack(d)
	case "fib":
		c.fib(d)
	case "cmp":
		c.compare(d)
	case "range":
		c.between(d)
	case "bitwise":
		c.bitwise(d)
	case "lookup":
		c.lookup(d)
	case "immediate":
		c.immediate(d)
	case "match":
		c.xtMatch(d)
	case "target":
		c.xtTarget(d)
	case "reject":
		c.verdict(Verdict{Kind: Drop}, "reject")
	case "queue":
		c.verdict(Verdict{Kind: Unknown}, "queue")
	case "nat", "masq", "redir", "tproxy", "synproxy":
		c.rule.Translates = name == "masq" || name == "nat" && nfnl.Get(d, unix.NFTA_NAT_TYPE).Uint32() == natSource
		c.verdict(Verdict{Kind: Accept}, name)
	case "counter", "log", "notrack", "dup", "last":
		c.text = append(c.text, name)
	case "objref", "flow_offload", "dynset":
		c.text = append(c.text, name) // a quota or a full set could stop the rule
		c.opaque("")
	case "byteorder", "exthdr", "hash", "numgen", "rt", "socket", "osf", "tunnel", "xfrm", "inner":
		c.forget(d)
	default: // limit, connlimit, quota and what is not known yet
		c.opaque(name)
	}
}

func (c *compiler) opaque(word string) {
	if word != "" {
		c.text = append(c.text, word)
	}
	c.rule.Conditions = append(c.rule.Conditions, Condition{Op: Opaque})
}

func (c *compiler) verdict(v Verdict, word string) {
	c.rule.Verdict = v
	c.text = append(c.text, word)
}

// register is the number of the 4-byte register where a register begins: the first four numbers mean 16 bytes each.
func register(n uint32) uint32 {
	if n < unix.NFT_REG32_00 {
		return (n - unix.NFT_REG_1) * 4
	}
	return n - unix.NFT_REG32_00
}

func (c *compiler) store(reg uint32, l Load) { c.registers[register(reg)] = slot{load: l} }

// forget marks the destination of an expression that isn't understood. All of these have it in one of their first attributes.
func (c *compiler) forget(d []byte) {
	for a := range nfnl.Attrs(d) {
		if n := a.Uint32(); n >= unix.NFT_REG_1 && n < unix.NFT_REG32_00+16 {
			c.store(n, Load{Len: 64})
		}
	}
}

func (c *compiler) meta(d []byte) {
	key := nfnl.Get(d, unix.NFTA_META_KEY).Uint32()
	if reg := nfnl.Get(d, unix.NFTA_META_DREG); reg.Type != 0 {
		c.store(reg.Uint32(), Load{From: FromMeta, Key: key, Len: metaLen(key)})
		return
	}
	if key == unix.NFT_META_MARK {
		c.rule.Marks = true
	}
	c.text = append(c.text, metaName(key)+" set")
}

func metaLen(key uint32) int {
	switch key {
	case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME, unix.NFT_META_BRI_IIFNAME, unix.NFT_META_BRI_OIFNAME:
		return 16
	case unix.NFT_META_PROTOCOL, unix.NFT_META_IIFTYPE, unix.NFT_META_OIFTYPE:
		return 2
	case unix.NFT_META_NFPROTO, unix.NFT_META_L4PROTO, unix.NFT_META_PKTTYPE:
		return 1
	}
	return 4
}

func (c *compiler) payload(d []byte) {
	reg := nfnl.Get(d, unix.NFTA_PAYLOAD_DREG)
	if reg.Type == 0 {
		c.text = append(c.text, "payload set")
		return
	}
	c.store(reg.Uint32(), Load{
		From:   FromPayload,
		Key:    nfnl.Get(d, unix.NFTA_PAYLOAD_BASE).Uint32(),
		Offset: int(nfnl.Get(d, unix.NFTA_PAYLOAD_OFFSET).Uint32()),
		Len:    int(nfnl.Get(d, unix.NFTA_PAYLOAD_LEN).Uint32()),
	})
}

func (c *compiler) conntrack(d []byte) {
	key := nfnl.Get(d, unix.NFTA_CT_KEY).Uint32()
	reg := nfnl.Get(d, unix.NFTA_CT_DREG)
	if reg.Type == 0 {
		c.text = append(c.text, "ct set")
		return
	}
	n := 4
	if key == ctDirection {
		n = 1
	}
	c.store(reg.Uint32(), Load{From: FromCT, Key: key, Len: n})
}

func (c *compiler) fib(d []byte) {
	l := Load{From: FromFIB, Key: nfnl.Get(d, unix.NFTA_FIB_RESULT).Uint32(), Flags: nfnl.Get(d, unix.NFTA_FIB_FLAGS).Uint32(), Len: 4}
	if l.Flags&unix.NFTA_FIB_F_PRESENT != 0 {
		l.Len = 1
	} else if l.Key == fibOIFName {
		l.Len = 16
	}
	c.store(nfnl.Get(d, unix.NFTA_FIB_DREG).Uint32(), l)
}

func (c *compiler) compare(d []byte) {
	cond := Condition{Op: Op(nfnl.Get(d, unix.NFTA_CMP_OP).Uint32()), Value: value(d, unix.NFTA_CMP_DATA)}
	c.condition(nfnl.Get(d, unix.NFTA_CMP_SREG).Uint32(), len(cond.Value), cond)
}

func (c *compiler) between(d []byte) {
	cond := Condition{Op: Between, Value: value(d, unix.NFTA_RANGE_FROM_DATA), Upper: value(d, unix.NFTA_RANGE_TO_DATA)}
	if nfnl.Get(d, unix.NFTA_RANGE_OP).Uint32() == unix.NFT_RANGE_NEQ {
		cond.Op = Outside
	}
	c.condition(nfnl.Get(d, unix.NFTA_RANGE_SREG).Uint32(), len(cond.Value), cond)
}

func value(d []byte, typ uint16) []byte {
	return nfnl.Get(nfnl.Get(d, typ).Value, unix.NFTA_DATA_VALUE).Value
}

// condition adds a condition on what a register holds; opaque when that isn't known, or an operation is not.
func (c *compiler) condition(reg uint32, n int, cond Condition) {
	loads, mask, ok := c.held(register(reg), n)
	if !ok || cond.Op >= Opaque || len(cond.Value) == 0 && cond.Set == nil {
		c.opaque("(…)")
		return
	}
	cond.Loads, cond.Mask = loads, mask
	c.rule.Conditions = append(c.rule.Conditions, cond)
	c.text = append(c.text, conditionText(c.family, cond))
}

// held are the loads whose results lie in n bytes from a register on.
func (c *compiler) held(reg uint32, n int) (loads []Load, mask []byte, ok bool) {
	for n > 0 {
		s, there := c.registers[reg]
		if !there || s.load.From == FromUnknown || s.load.Len <= 0 || mask != nil || s.mask != nil && len(loads) > 0 {
			return nil, nil, false
		}
		loads, mask = append(loads, s.load), s.mask
		reg += uint32(padded(s.load.Len) / 4)
		n -= padded(s.load.Len)
	}
	return loads, mask, len(loads) > 0
}

// bitwise keeps a mask; other operations make the register unknown.
func (c *compiler) bitwise(d []byte) {
	from, to := register(nfnl.Get(d, unix.NFTA_BITWISE_SREG).Uint32()), register(nfnl.Get(d, unix.NFTA_BITWISE_DREG).Uint32())
	s := c.registers[from]
	xor := value(d, unix.NFTA_BITWISE_XOR)
	if nfnl.Get(d, 6).Uint32() != 0 || s.mask != nil || strings.Trim(string(xor), "\x00") != "" { // NFTA_BITWISE_OP: shifts
		s = slot{load: Load{Len: 64}}
	}
	s.mask = value(d, unix.NFTA_BITWISE_MASK)
	c.registers[to] = s
}

func (c *compiler) lookup(d []byte) {
	s := c.set(nfnl.Get(d, unix.NFTA_LOOKUP_SET).String())
	if s == nil {
		c.opaque("(…)")
		return
	}
	n := 0
	for _, part := range s.Parts {
		n += part
		if len(s.Parts) > 1 {
			n = padded(n)
		}
	}
	reg := nfnl.Get(d, unix.NFTA_LOOKUP_SREG).Uint32()
	if dreg := nfnl.Get(d, unix.NFTA_LOOKUP_DREG); dreg.Type != 0 {
		c.mapped(s, reg, dreg.Uint32(), n)
		return
	}
	op := In
	if nfnl.Get(d, unix.NFTA_LOOKUP_FLAGS).Uint32()&unix.NFT_LOOKUP_F_INV != 0 {
		op = NotIn
	}
	c.condition(reg, n, Condition{Op: op, Set: s})
}

// mapped is a map of verdicts, or one of values: then the rule goes on only when there is one.
func (c *compiler) mapped(s *Set, from, to uint32, n int) {
	loads, mask, ok := c.held(register(from), n)
	if to == unix.NFT_REG_VERDICT {
		c.verdict(Verdict{Kind: Mapped, Map: s, Loads: loads}, fmt.Sprintf("%s vmap %s", loadsText(c.family, loads), setText(s)))
		if !ok || mask != nil {
			c.rule.Verdict = Verdict{Kind: Unknown}
		}
		return
	}
	c.condition(from, n, Condition{Op: In, Set: s})
	c.store(to, Load{Len: 64})
}

func (c *compiler) immediate(d []byte) {
	if nfnl.Get(d, unix.NFTA_IMMEDIATE_DREG).Uint32() != unix.NFT_REG_VERDICT {
		c.store(nfnl.Get(d, unix.NFTA_IMMEDIATE_DREG).Uint32(), Load{Len: 64})
		return
	}
	v := verdictOf(nfnl.Get(nfnl.Get(d, unix.NFTA_IMMEDIATE_DATA).Value, unix.NFTA_DATA_VERDICT).Value)
	c.verdict(v, v.text())
}

func verdictOf(d []byte) Verdict {
	target := nfnl.Get(d, unix.NFTA_VERDICT_CHAIN).String()
	switch code := int32(nfnl.Get(d, unix.NFTA_VERDICT_CODE).Uint32()); code {
	case nfDrop:
		return Verdict{Kind: Drop}
	case nfAccept:
		return Verdict{Kind: Accept}
	case unix.NFT_RETURN:
		return Verdict{Kind: Return}
	case unix.NFT_JUMP:
		return Verdict{Kind: Jump, Target: target}
	case unix.NFT_GOTO:
		return Verdict{Kind: Goto, Target: target}
	case unix.NFT_CONTINUE:
		return Verdict{}
	}
	return Verdict{Kind: Unknown}
}

// xtMatch is a match of iptables inside nf_tables.
func (c *compiler) xtMatch(d []byte) {
	m := match{
		Name:     nfnl.Get(d, 1).String(), // NFTA_MATCH_NAME, _REV, _INFO
		Revision: nfnl.Get(d, 2).Uint32(),
		Info:     nfnl.Get(d, 3).Value,
	}
	c.text = append(c.text, m.text())
	c.rule.Conditions = append(c.rule.Conditions, Condition{Op: XT, Match: m})
}

func (c *compiler) xtTarget(d []byte) {
	name := nfnl.Get(d, 1).String()
	v, marks := targetVerdict(name)
	c.rule.Marks = c.rule.Marks || marks
	c.rule.Translates = translates(name)
	c.verdict(v, "-j "+name)
}
