package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// owner is who made a rule, as far as names tell.
type owner string

const (
	docker     owner = "Docker"
	ufw        owner = "ufw"
	firewalld  owner = "firewalld"
	libvirt    owner = "libvirt"
	kubernetes owner = "Kubernetes"
	calico     owner = "Calico"
	nobody     owner = ""
)

// name is the owner in words.
func (o owner) name(h hit) string {
	if o == nobody {
		return fmt.Sprintf("%s, table %s %s chain %s", ownerUnknown, h.base.Family, h.base.Table, h.chain.Name)
	}
	return string(o)
}

// ownerOf tells by the name of a chain.
func ownerOf(chain string) owner {
	switch {
	case strings.HasPrefix(chain, "DOCKER"):
		return docker
	case strings.HasPrefix(chain, "ufw-"), strings.HasPrefix(chain, "ufw6-"):
		return ufw
	case strings.HasSuffix(chain, "_ZONES"), strings.HasSuffix(chain, "_direct"), strings.Contains(chain, "_ZONES_"):
		return firewalld
	case strings.HasPrefix(chain, "LIBVIRT_"):
		return libvirt
	case strings.HasPrefix(chain, "KUBE-"):
		return kubernetes
	case strings.HasPrefix(chain, "cali-"), strings.HasPrefix(chain, "cali:"):
		return calico
	}
	return nobody
}

func ownerOfTable(table string) owner {
	switch {
	case table == "firewalld":
		return firewalld
	case strings.HasPrefix(table, "docker"):
		return docker
	case strings.HasPrefix(table, "libvirt"):
		return libvirt
	case table == "calico":
		return calico
	case strings.HasPrefix(table, "kube"):
		return kubernetes
	}
	return nobody
}

// owner tells by the table, by the chains on the way to the rule, and for a policy by whose chains its base chain jumps to:
// Docker and ufw both set the policy of FORWARD.
func (w *walker) owner(h hit) owner {
	if o := ownerOfTable(h.base.Table); o != nobody {
		return o
	}
	for _, chain := range slices.Backward(h.path) {
		if o := ownerOf(chain); o != nobody {
			return o
		}
	}
	if h.rule != policyDrop && !isLastWord(h) {
		return nobody
	}
	jumped := map[owner]bool{}
	for _, r := range h.base.Rules {
		jumped[ownerOf(r.Verdict.Target)] = true
	}
	for _, o := range []owner{docker, ufw, firewalld} {
		if jumped[o] {
			return o
		}
	}
	return nobody
}

// isLastWord reports whether the rule ends its base chain, as firewalld's reject after its zones does.
func isLastWord(h hit) bool {
	last := len(h.base.Rules) - 1
	return h.chain == h.base && last >= 0 && h.base.Rules[last].Text == h.rule && len(h.base.Rules[last].Conditions) == 0
}

// fix is what lets packets of our link pass: at the place that the owner leaves to others, else before the rule in its base chain.
func (w *walker) fix(o owner, p Probe, h hit) string {
	switch {
	case o == docker && h.base.Hook == "forward" && w.chains[h.base.key("DOCKER-USER")] != nil:
		return insert(h.base, "DOCKER-USER", p)
	case o == ufw && h.base.Hook == "forward":
		return fmt.Sprintf("ufw route allow in on %[1]s\nufw route allow out on %[1]s", p.Link)
	case o == ufw && h.base.Hook == "input":
		return "ufw allow in on " + p.Link
	case o == ufw && h.base.Hook == "output":
		return "ufw allow out on " + p.Link
	case o == firewalld:
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s\nfirewall-cmd --reload", p.Link)
	}
	return insert(h.base, h.base.Name, p)
}

// insert writes commands that accept our packets at the beginning of a chain.
func insert(base *Chain, chain string, p Probe) string {
	var lines []string
	for _, match := range selectors(base, p) {
		lines = append(lines, insertion(base, chain, match))
	}
	return strings.Join(lines, "\n")
}

// selector tells our packets at a hook.
type selector struct {
	in, out  string
	src, dst netip.Addr
}

// selectors: a hook before routing does not know where packets go to.
func selectors(base *Chain, p Probe) []selector {
	in, out := selector{in: p.Link}, selector{out: p.Link}
	if base.Family == "bridge" {
		return []selector{{in: "fv*"}} // the host ends of all workloads
	}
	switch base.Hook {
	case "forward":
		return []selector{in, out}
	case "prerouting", "ingress", "input":
		if p.In != p.Link && p.Way != Bridged {
			k, _ := p.at(base, Ruleset{})
			return []selector{{in: p.In, dst: k.dst}}
		}
		return []selector{in}
	}
	if p.Out != p.Link && p.Way != Bridged {
		return []selector{{out: p.Out, src: p.Src}}
	}
	return []selector{out}
}

func insertion(base *Chain, chain string, s selector) string {
	if command := iptables(base); command != "" {
		return command + " -I " + chain + s.iptables() + " -j ACCEPT"
	}
	return fmt.Sprintf("nft 'insert rule %s %s %s%s accept'", base.Family, base.Table, chain, s.nft())
}

// iptables is the command that owns the chain's table; empty when it is nft's.
func iptables(base *Chain) string {
	command, known := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[base.Family]
	isBuiltin := slices.Contains([]string{"filter", "nat", "mangle", "raw", "security"}, base.Table) && base.Name == strings.ToUpper(base.Hook)
	if !known || !isBuiltin {
		return ""
	}
	if base.Legacy {
		command += "-legacy"
	}
	if base.Table != "filter" {
		command += " -t " + base.Table
	}
	return command
}

func (s selector) iptables() string {
	words := ""
	if s.in != "" {
		words += " -i " + s.in
	}
	if s.out != "" {
		words += " -o " + s.out
	}
	if s.src.IsValid() {
		words += " -s " + s.src.String()
	}
	if s.dst.IsValid() {
		words += " -d " + s.dst.String()
	}
	return words
}

func (s selector) nft() string {
	words := ""
	if s.in != "" {
		words += fmt.Sprintf(" iifname %q", s.in)
	}
	if s.out != "" {
		words += fmt.Sprintf(" oifname %q", s.out)
	}
	if s.src.IsValid() {
		words += " " + addrFamily(s.src) + " saddr " + s.src.String()
	}
	if s.dst.IsValid() {
		words += " " + addrFamily(s.dst) + " daddr " + s.dst.String()
	}
	return words
}

func addrFamily(a netip.Addr) string {
	if a.Is6() {
		return "ip6"
	}
	return "ip"
}
