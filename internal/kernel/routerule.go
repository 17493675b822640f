package kernel

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// Of linux/fib_rules.h; golang.org/x/sys lacks them.
const (
	sizeofRuleMsg = 12 // sizeof(struct fib_rule_hdr)
	ruleInvert    = 2  // FIB_RULE_INVERT
)

// routeRule is a rule of policy routing as the kernel tells it, ours or not.
type routeRule struct {
	dataplane.RouteRule
	proto uint8
	plain bool // from one address to a table, and nothing more
}

func (r *routeRule) ours() bool { return r.plain && r.proto == dataplane.RouteProtocol }

// parseRouteRule reads an RTM_NEWRULE or RTM_DELRULE message. One of another family (multicast routing has rules too) is not ok.
func parseRouteRule(p []byte) (r routeRule, ok bool) {
	if len(p) < sizeofRuleMsg || p[0] != unix.AF_INET && p[0] != unix.AF_INET6 {
		return routeRule{}, false
	}
	r.Table = int(p[4])
	for typ, a := range netlink.Attrs(p[sizeofRuleMsg:]) {
		switch typ {
		case unix.FRA_SRC:
			r.From, _ = netip.AddrFromSlice(a)
		case unix.FRA_PRIORITY:
			r.Priority = int(a.Uint32())
		case unix.FRA_TABLE:
			r.Table = int(a.Uint32())
		case unix.FRA_PROTOCOL:
			r.proto = a.Uint8()
		}
	}
	r.plain = r.From.IsValid() && int(p[2]) == r.From.BitLen() && p[1] == 0 && p[7] == unix.FR_ACT_TO_TBL && p[8]&ruleInvert == 0
	return r, true
}

// encodeRouteRule appends a message. The kernel compares the protocol, in a deletion too: it never finds a rule that is not ours.
func encodeRouteRule(b *netlink.Batch, typ, flags uint16, r dataplane.RouteRule) {
	b.Begin(typ, flags)
	header := make([]byte, sizeofRuleMsg)
	header[0], header[2], header[7] = family(r.From), uint8(r.From.BitLen()), unix.FR_ACT_TO_TBL
	b.Raw(header)
	b.Bytes(unix.FRA_SRC, r.From.AsSlice())
	b.Uint32(unix.FRA_PRIORITY, uint32(r.Priority))
	b.Uint8(unix.FRA_PROTOCOL, dataplane.RouteProtocol)
	if r.Table != 0 {
		b.Uint32(unix.FRA_TABLE, uint32(r.Table))
	}
}

// dumpRouteRules yields the rules that are ours, in the order in which the kernel asks them.
func dumpRouteRules(c *netlink.Conn, restart func(), each func(dataplane.RouteRule)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	b.Raw(make([]byte, sizeofRuleMsg))
	return c.Dump(&b, restart, func(m netlink.Message) error {
		if r, ok := parseRouteRule(m.Data); ok && m.Type == unix.RTM_NEWRULE && r.ours() {
			each(r.RouteRule)
		}
		return nil
	})
}

// routeRules observes our rules. Of two that differ only in their table the kernel obeys the first.
func (o *observation) routeRules(c *netlink.Conn) error {
	var found []dataplane.Object
	seen := map[dataplane.Key]bool{}
	err := dumpRouteRules(c, func() { found = nil; clear(seen) }, func(r dataplane.RouteRule) {
		if !seen[r.Key()] {
			seen[r.Key()] = true
			found = append(found, r)
		}
	})
	o.others = append(o.others, found...)
	return err
}

// encodeRouteRule lets the old rule stand until the new one does: a new one comes after those of its priority.
func (j *job) encodeRouteRule(t *task, r dataplane.RouteRule) error {
	if t.Op == dataplane.Del {
		r.Table = 0 // any: it is none of the identity
		encodeRouteRule(&j.batch, unix.RTM_DELRULE, 0, r)
		return nil
	}
	encodeRouteRule(&j.batch, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r)
	stale, err := j.staleRules()
	for _, old := range stale[r.Key()] {
		if old != r {
			encodeRouteRule(&j.batch, unix.RTM_DELRULE, 0, old)
		}
	}
	return err
}

// staleRules are our rules before the job, by key.
func (j *job) staleRules() (map[dataplane.Key][]dataplane.RouteRule, error) {
	if j.rules != nil {
		return j.rules, nil
	}
	rules := map[dataplane.Key][]dataplane.RouteRule{}
	err := dumpRouteRules(j.space.conn, func() { clear(rules) }, func(r dataplane.RouteRule) {
		rules[r.Key()] = append(rules[r.Key()], r)
	})
	j.rules = rules
	return rules, err
}
